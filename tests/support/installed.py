"""What tests use beyond this project, installed once a machine into `.cache/`, from lock files.

Each installation is made beside its final place and moved there when it is complete, under a name
that holds the hash of its lock file: what exists is whole, and a changed lock is installed anew.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tests.support.daemon import ROOT

CACHE = ROOT / ".cache"
INSTALL_DEADLINE_S = 600.0

T = TypeVar("T")


class UnavailableError(Exception):
    """What a test needs cannot be had here; the text is the reason."""


def once(install: Callable[[], T]) -> Callable[[], T]:
    """Installs at the first call. A refusal is kept too: what failed once is not tried for every test."""

    @functools.cache
    def attempt() -> T | UnavailableError:
        try:
            return install()
        except UnavailableError as error:
            return error

    @functools.wraps(install)
    def answer() -> T:
        found = attempt()
        if isinstance(found, UnavailableError):
            raise found
        return found

    return answer


def installed(name: str, lock: Path, install: Callable[[Path], None]) -> Path:
    """The directory that `install` filled, now or earlier; `name` is a path below `.cache/`. Raises what
    `install` raises."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}-{sysconfig.get_platform()}"
    digest = hashlib.sha256(lock.read_bytes() + version.encode()).hexdigest()[:12]
    place = CACHE / f"{name}-{digest}"
    place.parent.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(CACHE / f"{name}.lock"):
        if not place.exists():
            fresh = place.with_name(f"{place.name}.new")
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
            install(fresh)
            fresh.rename(place)
    return place


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run(command: Sequence[str], place: Path) -> None:
    """Run one step of an installation in `place`. Raises UnavailableError with its last words."""
    what = " ".join(Path(word).name for word in command[:4])
    try:
        done = subprocess.run(
            command, cwd=place, capture_output=True, text=True, timeout=INSTALL_DEADLINE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{what}: {error}") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise UnavailableError(f"{what} failed: {said[-1] if said else f'exit code {done.returncode}'}")


def pip(words: Sequence[str], place: Path, *, python: str = sys.executable) -> None:
    """Run one command of pip in `place`. Raises UnavailableError."""
    run([python, "-m", "pip", *words, "--quiet", "--disable-pip-version-check"], place)
