from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.gpu.protocol import (
    LARGEST,
    Decoder,
    Done,
    Failed,
    Message,
    ProtocolError,
    Ready,
    Request,
    Trouble,
    encode,
)

_json = st.dictionaries(
    st.text(), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers())
)
_ids = st.integers(min_value=0)
_messages: st.SearchStrategy[Message] = st.one_of(
    st.just(Ready()),
    st.builds(Request, _ids, st.text(), st.none() | st.text(), _json),
    st.builds(Done, _ids, _json, _ids),
    st.builds(
        Failed, _ids, st.sampled_from(Trouble), st.text(), st.none() | st.text(), st.none() | st.integers()
    ),
)


@given(st.lists(_messages), st.integers(min_value=1, max_value=50))
def test_messages_survive_the_socket_however_it_cuts_them(messages: list[Message], size: int) -> None:
    wire = b"".join(encode(message) for message in messages)
    decoder = Decoder()
    received: list[Message] = []
    for at in range(0, len(wire), size):
        received += decoder.feed(wire[at : at + size])
    assert received == messages


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[]",
        b"7",
        b'"ready"',
        b"{}",
        b'{"ready": false}',
        b'{"id": "1", "data": {}, "took_us": 1}',
        b'{"id": 1, "operation": "x", "gpu": 3, "arguments": {}}',
        b'{"id": 1, "data": [], "took_us": 1}',
        b'{"id": 1, "trouble": "unheard of", "reason": "", "call": null, "code": null}',
        b'{"id": 1, "trouble": "hung", "reason": "", "call": 7, "code": null}',
        b'{"id": 1, "trouble": "hung", "reason": "", "call": null, "code": "9"}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_what_is_no_message_is_an_error(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(Decoder().feed(len(body).to_bytes(4, "big") + body))


def test_a_length_beyond_all_reason_is_an_error_before_its_bytes_are_awaited() -> None:
    with pytest.raises(ProtocolError, match="longer than"):
        list(Decoder().feed((LARGEST + 1).to_bytes(4, "big")))


def test_a_message_that_nobody_would_accept_is_not_sent() -> None:
    with pytest.raises(ProtocolError, match="longer than"):
        encode(Done(1, {"text": "x" * LARGEST}, 1))


def test_a_message_is_json_behind_its_length() -> None:
    wire = encode(Request(7, "health", "0000:18:00.0", {}))
    assert int.from_bytes(wire[:4], "big") == len(wire) - 4
    assert json.loads(wire[4:]) == {
        "id": 7,
        "operation": "health",
        "gpu": "0000:18:00.0",
        "arguments": {},
    }
