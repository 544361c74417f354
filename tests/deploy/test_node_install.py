"""The installations that docs/node.md tells, run as they stand there, into a folder of the test's."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.daemon import ROOT, clean_environment
from xidwatch.version import VERSION

pytestmark = pytest.mark.slow

DOCUMENT = ROOT / "docs" / "node.md"
_SYSTEM_PLACES = ("/usr/local/bin", "/opt", "/etc")
_SOURCES = ("xidwatch", "mcp_server", "daemon", "probes", "deploy")
_FILES = ("pyproject.toml", "requirements.lock", "README.md", "LICENSE")
_PIPX_PLACES = {
    "PIPX_GLOBAL_HOME": "opt/pipx",
    "PIPX_GLOBAL_BIN_DIR": "usr/local/bin",
    "PIPX_GLOBAL_MAN_DIR": "usr/local/share/man",
}


def commands(section: str) -> list[list[str]]:
    """The commands of each block of a section of the document, one list a block."""
    _, _, text = DOCUMENT.read_text().partition(f"\n## {section}\n")
    text = text.partition("\n## ")[0]
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return [[line.removeprefix("$ ") for line in block.splitlines()] for block in blocks]


def installation(word: str) -> list[str]:
    """The block of commands that has this word."""
    (block,) = [block for block in commands("Install") if any(word in line for line in block)]
    return block


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pipx and uv in it."""
    place = tmp_path_factory.mktemp("tools")
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    pip = [str(place / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", "pipx>=1.5", "uv"]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"pipx and uv cannot be had: {done.stderr.strip().splitlines()[-1]}")
    return place / "bin"


class Node:
    """A folder in the place of a node's root. Its checkout is a copy: nothing is built in ours."""

    def __init__(self, root: Path, environ: Mapping[str, str]) -> None:
        self.root = root
        self.checkout = root / "checkout"
        self._environ = environ
        self.checkout.mkdir()
        for name in _SOURCES:
            shutil.copytree(ROOT / name, self.checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in _FILES:
            shutil.copy(ROOT / name, self.checkout)

    def run(self, command: str) -> str:
        """What a command of the document prints, here instead of in the system's places. It must succeed."""
        here = command.removeprefix("sudo ")
        for place in _SYSTEM_PLACES:
            here = re.sub(rf"(?<![\w/.]){place}\b", f"{self.root}{place}", here)
        words = shlex.split(here)
        # The interpreter that runs the tests: the system's may be too old.
        words = [sys.executable if word in ("python3", "/usr/bin/python3") else word for word in words]
        done = subprocess.run(
            words, cwd=self.checkout, env=self._environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def installed(self) -> str:
        """What the installed command says of its version."""
        return self.run("/usr/local/bin/xidwatch version")


@pytest.fixture
def node(tmp_path: Path, tools: Path) -> Node:
    environ = clean_environment()
    for name in ("PYTHONPATH", "VIRTUAL_ENV"):
        environ.pop(name, None)
    environ |= {name: str(tmp_path / place) for name, place in _PIPX_PLACES.items()}
    environ |= {"HOME": str(tmp_path / "home"), "PATH": f"{tools}:{os.environ['PATH']}"}
    (tmp_path / "usr/local/bin").mkdir(parents=True)
    return Node(tmp_path, environ)


@pytest.mark.parametrize("way", ["pipx", "uv tool", "pip install"])
def test_the_command_is_there_after_the_installation_of_the_document(node: Node, way: str) -> None:
    for command in installation(way):
        node.run(command)
    assert VERSION in node.installed()


@pytest.mark.parametrize("way", ["pipx", "uv tool"])
def test_an_upgrade_takes_the_place_of_what_is_installed(node: Node, way: str) -> None:
    (command,) = installation(way)
    node.run(command)
    version = node.checkout / "xidwatch" / "version.py"
    version.write_text(version.read_text().replace(f'"{VERSION}"', '"99.0"'))
    node.run(command.replace(" install", " install --force"))
    assert "99.0" in node.installed()


def test_the_files_of_the_service_end_up_where_the_unit_looks(node: Node) -> None:
    files = [line for line in commands("Run as a service")[0] if line.startswith("sudo install")]
    assert len(files) == 3
    (node.root / "etc/systemd/system").mkdir(parents=True)
    for command in files:
        node.run(command.replace("-g xidwatch ", ""))
    assert (node.root / "etc/xidwatch/config.toml").stat().st_mode & 0o777 == 0o640
    assert (node.root / "etc/systemd/system/xidwatch.service").is_file()
    assert (node.root / "etc/sysusers.d/xidwatch.conf").is_file()
