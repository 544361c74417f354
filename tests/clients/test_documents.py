"""What docs/clients.md and the README say about clients works: every block is run against a daemon.

A configuration is read the way its host reads it, and a client of ours connects with what it says.
Commands of curl and of the Inspector run as they stand, programs too; of a command that adds a
server to a host, the server is connected to. Only addresses are put in place: the daemon of a test
has a port and a socket of its own.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.clients import installed
from tests.clients.cells import Cell, Client, Era, Transport
from tests.clients.place import Place, daemon_of_this_machine, one_daemon
from tests.clients.sdk import argument, command_of
from tests.clients.talker import Talker, output_of
from tests.support.daemon import ROOT, clean_environment
from tests.support.installed import UnavailableError
from tests.support.waiting import wait_for

DOCUMENTS = (ROOT / "docs" / "clients.md", ROOT / "README.md")
ADDRESS = "http://127.0.0.1:8080"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ (.*\n(?:^    .*\n)*)", re.MULTILINE)
"""A command, with the indented lines on which it goes on."""
FAR = ("ssh", "kubectl")
"""Programs that need another machine."""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a document."""

    document: str
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}-{self.language}-{self.text.strip().splitlines()[0][:60]}"


def blocks(*languages: str) -> list[Block]:
    """The blocks in these languages."""
    return [
        Block(document.name, language, text)
        for document in DOCUMENTS
        for language, text in BLOCK.findall(document.read_text(encoding="utf-8"))
        if language in languages
    ]


def commands(*programs: str) -> list[str]:
    """The commands in console blocks that run one of these programs, continuation lines joined."""
    return [
        command.strip()
        for block in blocks("console")
        for command in COMMAND.findall(block.text)
        if command.split()[0] in programs
    ]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Transport], Place]]:
    """A running daemon whose socket is also at the default path of this user."""
    directory = tmp_path_factory.mktemp("d")
    with one_daemon(directory) as place:
        (directory / "xidwatch").mkdir()
        (directory / "xidwatch" / "mcp.sock").symlink_to(directory / "s")
        yield place


def with_our_address(text: str, place: Place) -> str:
    assert place.daemon is not None
    return text.replace(ADDRESS, place.daemon.url)


def servers_in(block: Block) -> dict[str, Any]:
    """The servers that a configuration names, whatever its host calls the list."""
    loaded = tomllib.loads(block.text) if block.language == "toml" else json.loads(block.text)
    (servers,) = (loaded[key] for key in ("mcpServers", "servers", "mcp_servers") if key in loaded)
    assert isinstance(servers, dict)
    return servers


def connect(place: Place, server: dict[str, Any]) -> None:
    """Connect to a server as a host does that was configured so, and call a tool."""
    assert place.daemon is not None
    if "url" in server:
        assert server.get("type", "http") == "http"
        there = Place(Transport.HTTP, place.log, with_our_address(server["url"], place), daemon=place.daemon)
    else:
        if (other := daemon_of_this_machine()) is not None:
            pytest.skip(f"{other} exists and would be tried first")
        words = [server["command"], *server.get("args", [])]
        assert words[0] == "xidwatch"
        there = Place(Transport.RELAY, place.log, None, words, environment(place), place.daemon)
    cell = Cell(Client.PYTHON_2, there.transport, Era.LEGACY)
    with Talker([*command_of(cell.client), argument(cell, there, None)]) as client:
        assert "events" in client.told("called")["called"]


def environment(place: Place) -> dict[str, str]:
    """Where `xidwatch` is found, and the daemon's socket by it."""
    assert place.daemon is not None
    programs = str(Path(sys.executable).parent)
    return clean_environment() | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "XDG_RUNTIME_DIR": str(place.daemon.socket.parent),
    }


@pytest.mark.parametrize("block", blocks("json", "toml"), ids=str)
def test_a_host_configured_so_reaches_the_daemon(block: Block, places: Callable[[Transport], Place]) -> None:
    for name, server in servers_in(block).items():
        assert name == "xidwatch"
        connect(places(Transport.HTTP), server)


@pytest.mark.parametrize("command", commands("claude", "codex"))
def test_a_server_added_to_a_host_by_command_is_reached(
    command: str, places: Callable[[Transport], Place]
) -> None:
    words = shlex.split(command)
    if words[1].startswith("--"):
        assert words[1:] == ["--dangerously-load-development-channels", "server:xidwatch"]
        return  # starts the host with a server that a block above it configures
    assert words[1:3] == ["mcp", "add"]
    if "--" in words:
        server = words[words.index("--") + 1 :]
        if server[0] in FAR:
            assert server[-2:] == ["xidwatch", "stdio"]
            server = server[-2:]  # what runs on the other machine
        connect(places(Transport.RELAY), {"command": server[0], "args": server[1:]})
    else:
        (url,) = (word for word in words if word.startswith("http://"))
        connect(places(Transport.HTTP), {"url": url})


@pytest.mark.parametrize("command", commands("curl"))
def test_a_curl_command_shows_events(command: str, places: Callable[[Transport], Place]) -> None:
    place = places(Transport.HTTP)
    event = place.stored_fault()
    shell = ["bash", "-c", with_our_address(command, place)]
    if " -sN" in command or " -N" in command:
        with Talker(shell, cut=True) as curl:
            while str(event["cursor"]) not in (line := curl.line()) or not line.startswith("data: {"):
                pass
    else:
        assert str(event["cursor"]) in output_of(shell)


@pytest.mark.parametrize("command", commands("npx"))
def test_an_inspector_command_works(command: str, places: Callable[[Transport], Place]) -> None:
    words = shlex.split(with_our_address(command, places(Transport.HTTP)))
    assert words[:2] == ["npx", "@modelcontextprotocol/inspector"]
    inspector = tools().command("@modelcontextprotocol/inspector", "clients/launcher/build/index.js")
    shown = output_of([*inspector, *words[2:]])
    assert ("next_cursor" if "tools/call" in words else "get_xid_events") in shown


@pytest.mark.parametrize("block", blocks("python", "typescript"), ids=str)
def test_an_agent_of_ones_own_prints_the_fault_that_happens_while_it_runs(
    block: Block, places: Callable[[Transport], Place], tmp_path: Path
) -> None:
    place = places(Transport.HTTP)
    with agent(block, place, tmp_path) as running:
        # The first faults may come before the agent looks.
        wait_for(lambda: running.has_said or not place.fault(), "the agent to print", pause_s=0.2)
        severity, code, *summary = running.line().split()
    assert (severity, code) == ("critical", "48")
    assert summary


@contextmanager
def agent(block: Block, place: Place, directory: Path) -> Iterator[Talker]:
    """A program of the document, running."""
    text = with_our_address(block.text, place)
    if block.language == "typescript":
        node = tools()
        command = [
            str(node.node),
            "--disable-warning=ExperimentalWarning",
            str(node.script("agent.ts", text)),
        ]
    else:
        program = directory / "agent.py"
        program.write_text(text, encoding="utf-8")
        command = [sys.executable, str(program)]
    with Talker(command, cut=True) as running:
        yield running


def tools() -> installed.NodeTools:
    try:
        return installed.node_tools()
    except UnavailableError as error:
        pytest.skip(str(error))


def test_the_documents_show_something_of_everything() -> None:
    assert len(commands("claude")) >= 5
    assert commands("codex")
    assert commands("curl")
    assert commands("npx")
    assert {block.language for block in blocks("json", "toml", "python", "typescript")} == {
        "json",
        "toml",
        "python",
        "typescript",
    }
