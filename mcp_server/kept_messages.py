"""What a session of `/mcp` has said lately, so that a stream that was cut can be taken up again.

Bounded in messages and bytes; what is oldest goes first. An answer too large to be kept is
replaced by an error that says so: a client that resumes its request then asks again instead of
waiting for ever. Whoever resumes after more was forgotten gets what is left: the cursor in every
push shows the hole, and `get_xid_events` fills it.

Event ids are `SESSION-sNUMBER` on the stream for pushes and `SESSION-rNUMBER` on that of a
request. `SESSION` is random, so that the ids of one session mean nothing in another.
"""

from __future__ import annotations

import re
import secrets
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import mcp_types as types

from mcp_server.rpc import TOO_MANY, Message, error_message, to_json

MAX_MESSAGES: Final = 128
"""Of pushes, and again of everything that belongs to requests."""
MAX_BYTES: Final = 128 * 1024
"""As JSON; again for each of the two."""
PUSHES: Final = "_GET_stream"
"""The SDK's name for the stream that belongs to no request."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One message."""

    event_id: str
    number: int
    """Grows through the session."""
    stream: str
    """`PUSHES`, or the request's id as text."""
    message: Message | None
    """None: marks where a stream begins."""
    size: int

    @property
    def ends_stream(self) -> bool:
        """Whether it is the answer to its stream's request."""
        return isinstance(self.message, types.JSONRPCResponse | types.JSONRPCError) and self.stream != PUSHES


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a stream to go on from."""

    stream: str
    number: int


class KeptMessages:
    """The messages of one session."""

    def __init__(self, *, most: int = MAX_MESSAGES, most_bytes: int = MAX_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._token = secrets.token_hex(8)
        self._id = re.compile(rf"{self._token}-([sr])([0-9]{{1,15}})", re.ASCII)
        self._last = 0
        self._pushes: deque[Kept] = deque()
        self._requests: deque[Kept] = deque()
        self._bytes = {id(self._pushes): 0, id(self._requests): 0}

    def add(self, stream: str, message: Message | None) -> str:
        """Keep a message; its event id."""
        log, letter = (self._pushes, "s") if stream == PUSHES else (self._requests, "r")
        size = len(to_json(message)) if message is not None else 0
        if size > self._most_bytes:
            message = _too_large(message)
            size = len(to_json(message)) if message is not None else 0
        self._last += 1
        event_id = f"{self._token}-{letter}{self._last}"
        log.append(Kept(event_id, self._last, stream, message, size))
        self._bytes[id(log)] += size
        while len(log) > self._most or self._bytes[id(log)] > self._most_bytes:
            self._bytes[id(log)] -= log.popleft().size
        return event_id

    def find(self, event_id: str) -> Position | None:
        """The place after this event; None when the id is not of this session, or its stream is forgotten."""
        found = self._id.fullmatch(event_id)
        if found is None or int(found[2]) > self._last:
            return None
        number = int(found[2])
        if found[1] == "s":
            return Position(PUSHES, number)
        stream = next((kept.stream for kept in self._requests if kept.number == number), None)
        return None if stream is None else Position(stream, number)

    def after(self, position: Position) -> Iterator[Kept]:
        """What is kept of the stream beyond the place."""
        for kept in list(self._pushes if position.stream == PUSHES else self._requests):
            if kept.number > position.number and kept.stream == position.stream:
                yield kept


def _too_large(message: Message | None) -> Message | None:
    if not isinstance(message, types.JSONRPCResponse):
        return None
    return error_message(TOO_MANY, "The answer was too large to be kept for you: ask again", message.id)
