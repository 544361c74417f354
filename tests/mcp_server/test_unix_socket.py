"""The unix socket: hello, events, status, MCP sessions, and its file."""

from __future__ import annotations

import asyncio
import json
import select
import socket
import stat
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
import pytest
from mcp import Client
from mcp.client._transport import TransportStreams
from mcp.shared.message import SessionMessage

from daemon.event import Severity
from daemon.page import Marks
from mcp_server import socket_file
from mcp_server.lines import LINE_LIMIT
from mcp_server.services import Transport
from probes.errors import UserError
from tests.mcp_server.samples import xid
from tests.mcp_server.serving import Served
from tests.support.waiting import DEADLINE_S, wait_for


class Peer:
    """A client that speaks lines."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(DEADLINE_S)
        self.socket.connect(str(path))
        self._lines = self.socket.makefile("rb")

    def send(self, line: object) -> None:
        self.socket.sendall(json.dumps(line).encode() + b"\n")

    def line(self) -> Any:
        """The next line's object; None at the end."""
        line = self._lines.readline()
        return json.loads(line) if line else None

    def rest(self) -> list[Any]:
        """Every line up to the end."""
        return [json.loads(line) for line in self._lines]


@contextmanager
def peer(served: Served, hello: object = None) -> Iterator[Peer]:
    """A connected client that has said hello."""
    assert served.socket_path is not None
    client = Peer(served.socket_path)
    try:
        if hello is not None:
            client.send({"xidwatch": hello})
        yield client
    finally:
        client.socket.close()


def numbers(events: list[Any]) -> list[int]:
    return [event["kmsg_seq"] for event in events]


def test_events_without_follow_end_at_what_is_newest(served: Served) -> None:
    served.publish(*(xid(number=number) for number in range(1_500)))
    with peer(served, {"want": "events", "since": 0}) as client:
        assert numbers(client.rest()) == list(range(1_500))


def test_who_wants_the_driver_released_is_told_what_was_let_go(tmp_path: Path) -> None:
    let_go: dict[str, object] = {"reader": {"ended": [41], "stuck": []}, "events": None}

    async def release() -> dict[str, object]:
        return let_go

    with (
        Served(socket_path=tmp_path / "s", let_go_of_driver=release) as served,
        peer(served, {"want": "release-driver"}) as client,
    ):
        assert client.rest() == [let_go]


def test_a_process_that_has_no_driver_holds_nothing(served: Served) -> None:
    with peer(served, {"want": "release-driver"}) as client:
        assert client.rest() == [{"reader": None, "events": None, "tracepoint": None}]


def test_a_limit_without_a_cursor_gives_the_newest(served: Served) -> None:
    served.publish(*(xid(number=number) for number in range(30)))
    with peer(served, {"want": "events", "limit": 10}) as client:
        assert numbers(client.rest()) == list(range(20, 30))


def test_a_limit_with_a_cursor_gives_the_first_ones_beyond_it(served: Served) -> None:
    served.publish(*(xid(number=number) for number in range(30)))
    with peer(served, {"want": "events", "since": 0, "limit": 3}) as client:
        assert numbers(client.rest()) == [0, 1, 2]


def test_follow_gives_the_newest_ones_first_and_then_what_comes(served: Served) -> None:
    served.publish(*(xid(number=number) for number in range(30)))
    with peer(served, {"want": "events", "limit": 2, "follow": True}) as client:
        assert numbers([client.line(), client.line()]) == [28, 29]
        served.publish(xid(number=30))
        assert numbers([client.line()]) == [30]


def test_follow_without_more_gives_only_what_is_new(served: Served) -> None:
    served.publish(xid(number=1))
    with peer(served, {"want": "events", "follow": True, "severity": "critical", "code": [79, 31]}) as client:
        number = 2
        wait_for(lambda: served.services.clients.counts()[Transport.SOCKET] == 1, "the client")
        # The hello may still be on its way: publish until something comes back.
        while not select.select([client.socket], [], [], 0.1)[0]:
            served.publish(xid(13, number=number, severity=Severity.WARNING), xid(number=number))
            number += 1
        first = client.line()
    assert (first["code"], first["kmsg_seq"] > 1) == (79, True)


def test_a_follower_that_leaves_is_forgotten(served: Served) -> None:
    with peer(served, {"want": "events", "follow": True}):
        wait_for(lambda: served.services.clients.counts()[Transport.SOCKET] == 1, "the client")
    wait_for(lambda: served.services.clients.counts()[Transport.SOCKET] == 0, "the client to be gone")


def test_what_retention_deleted_is_a_line_of_its_own(served: Served) -> None:
    served.publish(xid(number=1), xid(number=2))
    served.stream.journal_reaches(Marks(0, 0, 999))
    with peer(served, {"want": "events", "since": 5}) as client:
        assert client.rest()[0] == {"missed": {"first": 6, "last": 999}}


