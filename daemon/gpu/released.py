"""What came of letting go of the driver: values only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Released:
    """Processes that held the driver's device files open."""

    ended: tuple[int, ...] = ()
    """Pids of those that have ended: they hold nothing any more."""
    stuck: tuple[int, ...] = ()
    """Pids of those that have not: killed, but in a call of the driver that does not return. They hold the
    driver until it does."""
