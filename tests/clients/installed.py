"""Foreign clients, installed once a machine into `.cache/clients/`, from lock files.

Each installation is made beside its final place and moved there when it is complete, under a name
that holds the hash of its lock file: what exists is whole, and a changed lock is installed anew.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.daemon import ROOT

HERE = Path(__file__).parent
CACHE = ROOT / ".cache" / "clients"
INSTALL_DEADLINE_S = 600.0


class UnavailableError(Exception):
    """What a client needs cannot be had here; the text is the reason."""


@dataclass(frozen=True, slots=True)
class NodeTools:
    """Node and the packages of `npm/package.json`."""

    directory: Path
    """Where `node_modules` lies; a program in it finds the packages."""
    node: Path

    def command(self, package: str, script: str) -> list[str]:
        """The command that runs a script of an installed package."""
        return [str(self.node), str(self.directory / "node_modules" / package / script)]

    def program(self, source: Path) -> list[str]:
        """The command that runs a program of ours, put where it finds the packages."""
        return [str(self.node), str(self.script(source.name, source.read_text(encoding="utf-8")))]

    def script(self, name: str, text: str) -> Path:
        """A script of this text, put where it finds the packages."""
        path = self.directory / name
        fresh = path.with_name(f".{os.getpid()}.{name}")
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
        return path


def node_tools() -> NodeTools:
    """Node 22 and the packages of the npm lock file. Raises UnavailableError."""
    found = _node_tools()
    if isinstance(found, UnavailableError):
        raise found
    return found


def python_1x() -> Path:
    """A Python with version 1 of the MCP SDK. Raises UnavailableError."""
    found = _python_1x()
    if isinstance(found, UnavailableError):
        raise found
    return found


@functools.cache
def _node_tools() -> NodeTools | UnavailableError:
    try:
        return _install_node_tools()
    except UnavailableError as error:
        return error  # kept too: what failed once is not tried again for every test


@functools.cache
def _python_1x() -> Path | UnavailableError:
    try:
        return _install_python_1x()
    except UnavailableError as error:
        return error


def _install_node_tools() -> NodeTools:
    source = HERE / "npm"

    def install(place: Path) -> None:
        npm = shutil.which("npm")
        if npm is None:
            raise UnavailableError("npm is not installed")
        for name in ("package.json", "package-lock.json"):
            shutil.copy(source / name, place)
        _run(
            [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retry-mintimeout=1000"], place
        )

    directory = _installed("npm", source / "package-lock.json", install)
    node = directory / "node_modules" / ".bin" / "node"
    if not node.exists():
        raise UnavailableError(f"there is no npm package of Node for {sysconfig.get_platform()}")
    return NodeTools(directory, node)


def _install_python_1x() -> Path:
    lock = HERE / "requirements-1.x.lock"

    def install(place: Path) -> None:
        _run([sys.executable, "-m", "venv", str(place / "venv")], place)
        pip = [
            str(place / "venv/bin/python"),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]
        _run([*pip, "--require-hashes", "-r", str(lock)], place)

    return _installed("python-1.x", lock, install) / "venv/bin/python"


def _installed(name: str, lock: Path, install: Callable[[Path], None]) -> Path:
    """The directory that `install` filled, now or earlier."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}-{sysconfig.get_platform()}"
    digest = hashlib.sha256(lock.read_bytes() + version.encode()).hexdigest()[:12]
    place = CACHE / f"{name}-{digest}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(CACHE / f"{name}.lock"):
        if not place.exists():
            fresh = CACHE / f"{name}-{digest}.new"
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


def _run(command: Sequence[str], place: Path) -> None:
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
