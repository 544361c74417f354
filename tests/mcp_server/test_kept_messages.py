"""What a session keeps for streams that are taken up again."""

from __future__ import annotations

import mcp_types as types
import pytest

from mcp_server.kept_messages import PUSHES, KeptMessages, Shelf
from mcp_server.rpc import Message


def push(number: int, text: str = "") -> Message:
    """A notification."""
    return types.JSONRPCNotification(jsonrpc="2.0", method="x", params={"number": number, "text": text})


def numbers(kept: KeptMessages, event_id: str) -> list[int]:
    """The notifications after an event."""
    place = kept.find(event_id)
    assert place is not None
    messages = [each.message for each in kept.after(place)]
    return [m.params["number"] for m in messages if isinstance(m, types.JSONRPCNotification) and m.params]


def test_a_stream_is_taken_up_after_the_last_event_that_came() -> None:
    kept = KeptMessages()
    first, *_ = [kept.add(PUSHES, push(number)) for number in range(4)]
    kept.add("7", push(99))
    assert numbers(kept, first) == [1, 2, 3]


def test_the_stream_of_a_request_holds_its_own_messages_only() -> None:
    kept = KeptMessages()
    begin = kept.add("7", None)
    kept.add("8", push(1))
    kept.add(PUSHES, push(2))
    kept.add("7", push(3))
    kept.add("7", types.JSONRPCResponse(jsonrpc="2.0", id=7, result={}))
    assert numbers(kept, begin) == [3]
    place = kept.find(begin)
    assert place is not None
    assert [each.ends_stream for each in kept.after(place)] == [False, True]


def test_messages_and_bytes_are_bounded_and_a_late_client_gets_what_is_left() -> None:
    kept = KeptMessages(most=3, most_bytes=1_000)
    first, *_ = [kept.add(PUSHES, push(number)) for number in range(10)]
    assert numbers(kept, first) == [7, 8, 9]
    kept.add(PUSHES, push(10, "x" * 900))
    assert numbers(kept, first) == [10]


def test_calls_do_not_push_out_what_was_pushed() -> None:
    kept = KeptMessages(most=3)
    first = kept.add(PUSHES, push(0))
    kept.add(PUSHES, push(1))
    for number in range(100):
        kept.add(str(number), None)
    assert numbers(kept, first) == [1]


def test_an_answer_too_large_to_keep_is_replaced_by_an_error_for_its_request() -> None:
    kept = KeptMessages(most_bytes=1_000)
    begin = kept.add("7", None)
    kept.add("7", types.JSONRPCResponse(jsonrpc="2.0", id=7, result={"text": "x" * 2_000}))
    place = kept.find(begin)
    assert place is not None
    (answer,) = kept.after(place)
    assert isinstance(answer.message, types.JSONRPCError)
    assert (answer.message.id, answer.ends_stream) == (7, True)


@pytest.mark.parametrize("event_id", ["", "1", "x-s1", "s1", "-", "☃", "0" * 5_000])
def test_an_id_that_was_never_given_out_is_unknown(event_id: str) -> None:
    kept = KeptMessages()
    known = kept.add(PUSHES, push(1))
    assert kept.find(event_id) is None
    assert kept.find(f"{known}0") is None
    assert kept.find(f"{known} ") is None


def test_the_ids_of_one_session_mean_nothing_in_another() -> None:
    mine, other = KeptMessages(), KeptMessages()
    other.add(PUSHES, push(1))
    assert other.find(mine.add(PUSHES, push(1))) is None


def test_the_stream_of_a_forgotten_request_cannot_be_resumed() -> None:
    kept = KeptMessages(most=2)
    begin = kept.add("7", None)
    for number in range(3):
        kept.add(str(number), None)
    assert kept.find(begin) is None


def test_a_push_to_every_session_is_kept_once() -> None:
    shelf = Shelf()
    sessions = [KeptMessages(shelf) for _ in range(100)]
    first = [kept.add(PUSHES, push(0)) for kept in sessions]
    for number in range(1, 4):
        for kept in sessions:
            kept.add(PUSHES, push(number, "x" * 1_000))
    assert shelf.bytes < 4_000
    for kept, event_id in zip(sessions, first, strict=True):
        assert numbers(kept, event_id) == [1, 2, 3]
        kept.clear()
    assert shelf.bytes == 0


def test_all_sessions_together_are_bounded_and_the_one_that_keeps_most_forgets_first() -> None:
    shelf = Shelf(10_000)
    waiting, busy = KeptMessages(shelf), KeptMessages(shelf)
    mark = waiting.add("7", None)
    first = waiting.add(PUSHES, push(0))
    for number in range(1, 4):
        waiting.add(PUSHES, push(number, "w" * 1_000))
    for number in range(100):
        busy.add(str(number), types.JSONRPCResponse(jsonrpc="2.0", id=number, result={"text": "b" * 1_000}))
    assert shelf.bytes <= 10_000
    assert numbers(waiting, first) == [1, 2, 3]
    assert waiting.find(mark) is not None


def test_what_is_said_in_a_session_that_has_ended_is_not_kept() -> None:
    shelf = Shelf()
    kept = KeptMessages(shelf)
    kept.clear()
    kept.add(PUSHES, push(1))
    assert shelf.bytes == 0
    assert not shelf._owners
