"""SIGTERM with every kind of stream open: all end in order, code 0, no traceback."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.mcp_server.speaking import Exchange, Session, SseSession, call, modern
from tests.support.daemon import Daemon
from tests.support.fault_lab import Happened, fault
from tests.support.relay import INITIALIZE, Relay
from tests.support.waiting import DEADLINE_S, wait_for

WAIT = {"timeout_s": 600}
LISTEN = {
    "jsonrpc": "2.0",
    "id": "listen",
    "method": "subscriptions/listen",
    "params": {"notifications": {"resourceSubscriptions": ["xid://events"]}},
}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Closes what a test opened."""
    with ExitStack() as opened:
        yield opened


def on_socket(daemon: Daemon, *messages: object) -> socket.socket:
    """A connection to the unix socket that has said this."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(DEADLINE_S)
    connection.connect(str(daemon.socket))
    for message in messages:
        connection.sendall(json.dumps(message).encode() + b"\n")
    return connection


def clients(daemon: Daemon) -> dict[str, int]:
    """Connected clients by transport."""
    counts = {}
    for line in daemon.get("/metrics")[1].decode().splitlines():
        if line.startswith("xidwatch_clients{"):
            counts[line.split('"')[1]] = int(float(line.split()[-1]))
    return counts


@pytest.mark.parametrize("reading", [True, False])
@fault("SIGTERM with every kind of stream open", promise=4, promised="all end in order, code 0")
def test_every_kind_of_stream_ends_in_order(
    running_daemon: Daemon, stack: ExitStack, reading: bool, happened: Happened
) -> None:
    daemon, port = running_daemon, running_daemon.port
    buffer = None if reading else 4_096
    session, older = Session(port), SseSession(port, receive_buffer=buffer)
    older.shake_hands()
    older.tell(call(1, "wait_for_xid", **WAIT))
    open_streams = [
        older.stream,
        Exchange(port, "GET", "/events?since=0", receive_buffer=buffer).head(),
        session.listen(receive_buffer=buffer),
        session.post(call(1, "wait_for_xid", **WAIT), receive_buffer=buffer),
        modern(port, call(1, "wait_for_xid", **WAIT), receive_buffer=buffer),
        modern(port, LISTEN, receive_buffer=buffer).head(),
    ]
    sockets = [
        on_socket(daemon, {"xidwatch": {"want": "events", "follow": True}}),
        on_socket(daemon, {"xidwatch": {"want": "mcp"}}, INITIALIZE, call(1, "wait_for_xid", **WAIT)),
        on_socket(daemon, {"xidwatch": {"want": "mcp", "channel": "claude"}}, INITIALIZE),
        on_socket(daemon),
    ]
    for stream in open_streams:
        stack.callback(stream.close)
    for connection in sockets:
        stack.callback(connection.close)
    relay = stack.enter_context(Relay("--socket", str(daemon.socket)))
    relay.shake_hands()
    relay.call(1, "wait_for_xid", **WAIT)
    wait_for(
        lambda: clients(daemon) == {"events": 1, "mcp": 4, "sse": 1, "socket": 5},
        "all of them to be connected",
    )
    assert daemon.stop() == 0
    for stream in open_streams:
        stream.body() if reading else stream.close()
    for connection in sockets:
        while connection.recv(65_536):
            pass
    code, rest, _ = relay.end()
    assert code == 1
    assert [message["id"] for message in rest if "id" in message] == [1]
    log = daemon.log.read_text()
    assert "Traceback" not in log
    assert " error " not in log
    read = "read" if reading else "not read"
    happened(f"{len(open_streams) + len(sockets) + 1} streams, {read} by their clients: all ended, code 0")


@fault("SIGTERM with hundreds of sessions", promise=4, promised="all end in order, code 0")
def test_hundreds_of_sessions_end_in_order(
    running_daemon: Daemon, stack: ExitStack, happened: Happened
) -> None:
    sessions = [Session(running_daemon.port) for _ in range(400)]
    streams = [session.listen() for session in sessions[::4]]
    for stream in streams:
        stack.callback(stream.close)
    assert running_daemon.stop() == 0
    for stream in streams:
        assert list(stream.messages()) == []  # ended, not cut
    log = running_daemon.log.read_text()
    assert "Traceback" not in log
    assert " error " not in log
    happened(
        f"{len(sessions)} sessions, {len(streams)} of them with a stream: each stream ended, none was cut"
    )
