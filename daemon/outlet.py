"""How an outward path is doing: what carries events away by itself, without a client that asks.

Every such path is a reader of the stream with its own cursor. It tries again what could not be
delivered, and says so here: a path that is stuck and a path with nothing to say never look alike.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OutletHealth:
    """State of one outward path, for `status` and `/metrics`; a value."""

    name: str
    """`otlp-logs`, `node-events` …: a label value, so one of few."""
    up: bool
    """False while the last attempt failed, or the path cannot work here at all."""
    reason: str | None = None
    """One sentence: why it is not up; None while it is."""
    hint: str | None = None
    """What to do about it; None when nothing needs doing."""
    delivered: int = 0
    """Deliveries that were taken, since start."""
    failures: int = 0
    """Attempts that failed, since start; what failed is tried again."""
    dropped: int = 0
    """Events given up since start: the other side refused them for good, or they were deleted before it took
    them."""
    cursor: int = 0
    """Newest cursor that is behind it; 0 for a path that reports a state and no events."""
