"""Assistants that are installed on this machine take the documented commands and reach the daemon.

They run with a home directory of their own: nobody's configuration is read or changed.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.cells import Transport
from tests.clients.place import Place, daemon_of_this_machine
from tests.clients.test_documents import FAR, commands, environment, places, with_our_address

__all__ = ["places"]
HOST_DEADLINE_S = 120.0


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty home directory to start a host in."""
    (tmp_path / ".codex").mkdir()
    return tmp_path


def run(command: list[str], home: Path, place: Place) -> str:
    """What a host prints."""
    quiet = {
        "DISABLE_TELEMETRY": "1",
        "DISABLE_AUTOUPDATER": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    found = environment(place)
    environ = {name: found[name] for name in ("PATH", "XDG_RUNTIME_DIR")} | quiet
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=home,
        env=environ | {"HOME": str(home), "CODEX_HOME": str(home / ".codex")},
        timeout=HOST_DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def near(program: str) -> list[str]:
    """The commands that add a server on this machine."""
    found = dict.fromkeys(command for command in commands(program) if " mcp add " in command)
    return [command for command in found if not set(shlex.split(command)) & set(FAR)]


@pytest.mark.parametrize("command", near("claude"))
def test_claude_code_connects(command: str, home: Path, places: Callable[[Transport], Place]) -> None:
    if shutil.which("claude") is None:
        pytest.skip("Claude Code is not installed")
    if "stdio" in command and (other := daemon_of_this_machine()) is not None:
        pytest.skip(f"{other} exists and would be tried first")
    place = places(Transport.HTTP)
    run(shlex.split(with_our_address(command, place)), home, place)
    listed = run(["claude", "mcp", "list"], home, place)
    assert "Connected" in listed, listed


@pytest.mark.parametrize("command", near("codex"))
def test_codex_takes_the_server(command: str, home: Path, places: Callable[[Transport], Place]) -> None:
    if shutil.which("codex") is None:
        pytest.skip("Codex is not installed")
    place = places(Transport.HTTP)
    run(shlex.split(with_our_address(command, place)), home, place)
    assert with_our_address("http://127.0.0.1:8080/mcp", place) in run(["codex", "mcp", "list"], home, place)
