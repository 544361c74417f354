"""A kernel of a distribution, booted in software with this project's code as its only program."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

from tests.support.daemon import ROOT

KERNELS = ROOT / ".cache" / "kernels"
GUEST = Path(__file__).with_name("guest.py")
_LIMIT_S = 300
_NOT_NEEDED = {
    *("__pycache__", "config-3.11-x86_64-linux-gnu", "distutils", "ensurepip", "idlelib", "lib2to3"),
    *("pydoc_data", "site-packages", "dist-packages", "sqlite3", "test", "tkinter", "turtledemo", "unittest"),
}
_NO_SUCH_LIBRARIES = re.compile(
    r"_(ssl|hashlib|sqlite3|tkinter|curses|curses_panel|dbm|gdbm|lzma|bz2|test\w*)\."
)


def why_not() -> str | None:
    """Why no kernel can be booted here; None when one can."""
    if shutil.which("qemu-system-x86_64") is None:
        return "qemu-system-x86_64 is not installed (package qemu-system-x86)"
    if sysconfig.get_platform() != "linux-x86_64":
        return f"the kernels are for x86-64, and this is {sysconfig.get_platform()}"
    return None


def kernel(version: str) -> Path | None:
    """The kernel image of this version; None when it cannot be downloaded."""
    pattern = f"vmlinuz-{version}.*"
    if not any(KERNELS.glob(pattern)):
        _fetch()
    return max(KERNELS.glob(pattern), default=None)


@cache
def _fetch() -> None:
    """Download what is missing; once, whatever comes of it."""
    script = Path(__file__).with_name("fetch_kernels.sh")
    with suppress(subprocess.TimeoutExpired):
        subprocess.run([str(script), str(KERNELS)], capture_output=True, check=False, timeout=_LIMIT_S)


def boot(
    image: Path, initramfs: Path, scratch: Path, *, memory_mb: int = 1024, limit_s: float = _LIMIT_S
) -> dict[str, dict[str, Any]]:
    """What the guest says of each trial. Raises AssertionError, with the console, when it does not end."""
    said = scratch / "said"
    command = [
        *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"),
        *("-m", str(memory_mb)),
        *("-display", "none", "-no-reboot", "-nic", "none", "-monitor", "none"),
        *("-serial", "stdio", "-serial", f"file:{said}"),
        *("-kernel", str(image), "-initrd", str(initramfs)),
        *("-append", "console=ttyS0 quiet panic=-1 mitigations=off rdinit=/init"),
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=limit_s, check=False
        )
        console = done.stdout + done.stderr
    except subprocess.TimeoutExpired as late:
        console = (late.stdout or b"") + (late.stderr or b"")
    lines = [json.loads(line) for line in said.read_text("utf-8", "replace").splitlines() if line.strip()]
    trials = {line.pop("trial"): line for line in lines}
    assert "end" in trials, console.decode("utf-8", "replace")[-3000:]
    return trials


def make_initramfs(at: Path) -> None:
    """Python, its standard library, this project's probes, and `guest.py` as the first process."""
    python = Path(sys.executable).resolve()
    with gzip.open(at, "wb", compresslevel=1) as archive:
        made: set[Path] = set()

        def put(path: Path, content: bytes, mode: int) -> None:
            for parent in reversed(path.parents[:-1]):
                if parent not in made:
                    made.add(parent)
                    archive.write(_entry(parent, b"", stat.S_IFDIR | 0o755, len(made)))
            made.add(path)
            archive.write(_entry(path, content, stat.S_IFREG | mode, len(made)))

        put(Path("/init"), f"#!{python} -B\n".encode() + GUEST.read_bytes(), 0o755)
        needed = {python, *_standard_library()}
        for binary in [path for path in needed if path.suffix == ".so" or path == python]:
            needed |= _libraries(binary)
        for path in sorted(needed):
            compiled = Path(cache_from_source(str(path))) if path.suffix == ".py" else path
            if path.suffix == ".py" and compiled.exists():
                put(path.with_suffix(".pyc"), compiled.read_bytes(), 0o644)
            else:
                put(path, path.read_bytes(), 0o755)
        calls = ROOT / "tests" / "support" / "driver_calls.py"
        for path in [*sorted((ROOT / "probes").rglob("*")), calls]:
            if path.suffix in {".py", ".o"}:
                put(Path("/project") / path.relative_to(ROOT), path.read_bytes(), 0o644)
        archive.write(_entry(Path("/TRAILER!!!"), b"", 0, 0))


def _standard_library() -> Iterator[Path]:
    library = Path(sysconfig.get_path("stdlib"))
    for path in library.rglob("*"):
        parts = path.relative_to(library).parts
        is_code = path.suffix in {".py", ".so"} and path.is_file()
        if is_code and not _NOT_NEEDED & set(parts) and not _NO_SUCH_LIBRARIES.match(path.name):
            yield path


def _libraries(binary: Path) -> set[Path]:
    done = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, check=False)
    return {Path(found) for found in re.findall(r"(/\S+) \(0x", done.stdout)}


def _entry(path: Path, content: bytes, mode: int, number: int) -> bytes:
    """One file of a cpio archive in the format `newc`: initramfs-buffer-format.rst in the kernel's docs."""
    name = str(path).lstrip("/").encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return _padded(head) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
