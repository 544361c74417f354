"""What became of one try to send, and what an HTTP status says about who is at fault.

Three things can be wrong, and each asks for something else:

* nobody is there to take it (`AWAY`): it is tried until it works, however long that takes;
* the receiver takes nothing from us (`CLOSED`: wrong token, wrong path, its own error): the same, unless
  a later event gets through, which shows that it was this one;
* the receiver does not take this event (`REFUSED`): after a few tries it is skipped, and that is said.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from http import HTTPStatus
from typing import Final

LONGEST_RETRY_AFTER_S: Final = 3_600.0
"""What a receiver may ask for at most: an alarm that waits longer helps nobody."""

SAID_CHARS: Final = 200
"""Of what a receiver says to a failure: one line in a log or in `status`."""

_AWAY: Final = frozenset({408, 425, 429, 502, 503, 504})
_CLOSED: Final = frozenset({401, 402, 403, 404, 405, 407, 410, 421, 423, 424, 426, 451})


class Fate(StrEnum):
    """What became of a try."""

    DELIVERED = "delivered"
    AWAY = "away"
    """No answer, or one that says `not now`."""
    CLOSED = "closed"
    """An answer that is about us or the receiver, not about this event."""
    REFUSED = "refused"
    """An answer that is about what was sent."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One try."""

    fate: Fate
    said: str
    """One clause for people: `204 No Content`, `refused the connection`. What a receiver wrote is cleaned
    and cut."""
    retry_after_s: float | None = None
    """How long the receiver asks to be left alone, at most `LONGEST_RETRY_AFTER_S`; None: it asks nothing."""

    @property
    def is_delivered(self) -> bool:
        """True when the receiver has taken it."""
        return self.fate is Fate.DELIVERED


def fate_of(status: int) -> Fate:
    """What an HTTP status means for what was sent. A redirect is not followed: it could lead anywhere."""
    if 200 <= status < 300:
        return Fate.DELIVERED
    if status in _AWAY:
        return Fate.AWAY
    if status in _CLOSED or not 400 <= status < 500:
        return Fate.CLOSED
    return Fate.REFUSED


def status_words(status: int) -> str:
    """`503 Service Unavailable`; the number alone for one that has no name."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def retry_after_s(header: str | None, now_s: float) -> float | None:
    """Seconds that a Retry-After header asks for: a number, or a date compared with `now_s`, the wall
    clock in s since the Unix epoch. None for none, and for one that says nothing."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return min(float(text), LONGEST_RETRY_AFTER_S)
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    seconds = (aware - datetime.fromtimestamp(now_s, UTC)).total_seconds()
    return min(max(0.0, seconds), LONGEST_RETRY_AFTER_S) if math.isfinite(seconds) else None
