"""How long a request may take, byte by byte, and who is cut when too many do."""

from __future__ import annotations

import contextlib
import http.client
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from mcp_server import connection, listener
from tests.mcp_server.samples import xid
from tests.mcp_server.serving import Served
from tests.support.waiting import DEADLINE_S, wait_for

HEAD = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Closes what a test opened."""
    with ExitStack() as opened:
        yield opened


def connect(served: Served, stack: ExitStack, said: bytes = b"") -> socket.socket:
    """A connection on which this was sent."""
    client = stack.enter_context(socket.create_connection(("127.0.0.1", served.port), timeout=DEADLINE_S))
    client.sendall(said)
    return client


def is_cut(client: socket.socket) -> bool:
    """Whether the other side has ended it; what it has sent is thrown away."""
    client.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        try:
            while client.recv(65_536):
                pass
        except ConnectionError:
            pass
        return True
    return False


@pytest.mark.parametrize("begun", [HEAD + b"X: ", HEAD + b"\r\n"])
def test_a_byte_now_and_then_does_not_keep_a_request_alive(
    served: Served, stack: ExitStack, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(connection, "HEAD_S", 0.3)
    monkeypatch.setattr(connection, "BODY_S", 0.3)
    loris = connect(served, stack, begun)

    def drips_in_vain() -> bool:
        with contextlib.suppress(ConnectionError):
            loris.send(b" ")
        return is_cut(loris)

    wait_for(drips_in_vain, "the slow request to be cut")
    wait_for(lambda: served.listener.room.taken == 0, "its place to be free again")


def test_a_connection_that_is_kept_has_a_whole_deadline_for_each_request(
    served: Served, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_S", 0.3)
    kept = http.client.HTTPConnection("127.0.0.1", served.port, timeout=DEADLINE_S)
    stack.callback(kept.close)
    kept.connect()
    only = kept.sock
    for _ in range(3):
        kept.request("GET", "/healthz")
        with kept.getresponse() as answer:
            assert (answer.status, bool(answer.read())) == (200, True)
    assert kept.sock is only
    wait_for(lambda: is_cut(only), "the idle connection to be closed")


def test_silent_connections_make_room_for_one_that_asks(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "MAX_WAITING_CONNECTIONS", 10)
    with Served() as served, served.events() as reader:
        silent = [connect(served, stack, b"GET /") for _ in range(40)]
        assert served.get("/healthz").status == 200
        served.publish(xid())
        assert reader.frame()["data"]
        wait_for(lambda: sum(map(is_cut, silent)) >= 30, "those that waited longest to be cut")
        assert not is_cut(silent[-1])
        assert served.listener.room.waiting <= 10


def test_connections_are_accepted_in_small_portions() -> None:
    with Served() as served:
        assert served.listener.config.backlog == listener.ACCEPTED_AT_ONCE
        with ExitStack() as held:
            # More than one turn takes, and than that number: the kernel keeps the others meanwhile.
            for _ in range(200):
                connect(served, held)
            wait_for(lambda: served.listener.room.taken == 200, "all to be accepted")
