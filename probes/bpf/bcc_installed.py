"""Where a Python package named `bcc` lies, and which Python it is installed for.

The BPF Compiler Collection comes with the distribution, for the Python of the system; PyPI's `bcc` is
another thing that found the same name. Which of the two a directory holds is known only by importing
it, and that is left to the process that compiles.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

HOW_TO_INSTALL = (
    "install the distribution's package (Debian, Ubuntu: python3-bpfcc; Fedora, SUSE: python3-bcc; Arch: "
    "python-bcc; Alpine: py3-bcc), or use --ebpf-loader native, which needs none"
)
_ROOT = Path("/")
_SYSTEM = (
    "usr/lib/python3/dist-packages",  # Debian, Ubuntu
    "usr/lib/python3.*/site-packages",  # Fedora, Arch, Alpine
    "usr/lib64/python3.*/site-packages",  # SUSE
    "usr/local/lib/python3*/dist-packages",  # built from source
    "usr/local/lib/python3*/site-packages",
)


@dataclass(frozen=True, slots=True)
class Installation:
    """A package named `bcc`, whichever it is."""

    directory: Path
    """That holds the package: `/usr/lib/python3/dist-packages`."""
    python: Path
    """The interpreter to import it with."""


def installations(root: Path = _ROOT, own_path: Iterable[str] | None = None) -> tuple[Installation, ...]:
    """Every package named `bcc`, those of the system first.

    `own_path` stands in for `sys.path`: where this interpreter's packages lie.
    """
    found: dict[Path, Installation] = {}
    for directory in _directories(root, sys.path if own_path is None else own_path):
        if (directory / "bcc" / "__init__.py").is_file():
            found.setdefault(directory, Installation(directory, _python_of(directory, root)))
    return tuple(found.values())


def _directories(root: Path, own_path: Iterable[str]) -> Iterator[Path]:
    for pattern in _SYSTEM:
        yield from sorted(root.glob(pattern), reverse=True)
    yield from (Path(entry) for entry in own_path if entry)


def _python_of(directory: Path, root: Path) -> Path:
    """The system's interpreter for a directory of the system; else the one that runs this."""
    version = re.search(r"/(python3[.\d]*)/", f"{directory}/")
    if version is not None and directory.is_relative_to(root / "usr"):
        for place in (root / "usr/bin", root / "usr/local/bin"):
            if (place / version[1]).is_file():
                return place / version[1]
    return Path(sys.executable)
