"""Questions that make no sense, on every path: refused in one sentence; the daemon answers on."""

from __future__ import annotations

import asyncio
import json
import socket
from urllib.parse import quote

import pytest
from mcp import Client
from mcp_types import CallToolResult, TextContent

from tests.support.bad_input import is_one_sentence
from tests.support.command import xidwatch
from tests.support.daemon import Daemon
from tests.support.fault_lab import Happened, fault
from tests.support.waiting import DEADLINE_S

FUTURE = 10**15


@pytest.fixture
def daemon(surviving_daemon: Daemon) -> Daemon:
    """Under the name it has in every test here."""
    return surviving_daemon


NONSENSE = {
    "cursor-from-the-future": ("since", str(FUTURE), "newest"),
    "cursor-of-words": ("since", "yesterday-ish", "yesterday-ish"),
    "negative-cursor": ("since", "-1", "-1"),
    "endless-cursor": ("since", "9" * 500, "999"),
    "cursor-beyond-printing": ("since", "9" * 5000, ""),
    "severity": ("severity", "dreadful", "fatal"),
    "code": ("code", "seventy-nine", "seventy-nine"),
    "kind": ("kind", "ecc", "sxid"),
    "gpu": ("gpu", "the left one", "the left one"),
    "terminal-escape": ("kind", "\x1b[2J", "x1b"),
}
BAD_QUESTIONS = [pytest.param(*question, id=name) for name, question in NONSENSE.items()]


@pytest.mark.parametrize("path", ["/events", "/events.json"])
@pytest.mark.parametrize(("name", "value", "says"), BAD_QUESTIONS)
def test_a_question_of_nonsense_over_http_is_refused(
    daemon: Daemon, path: str, name: str, value: str, says: str
) -> None:
    status, body = daemon.get(f"{path}?{name}={quote(value)}")
    assert status == 400
    error = json.loads(body)
    assert says in f"{error['error']} {error['hint']}"
    assert len(error["error"]) < 300
    assert error["error"].isprintable()


@pytest.mark.parametrize(("name", "value", "says"), BAD_QUESTIONS)
def test_a_question_of_nonsense_on_the_command_line_is_refused(
    daemon: Daemon, name: str, value: str, says: str
) -> None:
    result = xidwatch("tail", f"--{name}={value}", "--socket", str(daemon.socket))
    is_one_sentence(result)
    assert says in result.err
    assert result.err.replace("\n", "").isprintable()


@pytest.mark.parametrize("era", ["legacy", "2026-07-28"])
@fault(
    "questions over MCP that make no sense: cursors from the future, unknown names, endless numbers",
    promise=4,
    promised="refused in one sentence; the daemon answers on",
)
def test_questions_of_nonsense_over_mcp_are_tool_errors(daemon: Daemon, era: str, happened: Happened) -> None:
    async def ask() -> list[tuple[str, str, CallToolResult]]:
        answers = []
        async with asyncio.timeout(DEADLINE_S), Client(f"{daemon.url}/mcp", mode=era) as client:
            for name, value, says in NONSENSE.values():
                for tool in ("get_xid_events", "wait_for_xid"):
                    answer = await client.call_tool(tool, {name: value})
                    assert isinstance(answer, CallToolResult)
                    answers.append((tool, says, answer))
        return answers

    answers = asyncio.run(ask())
    for tool, says, answer in answers:
        assert answer.is_error, (tool, says)
        [only] = answer.content
        assert isinstance(only, TextContent)
        assert "Traceback" not in only.text
        assert len(only.text) < 500
    happened(f"{era}: all {len(answers)} were refused in words, and the next fault was told")


def test_a_resuming_reader_with_a_cursor_from_the_future_is_refused(daemon: Daemon) -> None:
    connection = socket.create_connection(("127.0.0.1", daemon.port), timeout=DEADLINE_S)
    with connection, connection.makefile("rb") as answer:
        request = f"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\nLast-Event-ID: {FUTURE}\r\n\r\n"
        connection.sendall(request.encode())
        assert b" 400 " in answer.readline()


@pytest.mark.parametrize(
    "rubbish", [b"\0" * 100_000, b"{" * 100_000, b"\xff\n", b"[]\n", b'{"xidwatch": 7}\n']
)
def test_rubbish_on_the_socket_is_answered_or_hung_up_on(daemon: Daemon, rubbish: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE_S)
        connection.connect(str(daemon.socket))
        try:
            connection.sendall(rubbish)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65_536):
                pass
        except ConnectionError:
            pass
