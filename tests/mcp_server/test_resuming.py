"""Streams of /mcp that are cut and taken up again, and that nobody else can take up."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import mcp_types as types
import pytest

from mcp_server import mcp_endpoint
from mcp_server.services import Transport
from tests.mcp_server.samples import xid
from tests.mcp_server.serving import Served
from tests.mcp_server.speaking import Exchange, Session, call
from tests.support.waiting import wait_for


def is_open(served: Served, requests: int) -> bool:
    return served.services.clients.counts()[Transport.MCP] == requests


def pushed(frames: Iterator[dict[str, str]], count: int) -> tuple[list[int], str]:
    """Sequence numbers of the next events that are pushed, and the id to go on from."""
    found, last = [], ""
    for frame in frames:
        if frame.get("event") == "message":
            message = json.loads(frame["data"])
            last = frame["id"]
            if message["method"] == "notifications/message":
                found.append(message["params"]["data"]["kmsg_seq"])
        if len(found) == count:
            break
    return found, last


def test_what_was_pushed_while_the_stream_was_cut_comes_first_and_then_what_is_new(served: Served) -> None:
    session = Session(served.port)
    with session.listen() as stream:
        served.publish(xid(number=1))
        seen, last = pushed(stream.frames(), 1)
    for number in range(2, 5):
        served.publish(xid(number=number))
    with session.listen(last) as stream:
        frames = stream.frames()
        more, last = pushed(frames, 3)
        for number in range(5, 8):
            served.publish(xid(number=number))
        live, last = pushed(frames, 3)
    assert seen + more + live == [1, 2, 3, 4, 5, 6, 7]


def test_cuts_at_any_moment_lose_and_double_nothing(served: Served) -> None:
    session = Session(served.port)
    numbers = itertools.count(1)
    served_numbers: list[int] = []
    with session.listen() as stream:
        served.publish(xid(number=next(numbers)))
        seen, last = pushed(stream.frames(), 1)
        served_numbers += seen
    for _ in range(40):
        served.publish(xid(number=next(numbers)), xid(number=next(numbers)))
        with session.listen(last) as stream:
            served.publish(xid(number=next(numbers)))
            seen, last = pushed(stream.frames(), 2)
            served_numbers += seen
    with session.listen(last) as stream:
        seen, _ = pushed(stream.frames(), 40)
    assert served_numbers + seen == list(range(1, 122))


def test_a_stream_that_looks_alive_gives_way_to_its_successor(served: Served) -> None:
    session = Session(served.port)
    with session.listen() as first, session.listen() as second:
        assert first.status == second.status == 200
        assert list(first.messages()) == []  # ended in order
        served.publish(xid(number=1))
        seen, last = pushed(second.frames(), 1)
        with session.listen(last) as third, session.listen(last) as fourth:
            assert list(third.messages()) == []
            served.publish(xid(number=2))
            assert pushed(fourth.frames(), 1)[0] == [2]
    assert seen == [1]
    wait_for(lambda: is_open(served, 0), "every stream to be gone")


def test_a_cut_call_can_be_taken_up_again_for_its_answer(served: Served) -> None:
    session = Session(served.port)
    with session.post(call(1, "wait_for_xid", since=0, timeout_s=600)) as cut:
        begin = next(cut.frames())["id"]
    served.publish(xid(number=1))
    with session.listen(begin) as again:
        (answer,) = again.messages()
    assert answer["id"] == 1
    assert answer["result"]["structuredContent"]["events"][0]["kmsg_seq"] == 1


def test_an_event_id_of_another_session_opens_nothing(served: Served) -> None:
    mine, other = Session(served.port), Session(served.port)
    served.publish(xid(number=1))
    with mine.listen() as stream:
        served.publish(xid(number=2))
        _, last = pushed(stream.frames(), 1)
    with other.listen(last) as stream:
        assert stream.status == 400
        assert stream.json()["error"]["code"] == types.INVALID_REQUEST


@pytest.mark.parametrize("event_id", ["1", "nonsense", "0" * 2_000, "-s1"])
def test_an_event_id_that_was_never_given_out_is_refused(served: Served, event_id: str) -> None:
    with Session(served.port).listen(event_id) as stream:
        assert stream.status == 400
    wait_for(lambda: is_open(served, 0), "the request to be gone")


def test_one_sessions_answers_never_reach_another_that_uses_the_same_request_id(served: Served) -> None:
    """What one event store for all sessions would allow: their streams have the same names."""
    mine, other = Session(served.port), Session(served.port)
    begins = []
    for session in (mine, other):
        with session.post(call(1, "wait_for_xid", since=0, timeout_s=600)) as cut:
            begins.append(next(cut.frames())["id"])
    with mine.listen(begins[1]) as stream:
        assert stream.status == 400
    served.publish(xid(number=1))
    with mine.listen(begins[0]) as stream:
        assert [message["id"] for message in stream.messages()] == [1]
    assert len(set(map(id, _states(served)))) == 2


def _states(served: Served) -> list[Any]:
    (route,) = (route for route in served.app.routes if getattr(route, "path", "") == "/mcp")
    assert isinstance(route.endpoint, mcp_endpoint.McpEndpoint)  # type: ignore[attr-defined]
    return [session.state for session in route.endpoint._registry]  # type: ignore[attr-defined]


def test_the_end_of_a_session_ends_its_streams(served: Served) -> None:
    session = Session(served.port)
    with session.listen() as stream:
        served.publish(xid(number=1))
        _, last = pushed(stream.frames(), 1)
    with session.listen(last) as resumed:
        assert session.delete() == 200
        assert list(resumed.messages()) == []
    with session.listen(last) as gone:
        assert gone.status == 404
    wait_for(lambda: is_open(served, 0), "every request to be gone")


def test_an_unknown_session_is_404(served: Served) -> None:
    headers = {"Mcp-Session-Id": "0" * 32}
    with Exchange(served.port, "GET", "/mcp", headers=headers) as answer:
        assert answer.json()["error"]["message"] == "Session not found"
        assert answer.status == 404


def test_a_resumed_stream_ends_with_the_daemon(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    session = Session(served.port)
    with session.listen() as stream:
        served.publish(xid(number=1))
        _, last = pushed(stream.frames(), 1)
    with session.listen(last) as resumed:
        wait_for(lambda: is_open(served, 1), "the stream to be open")
        served.stop()
        assert list(resumed.messages()) == []
    assert served.failure is None
    assert not [record for record in caplog.records if record.levelname in {"WARNING", "ERROR"}]
