"""An SDK whose stream of pushes was cut takes it up again by itself, and is told of what it missed.

This is Streamable HTTP with a session: the client comes back with Last-Event-ID. (2026-07-28 has no
such thing; there a client listens anew, with `xidwatch/since`.)
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.clients.cells import Cell, Client, Era, Transport
from tests.clients.place import Place, one_daemon, pid_of
from tests.clients.sdk import argument, command_of
from tests.clients.talker import Talker
from tests.delivery.cutter import Cutter
from tests.support.installed import UnavailableError


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A running daemon's /mcp."""
    with one_daemon(tmp_path_factory.mktemp("d")) as places:
        yield places(Transport.HTTP)


CUTS = {Client.PYTHON_1: 1, Client.PYTHON_2: 1, Client.TYPESCRIPT_1: 3, Client.TYPESCRIPT_2: 3}
"""The Python SDKs (1.30, 2.3) never come back a second time: they count broken connections, and only a
stream that the server ends in order sets the count to 0."""


@pytest.mark.slow
@pytest.mark.parametrize("client", CUTS, ids=str)
def test_pushes_missed_while_the_connection_was_cut_come_when_it_is_back(
    client: Client, place: Place, tmp_path: Path
) -> None:
    try:
        command = command_of(client)
    except UnavailableError as error:
        pytest.skip(str(error))
    assert place.daemon is not None
    cell = Cell(client, Transport.HTTP, Era.LEGACY)
    proxy = Cutter(
        random.Random(),
        to_port=place.daemon.port,
        to_socket=place.daemon.socket,
        socket=tmp_path / "unused",
    )
    with proxy as cutter:
        there = replace(place, url=f"http://127.0.0.1:{cutter.port}/mcp")
        with Talker([*command, argument(cell, there, None)]) as talker:
            talker.told("subscribed")
            for _ in range(CUTS[client]):
                wait_until_told(talker, place.fault())
                cutter.cut()
                wait_until_told(talker, place.fault())
        assert cutter.count >= CUTS[client]


def wait_until_told(talker: Talker, pid: int) -> None:
    """Return when the fault of this process was pushed as an update and as a message."""
    ways: set[str] = set()
    while ways != {"resources/updated", "message"}:
        push = talker.told("pushed")
        if pid_of(push["pushed"]) == pid:
            ways.add(push["via"])
