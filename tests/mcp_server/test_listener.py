"""The HTTP server as a process: how it starts, idles, cuts off the stalled, and ends."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sse_starlette import sse

from mcp_server import listener
from mcp_server.services import Transport
from probes.errors import UserError
from tests.mcp_server.samples import xid
from tests.mcp_server.serving import Served
from tests.support.waiting import DEADLINE_S, wait_for

ROOT = Path(__file__).parents[2]
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
MODERN = "2026-07-28"


class RawMcp:
    """Open /mcp requests on sockets of their own, so that nothing answers for the server."""

    def __init__(self, port: int, stack: ExitStack) -> None:
        self._port = port
        self._stack = stack

    def open(self, method: str, message: object, *headers: str) -> socket.socket:
        """A request that has been sent."""
        connection = socket.create_connection(("127.0.0.1", self._port), timeout=DEADLINE_S)
        self._stack.enter_context(connection)
        body = json.dumps(message).encode() if message is not None else b""
        lines = [
            f"{method} /mcp HTTP/1.1",
            "Host: localhost",
            "Accept: application/json, text/event-stream",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "Connection: close",
            *headers,
        ]
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        return connection

    def session(self) -> str:
        """The id of a new session of 2025."""
        answer = self.open("POST", INITIALIZE).makefile("rb")
        while b":" in (line := answer.readline()) or b"HTTP" in line:
            name, _, value = line.decode().partition(":")
            if name.lower() == "mcp-session-id":
                session = value.strip()
        header = f"Mcp-Session-Id: {session}"
        self.open("POST", {"jsonrpc": "2.0", "method": "notifications/initialized"}, header).recv(1)
        return session

    def hold_everything_open(self) -> list[socket.socket]:
        """A stream of 2025, and a waiting tool in each era."""
        header = f"Mcp-Session-Id: {self.session()}"
        call = {"name": "wait_for_xid", "arguments": {"timeout_s": 600}}
        meta = {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        return [
            self.open("GET", None, header),
            self.open("POST", {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call}, header),
            self.open(
                "POST",
                {"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": {**call, "_meta": meta}},
                f"MCP-Protocol-Version: {MODERN}",
                "Mcp-Method: tools/call",
                "Mcp-Name: wait_for_xid",
            ),
        ]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Closes what a test opened."""
    with ExitStack() as opened:
        yield opened


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_every_stream_and_the_process_with_code_0(
    number: signal.Signals, stack: ExitStack, tmp_path: Path
) -> None:
    errors = tmp_path / "stderr"
    with (
        errors.open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-m", "tests.mcp_server.serve_alone"],
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=ROOT,
        ) as process,
    ):
        assert process.stdout is not None
        port = int(process.stdout.readline())
        held = RawMcp(port, stack).hold_everything_open()
        reader = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S))
        reader.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        reader.recv(1)
        wait_for(lambda: _open_mcp(port) >= 3, "all calls to be held open")
        process.send_signal(number)
        assert process.wait(DEADLINE_S) == 0
        for connection in (reader, *held):
            while connection.recv(65536):
                pass
    assert errors.read_text() == ""


def _open_mcp(port: int) -> int:
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        for line in connection.makefile("rb"):
            if line.startswith(b'xidwatch_clients{transport="mcp"}'):
                return int(float(line.split()[1]))
    return 0


def test_waiting_tools_are_answered_when_the_server_stops(stack: ExitStack) -> None:
    with Served() as served:
        _, legacy, modern = RawMcp(served.port, stack).hold_everything_open()
        wait_for(lambda: served.services.clients.counts()[Transport.MCP] >= 3, "the calls to wait")
        served.stop()
        for connection in (legacy, modern):
            answer = connection.makefile("rb").read()
            assert b"stopping" in answer or b"shutting down" in answer


def test_an_idle_server_has_no_timer_even_after_streams_were_open(stack: ExitStack) -> None:
    with Served(idle_s=3600) as served:
        held = RawMcp(served.port, stack).hold_everything_open()
        with served.events():
            wait_for(lambda: served.services.clients.counts()[Transport.MCP] >= 3, "the calls to wait")
            assert "_shutdown_watcher" not in _tasks(served)
        for connection in held:
            connection.close()
        wait_for(lambda: not sum(served.services.clients.counts().values()), "all clients to be gone")
        wait_for(lambda: not _timers(served), "no timer to be left")


def _tasks(served: Served) -> set[str]:
    async def names() -> set[str]:
        return {getattr(task.get_coro(), "__name__", "") for task in asyncio.all_tasks()}

    return asyncio.run_coroutine_threadsafe(names(), served.loop).result(DEADLINE_S)


def _timers(served: Served) -> set[str]:
    """What asyncio would wake up for by itself within a minute."""

    async def soon() -> set[str]:
        loop = asyncio.get_running_loop()
        timers = loop._scheduled  # type: ignore[attr-defined]  # asyncio shows its timers nowhere else
        return {repr(timer) for timer in timers if not timer.cancelled() and timer.when() < loop.time() + 60}

    return asyncio.run_coroutine_threadsafe(soon(), served.loop).result(DEADLINE_S)


def test_sse_starlette_still_has_what_is_taken_over() -> None:
    state = sse._get_shutdown_state()
    assert isinstance(state.watcher_started, bool)
    assert isinstance(state.events, set)


def test_a_client_that_stops_reading_is_cut_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listener, "STALLED_CLIENT_MS", 300)
    with Served() as served, served.events() as reader:
        stalled = socket.socket()
        stack.enter_context(stalled)
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.connect(("127.0.0.1", served.port))
        stalled.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_for(lambda: served.services.clients.counts()[Transport.EVENTS] == 2, "both readers")
        sent = 0

        def cut() -> bool:
            nonlocal sent
            served.publish(*(xid(number=sent + number) for number in range(200)))
            sent += 200
            for number in range(sent - 200, sent):
                assert json.loads(reader.frame()["data"])["kmsg_seq"] == number
            return served.services.clients.counts()[Transport.EVENTS] == 1

        wait_for(cut, "the stalled reader to be cut")
    assert "ERROR" not in caplog.text


def test_a_stalled_client_does_not_hold_up_the_end(
    stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    with Served() as served:
        stalled = socket.socket()
        stack.enter_context(stalled)
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.connect(("127.0.0.1", served.port))
        stalled.sendall(b"GET /events?since=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_for(lambda: served.services.clients.counts()[Transport.EVENTS] == 1, "the reader")
        served.publish(*(xid(number=number) for number in range(4_000)))
        served.stop()
        assert served.failure is None
    assert "ERROR" not in caplog.text


def test_a_port_in_use_is_said_with_what_to_do() -> None:
    with listener.bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(UserError, match="Address already in use") as raised:
            listener.bind("127.0.0.1", port)
    assert str(port) in raised.value.message
    assert "--listen" in str(raised.value.hint)


def test_an_address_that_is_not_ours_is_said() -> None:
    with pytest.raises(UserError, match=r"cannot listen on 192\.0\.2\.1:8080"):
        listener.bind("192.0.2.1", 8080)


def test_a_host_that_does_not_resolve_is_said() -> None:
    with pytest.raises(UserError, match=r"cannot listen on no-such-host\.invalid"):
        listener.bind("no-such-host.invalid", 8080)


def test_a_port_that_was_just_left_can_be_had_again() -> None:
    with Served() as served:
        assert served.get("/healthz").status == 200
        port = served.port
    listener.bind("127.0.0.1", port).close()