def test_a_time_takes_the_place_of_a_cursor_and_older_rows_are_not_sent(served: Served) -> None:
    served.publish(*(xid(number=number) for number in range(100)))
    later_us = time.time_ns() // 1000
    served.publish(xid(number=100))
    for follow in (False, True):
        with peer(served, {"want": "events", "since_time_us": later_us, "follow": follow}) as client:
            assert numbers([client.line()]) == [100]


def test_a_time_at_which_nothing_was_deleted_yet_tells_what_is_missed(served: Served) -> None:
    before_us = time.time_ns() // 1000
    served.publish(xid(number=1))
    served.stream.journal_reaches(Marks(0, 0, 999))
    with peer(served, {"want": "events", "since_time_us": before_us}) as client:
        assert client.rest()[0]["missed"]["last"] == 999


def test_once_the_socket_stops_listening_nobody_comes_in_and_conversations_go_on(served: Served) -> None:
    with peer(served, {"want": "events", "follow": True, "limit": 1}) as client:
        served.publish(xid(number=1))
        assert numbers([client.line()]) == [1]
        assert served.stop_listening is not None
        served.loop.call_soon_threadsafe(served.stop_listening)
        wait_for(lambda: not _accepts(served), "the socket to refuse")
        served.publish(xid(number=2))
        assert numbers([client.line()]) == [2]


def _accepts(served: Served) -> bool:
    try:
        with peer(served):
            return True
    except ConnectionRefusedError:
        return False


def test_status_is_one_line(served: Served) -> None:
    with peer(served, {"want": "status"}) as client:
        assert client.rest() == [served.services.status()]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"GET / HTTP/1.1\r\n", "the first line is not JSON"),
        (b"\xff\xfe\n", "the first line is not JSON"),
        (b"[" * 100_000 + b"\n", "the first line is not JSON"),
        (b"[1]\n", "neither a hello nor an MCP message"),
        (b"{}\n", "neither a hello nor an MCP message"),
        (b'{"xidwatch": 3}\n', "bad hello"),
        (b'{"xidwatch": {"want": "coffee"}}\n', "bad hello"),
        (b'{"xidwatch": {"want": "events", "sincee": 3}}\n', "not known here"),
        (b'{"xidwatch": {"want": "events", "since": "x"}}\n', "since"),
        (b'{"xidwatch": {"want": "events", "since": -1}}\n', "since"),
        (b'{"xidwatch": {"want": "events", "since": 99999999}}\n', "ahead of the newest"),
        (b'{"xidwatch": {"want": "events", "since": 99999999, "follow": true}}\n', "ahead of the newest"),
        (b'{"xidwatch": {"want": "events", "since": 0, "since_time_us": 1}}\n', "since_time_us"),
        (b'{"xidwatch": {"want": "events", "since_time_us": "now"}}\n', "since_time_us"),
        (b'{"xidwatch": {"want": "events", "severity": "bad"}}\n', "bad"),
        (b'{"xidwatch": {"want": "events", "kind": ["ecc"], "follow": true}}\n', "ecc"),
        (b'{"xidwatch": {"want": "mcp", "era": "1999"}}\n', "era"),
        (b'{"xidwatch": {"want": "mcp", "channel": "pigeon"}}\n', "channel"),
        (b"x" * (LINE_LIMIT + 2), "the first line is too long"),
    ],
)
def test_a_bad_hello_is_one_error_line_and_the_end(served: Served, line: bytes, sentence: str) -> None:
    with peer(served) as client:
        client.socket.sendall(line)
        (answer,) = client.rest()
    assert sentence in answer["error"]
    assert set(answer) == {"error", "hint"}
    assert len(json.dumps(answer)) < 1_000


def test_a_client_that_says_nothing_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with Served(socket_path=tmp_path / "s") as served, peer(served) as client:
        wait_for(lambda: served.services.clients.counts()[Transport.SOCKET] == 1, "the client")
        served.stop()
        assert client.rest() == []


def test_a_client_that_does_not_read_holds_up_neither_others_nor_the_end(tmp_path: Path) -> None:
    with Served(socket_path=tmp_path / "s") as served:
        hello = {"want": "events", "follow": True}
        with peer(served, hello), peer(served, hello) as reader:
            wait_for(lambda: served.services.clients.counts()[Transport.SOCKET] == 2, "both clients")
            while not _published_to(served, reader):
                pass
            served.stop()
            assert served.failure is None


def _published_to(served: Served, reader: Peer) -> bool:
    """Publish a lot; whether the reader has seen the last of it."""
    served.publish(*(xid(number=number) for number in range(3_000)))
    if not select.select([reader.socket], [], [], 0.1)[0]:
        return False
    while reader.line()["kmsg_seq"] != 2_999:
        pass
    return True


