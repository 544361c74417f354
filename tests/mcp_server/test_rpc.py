"""Reading JSON-RPC messages, and the requests that are under way."""

from __future__ import annotations

from typing import Any

import mcp_types as types
import pytest

from mcp_server.request_id import BEGINNING, END, id_in
from mcp_server.rpc import (
    IN_FLIGHT_BYTES,
    MAX_IN_FLIGHT,
    TOO_MANY,
    BadMessageError,
    InFlight,
    error_message,
    in_flight_room,
    parse_message,
)


def request(number: Any, method: str = "ping") -> types.JSONRPCRequest:
    """A request with this id."""
    return types.JSONRPCRequest(jsonrpc="2.0", id=number, method=method)


@pytest.mark.parametrize(
    ("data", "code", "number"),
    [
        (b"nonsense", types.PARSE_ERROR, None),
        (b"\xff", types.PARSE_ERROR, None),
        (b"[" * 100_000, types.PARSE_ERROR, None),
        (b"7", types.INVALID_REQUEST, None),
        (b"{}", types.INVALID_REQUEST, None),
        (b"[]", types.INVALID_REQUEST, None),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', types.INVALID_REQUEST, None),
        (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', types.INVALID_REQUEST, 1),
        (b'{"jsonrpc":"2.0","id":"a","method":7}', types.INVALID_REQUEST, "a"),
        (b'{"jsonrpc":"2.0","id":3,"method":"ping","params":"x"}', types.INVALID_REQUEST, 3),
        (b'{"jsonrpc":"2.0","id":true,"method":7}', types.INVALID_REQUEST, None),
    ],
)
def test_what_is_no_message_is_refused_as_the_protocol_says(data: bytes, code: int, number: Any) -> None:
    with pytest.raises(BadMessageError) as raised:
        parse_message(data)
    assert (raised.value.answer.error.code, raised.value.answer.id) == (code, number)
    assert len(raised.value.answer.error.message) < 100


def test_an_id_in_use_is_refused_until_its_request_is_answered() -> None:
    asked = InFlight(in_flight_room())
    asked.admit(request(1), 100)
    with pytest.raises(BadMessageError, match="id '1' is in use"):
        asked.admit(request("1"), 100)  # the SDK takes both for the same
    asked.answered(types.JSONRPCResponse(jsonrpc="2.0", id=1, result={}))
    asked.admit(request(1), 100)
    asked.answered(error_message(types.INTERNAL_ERROR, "x", 1))
    assert len(asked) == 0


def test_a_cancelled_request_is_not_answered_any_more() -> None:
    asked = InFlight(in_flight_room())
    asked.admit(request("a"), 100)
    cancelled = {"requestId": "a"}
    asked.admit(
        types.JSONRPCNotification(jsonrpc="2.0", method="notifications/cancelled", params=cancelled), 100
    )
    assert len(asked) == 0


def test_the_number_of_requests_is_bounded() -> None:
    asked = InFlight(in_flight_room())
    for number in range(MAX_IN_FLIGHT):
        asked.admit(request(number), 100)
    with pytest.raises(BadMessageError) as raised:
        asked.admit(request(MAX_IN_FLIGHT), 100)
    assert raised.value.answer.error.code == TOO_MANY
    asked.admit(types.JSONRPCNotification(jsonrpc="2.0", method="notifications/initialized"), 100)


def test_a_refused_request_does_not_free_the_id_it_wanted() -> None:
    asked = InFlight(in_flight_room())
    asked.admit(request(1), 100)
    for _ in range(2):
        with pytest.raises(BadMessageError):
            asked.admit(request(1), 100)


def test_what_requests_take_is_bounded_over_all_sessions_until_they_are_answered() -> None:
    room = in_flight_room()
    first, second = InFlight(room), InFlight(room)
    first.admit(request(1), IN_FLIGHT_BYTES // 2)
    with pytest.raises(BadMessageError, match="Too much is asked at once"):
        second.admit(request(1), 100_000)
    first.answered(types.JSONRPCResponse(jsonrpc="2.0", id=1, result={}))
    second.admit(request(1), 100_000)
    second.close()
    assert room.total == 0


def test_an_id_that_is_a_text_of_its_own_is_refused() -> None:
    with pytest.raises(BadMessageError, match="its id is longer than"):
        InFlight(in_flight_room()).admit(request("x" * 300), 400)


@pytest.mark.parametrize(
    ("line", "number"),
    [
        (b'{"jsonrpc":"2.0","id":7,"method":"x","params":{}}', 7),
        (b' { "id" : "a b" , "jsonrpc":"2.0"}', "a b"),
        (b'{"jsonrpc":"2.0","method":"x","id":7,"params":{}}', 7),
        (b'{"method":"x","params":{"id":3},"jsonrpc":"2.0","id":7}\n', 7),
        (b'{"method":"x","params":{"id":3},"id":"y","jsonrpc":"2.0"}', "y"),
        (b'{"params":{"id":7},"method":"x"}', None),
        (b'{"id":007,"method":"x"}', None),
        (b'{"id":"\x01","method":"x"}', None),
        (b"", None),
    ],
)
def test_the_id_of_a_message_is_found_where_it_stands_among_the_first_or_last(
    line: bytes, number: object
) -> None:
    assert id_in(line[:BEGINNING], line[-END:]) == number
