"""/events over real sockets."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from daemon.event import Severity
from daemon.page import Marks
from tests.mcp_server.samples import revised, xid
from tests.mcp_server.serving import SMALL_RING, Served


def test_a_reader_without_a_cursor_gets_hello_and_then_only_what_is_new(served: Served) -> None:
    newest = served.publish(xid(number=1))
    with served.events() as reader:
        assert reader.hello["event"] == "hello"
        assert json.loads(reader.hello["data"])["newest_cursor"] == newest
        assert reader.hello["id"] == str(newest)
        cursor = served.publish(xid(number=2))
        frame = reader.frame()
    assert frame["id"] == str(cursor)
    assert "event" not in frame
    event = json.loads(frame["data"])
    assert (event["id"], event["cursor"], event["code"]) == ("ev_79_2", cursor, 79)


def test_the_reconnect_delay_differs_between_readers(served: Served) -> None:
    delays = set()
    for _ in range(8):
        with served.events() as reader:
            delays.add(int(reader.hello["retry"]))
    assert len(delays) > 1
    assert all(1_000 <= delay <= 5_000 for delay in delays)


def test_since_0_sends_everything_kept_in_order_and_no_superseded_revision(served: Served) -> None:
    first, second = xid(number=1), xid(number=2)
    served.publish(first, second)
    served.publish(revised(first, count=5))
    with served.events("?since=0") as reader:
        frames = [json.loads(reader.frame()["data"]) for _ in range(2)]
    assert [(event["id"], event["count"]) for event in frames] == [(second.id, 1), (first.id, 5)]


def test_last_event_id_beats_since(served: Served) -> None:
    served.publish(xid(number=1))
    middle = served.publish(xid(number=2))
    served.publish(xid(number=3))
    with served.events("?since=0", {"Last-Event-ID": str(middle)}) as reader:
        assert json.loads(reader.frame()["data"])["id"] == "ev_79_3"


def test_filters_may_repeat_and_hold_commas(served: Served) -> None:
    with served.events("?code=13,31&code=79&severity=critical&gpu=3&kind=xid") as reader:
        served.publish(xid(43), xid(13, severity=Severity.WARNING), xid(31), xid(79))
        codes = [json.loads(reader.frame()["data"])["code"] for _ in range(2)]
    assert codes == [31, 79]


def test_many_events_arrive_complete_and_in_order(served: Served) -> None:
    with served.events() as reader:
        served.publish(*(xid(number=number) for number in range(1_500)))
        numbers = [json.loads(reader.frame()["data"])["kmsg_seq"] for _ in range(1_500)]
    assert numbers == list(range(1_500))


def test_what_retention_deleted_is_told_once_without_an_id(served: Served) -> None:
    served.publish(*(xid(number=number) for number in range(250)))
    served.stream.journal_reaches(Marks(0, 0, 1_240))
    with served.events("?since=1005") as reader:
        frames = [reader.frame() for _ in range(245)]
    missed = [frame for frame in frames if frame.get("event") == "missed"]
    assert missed == [{"event": "missed", "data": '{"first": 1006, "last": 1240}'}]
    assert frames[0] == missed[0]


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("since=yesterday", "since: 'yesterday' is not a cursor"),
        ("since=-1", "since: '-1' is not a cursor"),
        ("since=99999999999999999999999", "is not a cursor"),
        ("since=1%0d%0aX:1", "is not a cursor"),
        ("since=999999999999", "is ahead of the newest"),
        ("severity=bad", "bad"),
        ("kind=ecc", "ecc"),
        ("code=seventy", "seventy"),
        ("severty=fatal", "unknown parameter 'severty'"),
        ("limit=5", "unknown parameter 'limit'"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused_with_a_sentence(
    served: Served, query: str, sentence: str
) -> None:
    reply = served.get(f"/events?{query}")
    assert reply.status == 400
    assert sentence in reply.json["error"]
    assert set(reply.json) == {"error", "hint"}


def test_a_last_event_id_of_nonsense_is_refused(served: Served) -> None:
    reply = served.get("/events", {"Last-Event-ID": "x"})
    assert (reply.status, reply.json["error"]) == (400, "Last-Event-ID: 'x' is not a cursor")


def test_head_answers_and_opens_no_stream(served: Served) -> None:
    reply = served.get("/events", method="HEAD")
    assert (reply.status, reply.body) == (200, b"")
    assert reply.headers["content-type"].startswith("text/event-stream")


def test_curl_sees_the_event(served: Served) -> None:
    with subprocess.Popen(
        ["curl", "-sN", f"{served.url}/events?severity=fatal"], stdout=subprocess.PIPE
    ) as curl:
        assert curl.stdout is not None
        try:
            while b"hello" not in curl.stdout.readline():
                pass
            cursor = served.publish(xid())
            while not (line := curl.stdout.readline()).startswith(b"id: "):
                pass
        finally:
            curl.kill()
    assert line == b"id: %d\n" % cursor


def test_a_reader_with_a_rare_filter_learns_how_far_it_was_looked() -> None:
    with Served(idle_s=0.05) as served, served.events("?code=31") as reader:
        cursor = served.publish(xid(79, number=1), xid(79, number=2))
        while "id" not in (frame := reader.frame()):
            assert frame == {"comment": "quiet"}
        assert frame == {"comment": "quiet", "id": str(cursor)}
        assert reader.frame() == {"comment": "quiet"}


def test_a_reader_behind_the_ring_misses_nothing(tmp_path: Path) -> None:
    with Served(state_dir=tmp_path) as served:
        served.publish(*(xid(number=number) for number in range(5 * SMALL_RING)))
        with served.events("?since=0") as reader:
            frames = [reader.frame() for _ in range(5 * SMALL_RING)]
            served.publish(xid(number=9_999))
            assert json.loads(reader.frame()["data"])["kmsg_seq"] == 9_999
        with served.events(headers={"Last-Event-ID": frames[99]["id"]}) as resumed:
            assert resumed.frame() == frames[100]
    assert [json.loads(frame["data"])["kmsg_seq"] for frame in frames] == list(range(5 * SMALL_RING))
