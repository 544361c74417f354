"""Foreign clients, installed once a machine from lock files."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from tests.support.installed import UnavailableError, installed, once, pip, run

HERE = Path(__file__).parent


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


@once
def node_tools() -> NodeTools:
    """Node 22 and the packages of the npm lock file. Raises UnavailableError."""
    source = HERE / "npm"

    def install(place: Path) -> None:
        npm = shutil.which("npm")
        if npm is None:
            raise UnavailableError("npm is not installed")
        for name in ("package.json", "package-lock.json"):
            shutil.copy(source / name, place)
        run(
            [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retry-mintimeout=1000"], place
        )

    directory = installed("clients/npm", source / "package-lock.json", install)
    node = directory / "node_modules" / ".bin" / "node"
    if not node.exists():
        raise UnavailableError(f"there is no npm package of Node for {sysconfig.get_platform()}")
    return NodeTools(directory, node)


@once
def python_1x() -> Path:
    """A Python with version 1 of the MCP SDK. Raises UnavailableError."""
    lock = HERE / "requirements-1.x.lock"

    def install(place: Path) -> None:
        run([sys.executable, "-m", "venv", str(place / "venv")], place)
        python = str(place / "venv/bin/python")
        pip(["install", "--require-hashes", "-r", str(lock)], place, python=python)

    return installed("clients/python-1.x", lock, install) / "venv/bin/python"
