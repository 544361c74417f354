"""Lines on the unix socket: cut into any pieces a stream gives the lines that were sent, and tells long ones.

And each line as a message of JSON-RPC.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Final

import mcp_types as types

from mcp_server.lines import LineReader, LineTooLongError
from mcp_server.rpc import BadMessageError, parse_message, to_json
from tests.fuzz.choices import LOG_CHARACTERS, Choices
from tests.fuzz.event_loop import run

LIMIT: Final = 2_000
"""Bytes of a line in these streams: above what is looked at of a line that is too long."""
MOST_LINES: Final = 6
MOST_PIECES: Final = 60


class Pieces:
    """A stream that gives these pieces, one a read."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = iter([piece for piece in pieces if piece])

    async def read(self, _: int, /) -> bytes:
        """The next piece."""
        return next(self._pieces, b"")


class TooLong:
    """What stands for a line that was refused for its length."""

    def __init__(self, request_id: int | str | None) -> None:
        self.request_id = request_id


def any_message(data: bytes) -> None:
    """Any line as a message of JSON-RPC: a message, or an error that can be sent back."""
    try:
        message = parse_message(data)
    except BadMessageError as error:
        answer = error.answer
        assert answer.error.code in (types.PARSE_ERROR, types.INVALID_REQUEST)
        assert "\n" not in to_json(answer)
        json.loads(to_json(answer))
        return
    sent = to_json(message)
    assert "\n" not in sent
    assert to_json(parse_message(sent.encode())) == sent


def cut_stream(data: bytes) -> None:
    """However a stream is cut, its lines come whole and in order."""
    choices = Choices(data)
    lines = [_line(choices) for _ in range(choices.between(1, MOST_LINES))]
    stream = b"".join(lines)
    if choices.flag():
        stream = stream.removesuffix(b"\n")
    pieces = list(_cut(stream, choices))
    expected = [line for line in stream.splitlines(keepends=True) if line]
    read = run(_read(pieces))
    assert len(read) == len(expected)
    for found, line in zip(read, expected, strict=True):
        if isinstance(found, TooLong):
            assert len(line.removesuffix(b"\n")) > LIMIT
            assert found.request_id == _id_of(line), line
        else:
            assert found == line
            assert len(line.removesuffix(b"\n")) <= LIMIT


def _line(choices: Choices) -> bytes:
    """A request of about the length that is allowed, or text of no meaning; with its newline."""
    length = choices.one_of((0, 10, LIMIT - 60, LIMIT - choices.number(60), LIMIT + 1, 3 * LIMIT))
    if choices.flag():
        text = choices.word(LOG_CHARACTERS.replace('"', ""), 40, least=0)
        return (text + "x" * length).encode() + b"\n"
    request_id = choices.one_of((choices.number(2**53), choices.word("abc-é ", 20), 0))
    fields: dict[str, object] = {"jsonrpc": "2.0", "method": choices.word("abc/", 20), "id": request_id}
    padding = {"params": {"text": "x" * length}}
    message = fields | padding if choices.flag() else padding | fields
    return json.dumps(message, ensure_ascii=choices.flag()).encode() + b"\n"


def _id_of(line: bytes) -> int | str | None:
    """The id that the line was written with."""
    try:
        message = json.loads(line)
    except ValueError:
        return None
    found = message.get("id")
    # An id that is written with escapes is not looked for in a line that is not kept.
    return None if isinstance(found, str) and b"\\u" in line else found


def _cut(stream: bytes, choices: Choices) -> Iterator[bytes]:
    at = 0
    for _ in range(MOST_PIECES):
        size = choices.between(1, choices.one_of((len(stream), 1, 7, 600)))
        yield stream[at : at + size]
        at += size
    yield stream[at:]


async def _read(pieces: Sequence[bytes]) -> list[bytes | TooLong]:
    reader = LineReader(Pieces(pieces), limit=LIMIT)
    found: list[bytes | TooLong] = []
    while True:
        try:
            line = await reader.next()
        except LineTooLongError as error:
            found.append(TooLong(error.request_id))
            continue
        if not line:
            return found
        found.append(line)
