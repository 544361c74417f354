"""/events.json over real sockets."""

from __future__ import annotations

import pytest

from tests.mcp_server.samples import xid
from tests.mcp_server.serving import Served


def test_a_page_leads_to_the_next_one(served: Served) -> None:
    served.publish(*(xid(number=number) for number in range(5)))
    first = served.get("/events.json?since=0&limit=3").json
    second = served.get(f"/events.json?since={first['next_cursor']}&limit=3").json
    seen = [event["kmsg_seq"] for page in (first, second) for event in page["events"]]
    assert seen == [0, 1, 2, 3, 4]
    assert second["next_cursor"] == second["newest_cursor"]
    assert set(first) == {"events", "next_cursor", "oldest_cursor", "newest_cursor", "missed"}


def test_without_since_it_is_the_newest_in_ascending_order(served: Served) -> None:
    served.publish(*(xid(number=number) for number in range(5)))
    page = served.get("/events.json?limit=2").json
    assert [event["kmsg_seq"] for event in page["events"]] == [3, 4]


@pytest.mark.parametrize(("limit", "count"), [("0", 1), ("-7", 1), ("99999", 1_000)])
def test_limit_is_clamped(served: Served, limit: str, count: int) -> None:
    served.publish(*(xid(number=number) for number in range(1_100)))
    assert len(served.get(f"/events.json?since=0&limit={limit}").json["events"]) == count


def test_a_limit_of_nonsense_is_refused(served: Served) -> None:
    reply = served.get("/events.json?limit=many")
    assert (reply.status, reply.json["error"]) == (400, "limit: 'many' is not a number")


def test_a_cursor_from_the_future_is_refused_naming_the_newest(served: Served) -> None:
    newest = served.publish(xid())
    reply = served.get(f"/events.json?since={newest + 1}")
    assert reply.status == 400
    assert str(newest) in reply.json["error"]


def test_a_cursor_of_terminal_escapes_is_shown_harmless(served: Served) -> None:
    reply = served.get("/events.json?since=%1b%5b31m")
    assert (reply.status, reply.json["error"]) == (400, "since: '\\x1b[31m' is not a cursor")


def test_other_paths_and_methods_are_refused_in_the_same_shape(served: Served) -> None:
    for reply, status in ((served.get("/"), 404), (served.get("/events.json", method="DELETE"), 405)):
        assert reply.status == status
        assert set(reply.json) == {"error", "hint"}


def test_an_empty_parameter_is_one_that_is_not_there(served: Served) -> None:
    served.publish(xid(number=1), xid(number=2))
    assert len(served.get("/events.json?since=&limit=&severity=&code=").json["events"]) == 2
