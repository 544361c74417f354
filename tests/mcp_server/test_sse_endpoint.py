"""The older HTTP+SSE transport: with the SDK's client, and by hand."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import mcp_types as types
import pytest
from mcp import ClientSession
from mcp.client.sse import sse_client

from mcp_server import sse_endpoint
from mcp_server.admission import BODY_LIMIT
from mcp_server.services import Transport
from tests.mcp_server.samples import xid
from tests.mcp_server.serving import Served
from tests.mcp_server.speaking import INITIALIZE, Exchange, SseSession, call, sse_session
from tests.support.waiting import DEADLINE_S, wait_for


def sessions(served: Served) -> int:
    return served.services.clients.counts()[Transport.SSE]


def test_the_sdks_client_connects_calls_and_is_pushed_to(served: Served) -> None:
    cursor = served.publish(xid())
    pushed: list[Any] = []

    async def log(params: types.LoggingMessageNotificationParams) -> None:
        pushed.append(params.data)

    async def main() -> Any:
        async with (
            asyncio.timeout(DEADLINE_S),
            sse_client(f"{served.url}/sse") as (arriving, leaving),
            ClientSession(arriving, leaving, logging_callback=log) as session,
        ):
            await session.initialize()
            result = await session.call_tool("wait_for_xid", {"since": 0})
            while not pushed:
                await asyncio.to_thread(served.publish, xid(31))
                await asyncio.sleep(0.01)
            return result

    result = asyncio.run(main())
    assert result.structured_content["next_cursor"] == cursor
    assert pushed[0]["code"] == 31
    wait_for(lambda: sessions(served) == 0, "the session to be gone")


def test_the_stream_says_first_where_to_post_to(served: Served) -> None:
    with SseSession(served.port).stream as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
    session = SseSession(served.port)
    with session.stream:
        assert session.place.startswith("/messages/?session_id=")
        assert len(session.place) >= len("/messages/?session_id=") + 32


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"nonsense", types.PARSE_ERROR),
        (b"[]", types.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":5,"method":7}', types.INVALID_REQUEST),
    ],
)
def test_what_is_no_message_is_answered_to_who_posted_it(served: Served, body: bytes, code: int) -> None:
    with sse_session(served.port) as session:
        with session.post(body) as answer:
            assert answer.json()["error"]["code"] == code
            assert answer.status == 400
        session.tell({"jsonrpc": "2.0", "id": 1, "method": "ping"})
        assert session.message() == {"jsonrpc": "2.0", "id": 1, "result": {}}


@pytest.mark.parametrize("query", ["", "?session_id=", f"?session_id={'0' * 32}", "?session_id=../../etc"])
def test_an_unknown_session_is_404(served: Served, query: str) -> None:
    with Exchange(served.port, "POST", f"/messages/{query}", json.dumps(INITIALIZE).encode()) as answer:
        assert answer.json()["error"]["message"] == "Session not found"
        assert answer.status == 404


def test_a_message_to_a_session_that_has_ended_is_404(served: Served) -> None:
    session = SseSession(served.port)
    session.stream.close()
    wait_for(lambda: sessions(served) == 0, "the session to be gone")
    with session.post(INITIALIZE) as answer:
        assert answer.head().status == 404


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/sse"), ("GET", "/messages/"), ("DELETE", "/messages/")]
)
def test_other_methods_are_refused(served: Served, method: str, path: str) -> None:
    assert served.get(path, method=method).status == 405


def test_a_message_that_is_too_large_is_refused_whether_or_not_it_says_so(served: Served) -> None:
    with sse_session(served.port) as session:
        with session.post(b" " * (5 * 1024 * 1024)) as answer:
            assert answer.head().status == 413
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (BODY_LIMIT + 1, b" " * (BODY_LIMIT + 1))
        headers = {"Transfer-Encoding": "chunked"}
        assert served.get(session.place, headers, method="POST", body=body).status == 413
        session.tell({"jsonrpc": "2.0", "id": 1, "method": "ping"})
        assert session.message()["id"] == 1


@pytest.mark.parametrize("headers", [{"Host": "rebound.example"}, {"Origin": "https://evil.example"}])
@pytest.mark.parametrize(("method", "path"), [("GET", "/sse"), ("POST", "/messages/?session_id=x")])
def test_foreign_pages_get_nothing(served: Served, method: str, path: str, headers: dict[str, str]) -> None:
    with Exchange(served.port, method, path, headers=headers) as answer:
        assert answer.head().status in {421, 403}
    assert sessions(served) == 0


def test_the_number_of_sessions_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse_endpoint, "MAX_SESSIONS", 2)
    monkeypatch.setattr(sse_endpoint, "SESSIONS_ALWAYS", 2)
    with Served() as small:
        with sse_session(small.port) as first, sse_session(small.port):
            with Exchange(small.port, "GET", "/sse") as answer:
                assert answer.json()["error"]["message"] == "Too many sessions"
                assert answer.status == 503
            first.tell({"jsonrpc": "2.0", "id": 1, "method": "ping"})
            assert first.message()["id"] == 1
        wait_for(lambda: sessions(small) == 0, "the sessions to be gone")
        with sse_session(small.port):
            assert sessions(small) == 1


def test_one_address_cannot_take_every_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse_endpoint, "MAX_SESSIONS", 2)
    monkeypatch.setattr(sse_endpoint, "SESSIONS_ALWAYS", 1)
    with Served() as small, sse_session(small.port):
        with Exchange(small.port, "GET", "/sse") as answer:
            assert answer.json()["error"]["message"] == "Too many sessions"
            assert answer.status == 503
        with sse_session(small.port, source="127.0.0.2") as other:
            other.tell({"jsonrpc": "2.0", "id": 1, "method": "ping"})
            assert other.message()["id"] == 1


def test_a_session_that_does_not_read_makes_only_its_own_posts_wait(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse_endpoint, "HANDOVER_S", 0.2)
    served.publish(*(xid(number=number) for number in range(1_000)))
    with sse_session(served.port, receive_buffer=4_096) as deaf, sse_session(served.port) as other:
        for number in range(8):
            deaf.tell(call(number, "get_xid_events", since=0, limit=1_000))
        status = 202
        while status == 202:
            # Beyond the bound the refusals wait for room, too: then nothing is taken any more.
            number += 1
            with deaf.post({"jsonrpc": "2.0", "id": number, "method": "ping"}) as answer:
                status = answer.head().status
        assert status == 503
        other.tell({"jsonrpc": "2.0", "id": 1, "method": "ping"})
        assert other.message()["id"] == 1


def test_the_end_of_the_daemon_ends_the_stream_in_order(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    with sse_session(served.port) as session:
        session.tell(call(1, "wait_for_xid", timeout_s=600))
        served.stop()
        answers = list(session._frames)
        assert json.loads(answers[-1]["data"])["id"] == 1
        assert session.stream.socket.recv(1) == b""
    assert served.failure is None
    assert not [record for record in caplog.records if record.levelname in {"WARNING", "ERROR"}]
