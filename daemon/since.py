"""From when on: a cursor, a duration or a time, as people and assistants write it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from daemon.text import clean
from daemon.units import duration_us
from probes.errors import UserError


@dataclass(frozen=True, slots=True)
class Since:
    """Where to begin."""

    cursor: int
    """Events beyond this cursor; 0 for all."""
    time_us: int = 0
    """Of those, the ones that last happened at this time or later, µs since the Unix epoch; 0 for all."""


def parse_since(text: str, *, now_us: int, name: str = "since") -> Since:
    """`1769079606995`, `15m` or `2026-11-22T11:20Z` (a time without zone is local).

    `name` is what the error calls it. Raises UserError.
    """
    if re.fullmatch(r"[0-9]{1,18}", text, re.ASCII):
        return Since(int(text))
    if re.fullmatch(r"[0-9.]+ ?[A-Za-z]+", text, re.ASCII):
        return Since(0, max(now_us - duration_us(text), 1))
    try:
        return Since(0, max(int(datetime.fromisoformat(text).timestamp() * 1_000_000), 1))
    except (ValueError, OverflowError, OSError):
        raise UserError(
            f"{name}: {clean(text, 60)!r} is neither a cursor, nor a duration, nor a time",
            hint="write for example 1769079606995, 15m, 7d or 2026-11-22T11:20:00Z",
        ) from None