@asynccontextmanager
async def over_socket(path: Path, hello: object = None) -> AsyncIterator[TransportStreams]:
    """An MCP client transport: JSON-RPC lines on the unix socket."""
    reader, writer = await asyncio.open_unix_connection(path, limit=LINE_LIMIT)
    if hello is not None:
        writer.write(json.dumps({"xidwatch": hello}).encode() + b"\n")
    arrived, to_client = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    from_client, leaving = anyio.create_memory_object_stream[SessionMessage](0)

    async def receive() -> None:
        async with arrived:
            while line := await reader.readline():
                message = types.jsonrpc_message_adapter.validate_json(line, by_name=False)
                await arrived.send(SessionMessage(message))

    async def send() -> None:
        async with leaving:
            async for each in leaving:
                writer.write(each.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")

    async with anyio.create_task_group() as group:
        group.start_soon(receive)
        group.start_soon(send)
        yield to_client, from_client
        group.cancel_scope.cancel()
    writer.close()


@pytest.mark.parametrize(
    ("era", "hello"),
    [
        ("legacy", None),
        ("2026-07-28", None),
        ("auto", None),
        ("auto", {"want": "mcp"}),
        ("legacy", {"want": "mcp", "era": "legacy"}),
        ("auto", {"want": "mcp", "era": "legacy"}),
    ],
)
def test_an_mcp_session_of_either_era_with_and_without_hello(served: Served, era: str, hello: object) -> None:
    cursor = served.publish(xid())

    async def main() -> Any:
        assert served.socket_path is not None
        async with (
            asyncio.timeout(DEADLINE_S),
            Client(over_socket(served.socket_path, hello), mode=era) as client,
        ):
            assert "wait_for_xid" in {tool.name for tool in (await client.list_tools()).tools}
            return await client.call_tool("wait_for_xid", {"since": 0})

    result = asyncio.run(main())
    assert result.structured_content["next_cursor"] == cursor


def test_a_line_that_is_no_message_is_answered_and_the_session_goes_on(served: Served) -> None:
    with peer(served, {"want": "mcp"}) as client:
        client.socket.sendall(b"\nnonsense\n")
        client.send(
            {
                "jsonrpc": "2.0",
                "id": 1,
                "method": "initialize",
                "params": {
                    "protocolVersion": "2025-11-25",
                    "capabilities": {},
                    "clientInfo": {"name": "t", "version": "1"},
                },
            }
        )
        assert client.line()["error"]["code"] == types.PARSE_ERROR
        assert client.line()["result"]["serverInfo"]["name"] == "xidwatch"


def test_a_message_beyond_the_limit_is_answered_and_the_session_goes_on(served: Served) -> None:
    with peer(served, {"want": "mcp"}) as client:
        client.socket.sendall(b"x" * (5 * LINE_LIMIT) + b"\n")
        assert "longer than" in client.line()["error"]["message"]
        client.send({"jsonrpc": "2.0", "id": 1, "method": "ping"})
        assert client.line() == {"jsonrpc": "2.0", "id": 1, "result": {}}


def test_the_file_has_mode_0660_and_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "run" / "s"
    with Served(socket_path=path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert not path.exists()


def test_a_stale_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with Served(socket_path=path) as served, peer(served, {"want": "status"}) as client:
        assert client.line()["node"] == "gpu-17"


def test_a_live_server_is_left_alone(served: Served) -> None:
    assert served.socket_path is not None
    with pytest.raises(UserError, match="another process serves"):
        socket_file.bind(served.socket_path)
    with peer(served, {"want": "status"}) as client:
        assert client.line()["node"] == "gpu-17"


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    with pytest.raises(UserError, match="is not a socket"):
        socket_file.bind(tmp_path / "s")
    assert (tmp_path / "s").read_text() == "precious"


def test_a_path_that_is_too_long_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="too long"):
        socket_file.bind(tmp_path / ("s" * 120))


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot listen"):
        socket_file.bind(tmp_path / "file" / "s")


def test_the_file_of_a_successor_is_left_alone(tmp_path: Path) -> None:
    first = socket_file.bind(tmp_path / "s")
    first.bound.close()
    second = socket_file.bind(tmp_path / "s")
    try:
        first.remove()
        assert (tmp_path / "s").exists()
    finally:
        second.bound.close()


def test_a_client_may_close_its_sending_end_after_the_hello(served: Served) -> None:
    served.publish(xid(number=1))
    with peer(served, {"want": "events", "since": 0}) as client:
        client.socket.shutdown(socket.SHUT_WR)
        assert numbers(client.rest()) == [1]
