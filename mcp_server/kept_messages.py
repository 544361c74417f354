"""What a session of `/mcp` has said lately, so that a stream that was cut can be taken up again.

Bounded in messages and bytes; what is oldest goes first. An answer too large to be kept is
replaced by an error that says so: a client that resumes its request then asks again instead of
waiting for ever. Whoever resumes after more was forgotten gets what is left: the cursor in every
push shows the hole, and `get_xid_events` fills it.

Messages are kept as the JSON that was sent. A push says the same to every session, and the `Shelf`
keeps it once for all of them; it also bounds what all sessions keep together.

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

from mcp_server.rpc import TOO_MANY, Message, error_message, parse_message, to_json

MAX_MESSAGES: Final = 128
"""Of pushes, and again of everything that belongs to requests."""
MAX_BYTES: Final = 128 * 1024
"""As JSON; again for each of the two."""
SHELF_BYTES: Final = 32 * 1024 * 1024
"""What all sessions keep together."""
PUSHES: Final = "_GET_stream"
"""The SDK's name for the stream that belongs to no request."""


class Shelf:
    """The texts that sessions keep, each of them once. Belongs to the event loop.

    When they take more than they may, the session that keeps most forgets first.
    """

    def __init__(self, most_bytes: int = SHELF_BYTES) -> None:
        self.bytes = 0
        """What the texts take now."""
        self._most_bytes = most_bytes
        self._texts: dict[bytes, _Shared] = {}
        self._owners: set[KeptMessages] = set()

    def put(self, owner: KeptMessages, text: bytes) -> bytes:
        """Keep a text for a session; the one object that all who keep it share."""
        shared = self._texts.get(text)
        if shared is None:
            shared = self._texts[text] = _Shared(text)
            self.bytes += len(text)
        shared.owners += 1
        self._owners.add(owner)
        return shared.text

    def drop(self, text: bytes) -> None:
        """A session keeps this text no longer."""
        shared = self._texts[text]
        shared.owners -= 1
        if not shared.owners:
            del self._texts[text]
            self.bytes -= len(text)

    def leave(self, owner: KeptMessages) -> None:
        """A session keeps nothing any more."""
        self._owners.discard(owner)

    def make_room(self) -> None:
        """Let sessions forget until what is left is within the bound."""
        while self.bytes > self._most_bytes:
            fullest = max(self._owners, key=lambda owner: owner.size)
            if not fullest.forget_oldest():
                # Nobody keeps an answer any more: pushes that say something else to each session.
                max(self._owners, key=lambda owner: owner.pushes_size).forget_pushes()


@dataclass(slots=True)
class _Shared:
    text: bytes
    owners: int = 0


@dataclass(frozen=True, slots=True)
class Kept:
    """One message."""

    number: int
    """Grows through the session."""
    stream: str
    """`PUSHES`, or the request's id as text."""
    text: bytes
    """The message as JSON; empty: marks where a stream begins."""
    ends_stream: bool
    """Whether it is the answer to its stream's request."""

    @property
    def message(self) -> Message | None:
        """The message; None where a stream begins."""
        return parse_message(self.text) if self.text else None


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a stream to go on from."""

    stream: str
    number: int
    ends_stream: bool = False
    """Nothing comes after it."""


class KeptMessages:
    """The messages of one session."""

    def __init__(
        self, shelf: Shelf | None = None, *, most: int = MAX_MESSAGES, most_bytes: int = MAX_BYTES
    ) -> None:
        self._shelf = shelf or Shelf()
        self._most = most
        self._most_bytes = most_bytes
        self._token = secrets.token_hex(8)
        self._id = re.compile(rf"{self._token}-([sr])([0-9]{{1,15}})", re.ASCII)
        self._last = 0
        self._cleared = False
        self._pushes = _Log()
        self._requests = _Log()

    def add(self, stream: str, message: Message | None) -> str:
        """Keep a message; its event id. After `clear` nothing is kept any more."""
        self._last += 1
        if self._cleared:
            return self._event_id(stream, self._last)
        log = self._pushes if stream == PUSHES else self._requests
        text = to_json(message).encode() if message is not None else b""
        if len(text) > self._most_bytes:
            message = _too_large(message)
            text = to_json(message).encode() if message is not None else b""
        is_answer = isinstance(message, types.JSONRPCResponse | types.JSONRPCError)
        kept = Kept(
            self._last, stream, self._shelf.put(self, text), ends_stream=is_answer and stream != PUSHES
        )
        log.messages.append(kept)
        log.bytes += len(text)
        while len(log.messages) > self._most or log.bytes > self._most_bytes:
            self._forget_first(log)
        self._shelf.make_room()
        return self.event_id(kept)

    def event_id(self, kept: Kept) -> str:
        """The id by which a client names this message."""
        return self._event_id(kept.stream, kept.number)

    def _event_id(self, stream: str, number: int) -> str:
        return f"{self._token}-{'s' if stream == PUSHES else 'r'}{number}"

    def find(self, event_id: str) -> Position | None:
        """The place after this event; None when the id is not of this session, or its stream is forgotten."""
        found = self._id.fullmatch(event_id)
        if found is None or int(found[2]) > self._last:
            return None
        number = int(found[2])
        if found[1] == "s":
            return Position(PUSHES, number)
        kept = next((kept for kept in self._requests.messages if kept.number == number), None)
        return None if kept is None else Position(kept.stream, number, kept.ends_stream)

    def after(self, position: Position) -> Iterator[Kept]:
        """What is kept of the stream beyond the place."""
        for kept in list((self._pushes if position.stream == PUSHES else self._requests).messages):
            if kept.number > position.number and kept.stream == position.stream:
                yield kept

    @property
    def size(self) -> int:
        """What belongs to requests of this session, in bytes. Pushes are mostly everybody's."""
        return self._requests.bytes

    @property
    def pushes_size(self) -> int:
        """What was pushed to this session, in bytes."""
        return self._pushes.bytes

    def forget_oldest(self) -> bool:
        """Forget the oldest message of a request; False when there is none."""
        oldest = next((kept for kept in self._requests.messages if kept.text), None)  # a mark takes no room
        if oldest is None:
            return False
        self._requests.messages.remove(oldest)
        self._dropped(self._requests, oldest)
        return True

    def forget_pushes(self) -> None:
        """Forget all that was pushed."""
        while self._pushes.messages:
            self._forget_first(self._pushes)

    def clear(self) -> None:
        """Forget everything: the session has ended."""
        self._cleared = True
        for log in (self._pushes, self._requests):
            for kept in log.messages:
                self._shelf.drop(kept.text)
            log.messages.clear()
            log.bytes = 0
        self._shelf.leave(self)

    def _forget_first(self, log: _Log) -> None:
        self._dropped(log, log.messages.popleft())

    def _dropped(self, log: _Log, kept: Kept) -> None:
        log.bytes -= len(kept.text)
        self._shelf.drop(kept.text)


class _Log:
    def __init__(self) -> None:
        self.messages: deque[Kept] = deque()
        self.bytes = 0


def _too_large(message: Message | None) -> Message | None:
    if not isinstance(message, types.JSONRPCResponse):
        return None
    return error_message(TOO_MANY, "The answer was too large to be kept for you: ask again", message.id)
