"""How a conversation on the unix socket ends when the client reads the last of it late."""

from __future__ import annotations

import array
import fcntl
import logging
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mcp_server.samples import xid
from tests.mcp_server.serving import Served
from tests.mcp_server.test_unix_socket import Peer, peer
from tests.support.waiting import wait_for


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Served(socket_path=tmp_path / "s") as running:
        yield running


def unread(client: Peer) -> int:
    """Bytes that lie in the client's socket."""
    count = array.array("i", [0])
    fcntl.ioctl(client.socket, termios.FIONREAD, count)
    return count[0]


# Around what the kernel holds for a unix socket: of some of these answers the last bytes wait in the daemon.
@pytest.mark.parametrize("events", range(180, 260, 10))
def test_a_client_that_reads_the_last_of_an_answer_late_ends_well(
    served: Served, caplog: pytest.LogCaptureFixture, events: int
) -> None:
    served.publish(*(xid(number=number) for number in range(events)))
    with caplog.at_level(logging.ERROR), peer(served, {"want": "events", "since": 0}) as client:
        wait_for(lambda: unread(client) > 50_000, "the answer to have begun")
        before = -1
        while before != (before := unread(client)):
            served.get("/healthz")  # the loop has turned
        assert len(client.rest()) == events
        served.get("/healthz")  # what was left to say about the conversation has been said
    assert [record.getMessage() for record in caplog.records] == []
