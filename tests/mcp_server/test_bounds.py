"""What clients should not do: the protocol's own error, theirs alone, and nothing is left behind."""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import mcp_types as types
import pytest

from mcp_server import admission, connection, listener, mcp_endpoint, unix_socket
from mcp_server.lines import LineReader
from mcp_server.rpc import MAX_IN_FLIGHT, TOO_MANY
from mcp_server.services import Transport
from tests.mcp_server.samples import xid
from tests.mcp_server.serving import Served
from tests.mcp_server.speaking import (
    INITIALIZE,
    INITIALIZED,
    READY,
    Exchange,
    Session,
    SseSession,
    call,
    modern,
    sse_session,
)
from tests.support.waiting import DEADLINE_S, wait_for

PING = {"jsonrpc": "2.0", "id": "still here", "method": "ping"}


class Residue:
    """What runs and is open in the server."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._before = self._now()

    def _now(self) -> tuple[list[str], int, int]:
        async def names() -> list[str]:
            return sorted(getattr(task.get_coro(), "__qualname__", "?") for task in asyncio.all_tasks())

        tasks = asyncio.run_coroutine_threadsafe(names(), self._served.loop).result(DEADLINE_S)
        gc.collect()
        return tasks, len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    def is_gone(self) -> bool:
        """Whether only what ran before runs now."""
        return self._now() == self._before

    def wait_until_gone(self) -> None:
        """Until only what ran before runs."""
        try:
            wait_for(self.is_gone, "tasks and descriptors to be as before", pause_s=0.05)
        except AssertionError:
            assert self._now() == self._before  # shows the difference


@pytest.fixture(autouse=True)
def nothing_is_left(served: Served, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """After each test: no error in the log, no task, descriptor or thread more than before."""
    served.get("/healthz")
    residue = Residue(served)
    yield
    residue.wait_until_gone()
    assert not [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


class SocketSession:
    """An MCP session on the unix socket, by hand."""

    def __init__(self, served: Served, hello: object = None) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(DEADLINE_S)
        self.socket.connect(str(served.socket_path))
        self._lines = self.socket.makefile("rb")
        if hello is not None:
            self.tell(hello)

    def __enter__(self) -> SocketSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._lines.close()
        self.socket.close()

    def tell(self, message: object) -> None:
        self.socket.sendall(json.dumps(message).encode() + b"\n")

    def message(self) -> Any:
        line = self._lines.readline()
        return json.loads(line) if line else None

    def shake_hands(self) -> SocketSession:
        self.tell(INITIALIZE)
        assert self.message()["result"]["serverInfo"]["name"] == "xidwatch"
        self.tell(INITIALIZED)
        self.tell(READY)
        assert self.message()["id"] == "ready"
        return self


Line = SocketSession | SseSession


@pytest.fixture(params=["socket", "sse"])
def session(request: pytest.FixtureRequest, served: Served) -> Iterator[Line]:
    """A session of the handshake era on each transport that is one stream."""
    if request.param == "socket":
        with SocketSession(served).shake_hands() as on_socket:
            yield on_socket
    else:
        with sse_session(served.port) as on_sse:
            yield on_sse


def answer_to(session: Line, number: object) -> Any:
    """The answer with this id; others are read over."""
    while (message := session.message()) is not None:
        if message.get("id") == number:
            return message
    return None


def test_a_thousand_calls_at_once_are_cut_to_a_bound(served: Served, session: Line) -> None:
    for number in range(1_000):
        session.tell(call(number, "wait_for_xid", since=0, timeout_s=600))
    refused = [session.message() for _ in range(1_000 - MAX_IN_FLIGHT)]
    assert {message["error"]["code"] for message in refused} == {TOO_MANY}
    assert {message["id"] for message in refused} == set(range(MAX_IN_FLIGHT, 1_000))
    served.publish(xid())
    left = set(range(MAX_IN_FLIGHT))
    while left:
        left.discard(session.message().get("id"))
    session.tell(PING)
    assert answer_to(session, "still here")["result"] == {}


def test_an_id_in_use_is_refused_and_its_first_request_goes_on(served: Served, session: Line) -> None:
    session.tell(call(1, "wait_for_xid", since=0, timeout_s=600))
    session.tell({"jsonrpc": "2.0", "id": 1, "method": "ping"})
    assert session.message()["error"] == {
        "code": types.INVALID_REQUEST,
        "message": "Invalid request: id '1' is in use",
    }
    served.publish(xid())
    assert answer_to(session, 1)["result"]["structuredContent"]["timed_out"] is False


def test_a_cancelled_wait_leaves_its_id_free(session: Line) -> None:
    session.tell(call(1, "wait_for_xid", since=0, timeout_s=600))
    cancel = {"requestId": 1, "reason": "changed my mind"}
    session.tell({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": cancel})
    session.tell({"jsonrpc": "2.0", "id": 1, "method": "ping"})
    assert session.message() == {"jsonrpc": "2.0", "id": 1, "result": {}}


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"jsonrpc": "2.0", "id": 1, "method": "no/such/method"}, types.METHOD_NOT_FOUND),
        ({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": 7}}, types.INVALID_PARAMS),
        ({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "rm"}}, types.INVALID_PARAMS),
        ({"jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": {"uri": "xid://x"}}, None),
        ({"jsonrpc": "2.0", "id": 1, "method": "resources/subscribe", "params": []}, types.INVALID_REQUEST),
        (
            {"jsonrpc": "2.0", "id": 1, "method": "logging/setLevel", "params": {"level": 3}},
            types.INVALID_PARAMS,
        ),
    ],
)
def test_wrong_types_and_unknown_names_are_answered_with_the_protocols_error(
    served: Served, message: dict[str, Any], code: int | None
) -> None:
    with SocketSession(served).shake_hands() as on_socket:
        on_socket.tell(message)
        first = on_socket.message()
        on_socket.tell(PING)
        assert on_socket.message()["result"] == {}
    on_http = Session(served.port)
    with on_http.post(message) as exchange:
        exchange.head()
        second = next(exchange.messages()) if exchange.status == 200 else exchange.json()
    assert on_http.delete() == 200
    for answer in (first, second):
        assert code is None or answer["error"]["code"] in {code, types.INVALID_PARAMS}
        assert len(answer["error"]["message"]) < 1_000


def test_a_thousand_subscriptions_are_answered_one_by_one_and_bounded(session: Line) -> None:
    for number in range(1_000):
        uri = {"uri": f"xid://events/ev_{number}"}
        session.tell({"jsonrpc": "2.0", "id": number, "method": "resources/subscribe", "params": uri})
        answer = answer_to(session, number)
        assert ("result" in answer) != ("error" in answer)
    assert "error" in answer
    session.tell(PING)
    assert answer_to(session, "still here")["result"] == {}


def test_a_thousand_messages_before_the_handshake_start_nothing(served: Served) -> None:
    with SocketSession(served) as early:
        for _ in range(1_000):
            early.tell(INITIALIZED)
        early.tell(PING)
        assert early.message()["result"] == {}
        served.publish(xid())
        early.tell(PING)
        assert early.message()["result"] == {}  # and no push before it


# -- /mcp ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"nonsense", types.PARSE_ERROR),
        (b"", types.PARSE_ERROR),
        (b"[]", None),
        (b"7", None),
        (b'{"jsonrpc":"2.0","id":1,"method":7}', None),
        (b"[" * 100_000, None),
    ],
)
@pytest.mark.parametrize("headers", [{}, {"MCP-Protocol-Version": "2026-07-28"}])
def test_a_body_that_is_no_message_is_refused(
    served: Served, body: bytes, code: int | None, headers: dict[str, str]
) -> None:
    with Exchange(served.port, "POST", "/mcp", body, headers) as exchange:
        error = exchange.json()["error"]
        assert exchange.status == 400
    assert code is None or error["code"] == code


def test_five_megabytes_are_refused_in_words(served: Served) -> None:
    with Exchange(served.port, "POST", "/mcp", b" " * (5 * 1024 * 1024)) as exchange:
        assert "the body is longer than" in exchange.json()["error"]["message"]
        assert exchange.status == 413


def test_calls_of_one_session_are_bounded_even_when_nobody_waits_for_them(served: Served) -> None:
    session, other = Session(served.port), Session(served.port)
    for number in range(MAX_IN_FLIGHT):
        with session.post(call(number, "wait_for_xid", since=0, timeout_s=600)) as left:
            assert left.head().status == 200
    with session.post(call("one more", "wait_for_xid", since=0, timeout_s=600)) as refused:
        assert refused.json()["error"]["code"] == TOO_MANY
        assert refused.status == 429
    with other.post(PING) as answer:
        assert next(answer.messages())["result"] == {}
    served.publish(xid())

    def is_served_again() -> bool:
        with session.post(PING) as answer:
            return answer.head().status == 200

    wait_for(is_served_again, "the waiting calls to be over")
    assert session.delete() == other.delete() == 200


def test_an_id_in_use_is_refused_on_http_too(served: Served) -> None:
    session = Session(served.port)
    with session.post(call(1, "wait_for_xid", since=0, timeout_s=600)) as first:
        first.head()
        with session.post({"jsonrpc": "2.0", "id": 1, "method": "ping"}) as second:
            assert second.json()["error"]["message"] == "Invalid request: id '1' is in use"
            assert second.status == 400
        served.publish(xid())
        assert next(first.messages())["id"] == 1
    with session.post({"jsonrpc": "2.0", "id": 1, "method": "ping"}) as again:
        assert next(again.messages())["result"] == {}
    assert session.delete() == 200


def test_a_refused_post_leaves_its_id_free(served: Served) -> None:
    session = Session(served.port)
    for _ in range(2):
        with session.post(PING, headers={"Accept": "text/html"}) as refused:
            assert refused.head().status == 406
    with session.post(PING) as answer:
        assert next(answer.messages())["result"] == {}
    assert session.delete() == 200


def begin_session(port: int, source: str = "127.0.0.1") -> Exchange:
    """A bare `initialize`, sent."""
    return Exchange(port, "POST", "/mcp", json.dumps(INITIALIZE).encode(), source=source)


def test_the_number_of_sessions_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_endpoint, "MAX_SESSIONS", 2)
    monkeypatch.setattr(mcp_endpoint, "SESSIONS_ALWAYS", 2)
    with Served() as small:
        first, second = Session(small.port), Session(small.port)
        with first.listen(), second.listen():
            with begin_session(small.port) as refused:
                assert refused.json()["error"]["message"] == "Too many open sessions"
                assert refused.status == 503
            assert first.delete() == 200
            Session(small.port)
            assert _status(second) == 200


def test_a_client_that_opens_sessions_without_end_ends_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_endpoint, "MAX_SESSIONS", 8)
    monkeypatch.setattr(mcp_endpoint, "SESSIONS_ALWAYS", 1)
    with Served() as small:
        quiet, listening = Session(small.port), Session(small.port)
        with listening.listen() as stream:
            ids = []
            for _ in range(40):
                with begin_session(small.port, source="127.0.0.2") as answer:
                    ids.append(answer.head().headers["mcp-session-id"])
                    assert next(answer.messages())["result"]["serverInfo"]["name"] == "xidwatch"
            assert _status(quiet) == _status(listening) == 200
            small.publish(xid(number=7))
            assert next(stream.messages())["method"] == "notifications/message"
            with Exchange(small.port, "GET", "/mcp", headers={"Mcp-Session-Id": ids[0]}) as ended:
                assert ended.head().status == 404
            newcomer = Session(small.port, source="127.0.0.3")
            assert _status(newcomer) == 200


def test_on_one_address_a_session_in_use_outlives_those_nothing_was_asked_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mcp_endpoint, "MAX_SESSIONS", 6)
    monkeypatch.setattr(mcp_endpoint, "SESSIONS_ALWAYS", 1)
    with Served() as small:
        used = Session(small.port)
        for _ in range(20):
            with begin_session(small.port) as answer:
                assert len(list(answer.messages())) == 1
        assert _status(used) == 200


def test_what_opens_no_session_ends_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_endpoint, "MAX_SESSIONS", 1)
    monkeypatch.setattr(mcp_endpoint, "SESSIONS_ALWAYS", 1)
    with Served() as small:
        only = Session(small.port)
        for body in (b"nonsense", json.dumps(PING).encode(), json.dumps(INITIALIZED).encode()):
            with Exchange(small.port, "POST", "/mcp", body) as refused:
                assert refused.head().status == 400
        with Exchange(small.port, "GET", "/mcp") as refused:
            assert refused.head().status == 400
        assert _status(only) == 200


def test_an_idle_session_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_endpoint, "IDLE_S", 0.2)
    with Served() as hasty:
        session = Session(hasty.port)
        with session.listen(), session.post(PING) as answer:
            assert next(answer.messages())["result"] == {}
        wait_for(lambda: _status(session) == 404, "the session to be forgotten", pause_s=0.5)


def _status(session: Session) -> int:
    with session.post(PING) as answer:
        return answer.head().status


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("DELETE", None),
        ("POST", {"jsonrpc": "2.0", "id": 1, "method": "no/such/method"}),
        ("POST", PING),
        ("GET", None),
    ],
)
def test_a_request_of_the_newer_era_does_nothing_to_the_session_it_names(
    served: Served, method: str, message: object
) -> None:
    session = Session(served.port)
    body = b"" if message is None else json.dumps(message).encode()
    headers = {"Mcp-Session-Id": session.id, "MCP-Protocol-Version": "2026-07-28"}
    for _ in range(MAX_IN_FLIGHT + 1):
        with Exchange(served.port, method, "/mcp", body, headers) as answer:
            answer.head()
    assert open_sessions(served) == (1, 1)
    with session.post(PING) as answer:
        assert next(answer.messages())["result"] == {}
    assert session.delete() == 200
    wait_for(lambda: open_sessions(served) == (0, 0), "the session to be forgotten")


def open_sessions(served: Served) -> tuple[int, int]:
    """How many our registry knows, and the SDK."""
    (route,) = (route for route in served.app.routes if getattr(route, "path", "") == "/mcp")
    endpoint = route.endpoint  # type: ignore[attr-defined]
    return len(endpoint._registry), len(endpoint._sessions._server_instances)


def test_what_only_looks_like_a_request_takes_no_place(served: Served) -> None:
    session = Session(served.port)
    for _ in range(MAX_IN_FLIGHT + 1):
        with session.post({"jsonrpc": "2.0", "id": 5, "method": 7, "result": {}}) as odd:
            odd.head()
    with session.post({**PING, "id": 5}) as answer:
        assert next(answer.messages())["result"] == {}
    assert session.delete() == 200


def test_one_more_session_ends_one_of_its_own_however_full_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_endpoint, "MAX_SESSIONS", 12)
    monkeypatch.setattr(mcp_endpoint, "SESSIONS_ALWAYS", 2)
    with Served() as small:
        mine = [Session(small.port) for _ in range(6)]
        for number in range(2, 7):
            Session(small.port, source=f"127.0.0.{number}")
        Session(small.port)
        assert [_status(session) for session in mine].count(200) == 5


def test_small_requests_come_in_while_large_bodies_fill_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAX_BYTES", 20_000)
    with Served() as small, ExitStack() as held:
        session = Session(small.port)
        for _ in range(3):
            half = socket.create_connection(("127.0.0.1", small.port), timeout=DEADLINE_S)
            held.enter_context(half)
            half.sendall(
                b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\n" + b" " * 60_000
            )
        assert _status(session) == 200
        with session.listen() as stream:
            assert stream.status == 200
        assert session.delete() == 200


def test_requests_that_nobody_waits_for_go_on_counting(served: Served) -> None:
    session = Session(served.port)
    padded = call("big", "wait_for_xid", since=0, timeout_s=600)
    padded["params"]["_meta"] = {"pad": [[]] * 60_000}
    refused = 0
    for number in range(40):
        with session.post({**padded, "id": number}) as left:
            refused += left.head().status == 429
    assert refused > 20
    elsewhere = Session(served.port, source="127.0.0.2")
    with elsewhere.post(PING) as other:
        assert next(other.messages())["result"] == {}
    assert session.delete() == elsewhere.delete() == 200


def test_a_stream_is_not_resumed_behind_its_answer(served: Served) -> None:
    session = Session(served.port)
    with session.post(PING) as answer:
        last = [frame["id"] for frame in answer.frames() if "id" in frame][-1]
    with session.listen(last) as resumed:
        assert resumed.status == 200
        assert list(resumed.messages()) == []
    assert session.delete() == 200


def test_readers_of_one_address_leave_connections_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "MAX_CONNECTIONS", 8)
    monkeypatch.setattr(listener, "CONNECTIONS_ALWAYS", 1)
    with Served() as small, ExitStack() as held:
        for _ in range(4):
            held.enter_context(small.events())
        with Exchange(small.port, "GET", "/healthz", source="127.0.0.2") as answer:
            assert answer.head().status == 200
        with pytest.raises((ConnectionError, IndexError)), Exchange(small.port, "GET", "/healthz") as answer:
            answer.head()
        assert small.listener.room.refused == 1
        held.close()
        wait_for(lambda: small.get("/healthz").status == 200, "the connections to be free again")


def test_an_unread_body_of_an_unknown_session_is_not_read(served: Served) -> None:
    head = b"POST /messages/?session_id=x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n{"
    with socket.create_connection(("127.0.0.1", served.port), timeout=DEADLINE_S) as client:
        client.sendall(head)
        assert client.recv(12) == b"HTTP/1.1 404"


def test_half_bodies_of_one_address_leave_room_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAX_BYTES", 20_000)
    monkeypatch.setattr(admission, "BYTES_ALWAYS", 1_000)
    with Served() as small, ExitStack() as held:
        for _ in range(2):
            half = socket.create_connection(("127.0.0.1", small.port), timeout=DEADLINE_S)
            held.enter_context(half)
            half.sendall(
                b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n" + b" " * 9_000
            )
        wait_for(lambda: small.services.clients.counts()[Transport.MCP] == 2, "the half bodies")

        def is_full() -> bool:
            with Exchange(small.port, "POST", "/mcp", b" " * 6_000) as answer:
                return answer.head().status == 503

        wait_for(is_full, "the room of this address to be used up")
        Session(small.port, source="127.0.0.2")
        held.close()
        wait_for(lambda: not is_full(), "the room to be free again")


def test_requests_of_one_address_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAX_REQUESTS", 3)
    monkeypatch.setattr(admission, "REQUESTS_ALWAYS", 3)
    with Served() as small, ExitStack() as held:
        for number in range(3):
            held.enter_context(modern(small.port, call(number, "wait_for_xid", since=0, timeout_s=600)))
        wait_for(lambda: small.services.clients.counts()[Transport.MCP] == 3, "the calls to wait")
        with modern(small.port, call(4, "get_xid_events")) as refused:
            assert refused.json()["error"]["message"] == "Too many requests at once"
            assert refused.status == 429
        assert small.get("/events.json").status == 200
        held.close()
        wait_for(lambda: small.services.clients.counts()[Transport.MCP] == 0, "the calls to be gone")
        with modern(small.port, call(5, "get_xid_events")) as answer:
            assert answer.head().status == 200


def test_listening_everywhere_does_not_switch_the_host_check_off() -> None:
    with Served(listen_host="0.0.0.0") as wide:  # noqa: S104  (a value to be parsed)
        for method, path in (("POST", "/mcp"), ("GET", "/mcp"), ("GET", "/sse"), ("POST", "/messages/")):
            with Exchange(wide.port, method, path, headers={"Host": "rebound.example"}) as refused:
                assert refused.head().status == 421


# -- silence -------------------------------------------------------------------------------------

HALVES = [
    b"",
    b"POST /mcp HTT",
    b"POST /mcp HTTP/1.1\r\nHost: localhost\r\n",
    b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{",
]


@pytest.mark.parametrize("half", HALVES)
def test_half_a_request_is_not_waited_for(
    served: Served, half: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_S", 0.2)
    monkeypatch.setattr(connection, "BODY_S", 0.2)
    with socket.create_connection(("127.0.0.1", served.port), timeout=DEADLINE_S) as client:
        client.sendall(half)
        assert _rest(client) == b""


def test_a_stream_is_not_taken_for_a_request_that_does_not_end(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_S", 0.05)
    monkeypatch.setattr(connection, "BODY_S", 0.05)
    with served.events() as reader:
        for number in range(10):
            served.get("/healthz")
            served.publish(xid(number=number))
            assert json.loads(reader.frame()["data"])["kmsg_seq"] == number


def _rest(client: socket.socket) -> bytes:
    try:
        return b"".join(iter(functools.partial(client.recv, 65_536), b""))
    except ConnectionResetError:
        return b""


def test_a_client_of_the_socket_has_to_say_what_it_wants(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unix_socket, "FIRST_LINE_S", 0.1)
    with SocketSession(served) as silent:
        assert silent.message()["error"] == "no first line came"
        assert silent.message() is None


@pytest.mark.parametrize("said", [b'{"xidwatch": {"want": "mc', b'{"jsonrpc"'])
def test_half_a_line_on_the_socket_is_not_waited_for(
    served: Served, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(unix_socket, "LineReader", functools.partial(LineReader, within_s=0.1))
    with SocketSession(served) as begun:
        begun.socket.sendall(said)
        assert begun.message()["error"] == "no first line came"
        assert begun.message() is None
    with SocketSession(served).shake_hands() as idle:
        idle.socket.sendall(said)
        assert idle.message()["error"]["code"] == types.PARSE_ERROR
        assert idle.message() is None


def test_an_idle_session_on_the_socket_stays(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unix_socket, "FIRST_LINE_S", 0.1)
    monkeypatch.setattr(unix_socket, "LineReader", functools.partial(LineReader, within_s=0.1))
    with SocketSession(served, {"xidwatch": {"want": "mcp"}}).shake_hands() as idle:
        with SocketSession(served) as silent:  # its time runs out after the other's would have
            assert silent.message()["error"] == "no first line came"
        idle.tell(PING)
        assert idle.message()["result"] == {}


def test_one_process_cannot_take_every_connection_on_the_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unix_socket, "MAX_CONNECTIONS", 2)
    monkeypatch.setattr(unix_socket, "CONNECTIONS_ALWAYS", 1)
    with Served(socket_path=tmp_path / "small") as small, SocketSession(small).shake_hands():
        with SocketSession(small) as second:
            assert second.message()["error"] == "too many connections of this process on this socket"
            assert second.message() is None
        hello = json.dumps({"xidwatch": {"want": "status"}})
        other = [sys.executable, "-c", ASK, str(small.socket_path), hello]
        answer = subprocess.run(other, capture_output=True, timeout=DEADLINE_S, check=True)
        assert json.loads(answer.stdout)["node"] == "gpu-17"


ASK = """
import socket, sys
with socket.socket(socket.AF_UNIX) as asking:
    asking.connect(sys.argv[1])
    asking.sendall(sys.argv[2].encode() + b"\\n")
    sys.stdout.write(asking.makefile().readline())
"""


# -- what sessions cost --------------------------------------------------------------------------


def test_a_session_starts_nothing_that_outlives_it(served: Served) -> None:
    """The SDK runs the server's lifespan once a connection on some transports."""
    for _ in range(5):
        with SocketSession(served).shake_hands(), sse_session(served.port):
            assert Session(served.port).delete() == 200


def test_garbage_collection_does_not_look_at_the_imports_while_serving(served: Served) -> None:
    assert gc.get_freeze_count() > 100_000


# -- who does not read ---------------------------------------------------------------------------

LISTEN = {
    "jsonrpc": "2.0",
    "id": "listen",
    "method": "subscriptions/listen",
    "params": {"notifications": {"resourceSubscriptions": ["xid://events"]}},
}


def _deaf_sse(port: int) -> Callable[[], None]:
    session = SseSession(port, receive_buffer=4_096)
    session.shake_hands()
    return session.stream.close


def _deaf_get(port: int) -> Callable[[], None]:
    return Session(port).listen(receive_buffer=4_096).close


def _deaf_listen(port: int) -> Callable[[], None]:
    return modern(port, LISTEN, receive_buffer=4_096).head().close


@pytest.mark.parametrize(
    ("transport", "connect"),
    [(Transport.SSE, _deaf_sse), (Transport.MCP, _deaf_get), (Transport.MCP, _deaf_listen)],
)
def test_a_pushed_client_that_stops_reading_is_cut_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, transport: Transport, connect: Callable[[int], Callable[[], None]]
) -> None:
    monkeypatch.setattr(listener, "STALLED_CLIENT_MS", 300)
    with Served() as storm, storm.events() as reader:
        close = connect(storm.port)
        wait_for(lambda: storm.services.clients.counts()[transport] == 1, "the deaf client")
        sent = 0

        def is_cut() -> bool:
            nonlocal sent
            storm.publish(*(xid(number=sent + number) for number in range(100)))
            sent += 100
            for number in range(sent - 100, sent):
                assert json.loads(reader.frame()["data"])["kmsg_seq"] == number
            return storm.services.clients.counts()[transport] == 0

        wait_for(is_cut, "the deaf client to be cut")
        close()
