"""Lines that went out before the log showed them, as they are saved.

A probe that has no stamps of the log's own brought them: the log may show them only after a restart, and
then they must be recognised, once each, and not be counted again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from probes.line import KernelLine, Origin

STATE_KEY = "ahead of the log"
"""Name of the row of saved state that holds them, among those of open faults."""
MOST = 256
"""Lines that are saved; of more, the last ones."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """One line that the log has not shown yet."""

    line: KernelLine
    """As it went out: under an estimate of the kernel time that the log gives it."""
    stamp_us: int
    """CLOCK_MONOTONIC in µs when it was printed."""
    tolerance_us: int
    """How far the estimate may be wrong."""


@dataclass(frozen=True, slots=True)
class Led:
    """What a line led to."""

    event: str
    """Id of the event."""
    is_proved: bool
    """The event has been proved since, by another of its lines: this one is counted in it."""


HomeOf = Callable[[KernelLine], Led | None]
"""What a line led to; None when it led to no event."""


def dump(lines: Iterable[Ahead], home_of: HomeOf) -> str | None:
    """The lines, the last one first, as one line of JSON; None when there are none."""
    rows = [_row(each, home_of(each.line)) for each in islice(lines, MOST)]
    return json.dumps(rows) if rows else None


def load(text: str) -> list[tuple[Ahead, Led | None]]:
    """What `dump` gave, the first one first, each with what it led to.

    Raises ValueError, TypeError or KeyError when the text is none.
    """
    return [_ahead(row) for row in reversed(json.loads(text))]


def _row(ahead: Ahead, led: Led | None) -> dict[str, Any]:
    line = ahead.line
    return {
        "text": line.text,
        "origin": line.origin,
        "boot_id": line.boot_id,
        "kernel_us": line.kernel_us,
        "arrival_us": line.arrival_us,
        "wall_us": line.wall_us,
        "probe": line.probe,
        "stamp_us": ahead.stamp_us,
        "tolerance_us": ahead.tolerance_us,
        "event": None if led is None else led.event,
        "event_is_proved": led is not None and led.is_proved,
    }


def _ahead(row: dict[str, Any]) -> tuple[Ahead, Led | None]:
    line = KernelLine(
        text=str(row["text"]),
        origin=Origin(row["origin"]),
        boot_id=str(row["boot_id"]),
        seq=None,
        kernel_us=int(row["kernel_us"]),
        arrival_us=int(row["arrival_us"]),
        wall_us=int(row["wall_us"]),
        wall_is_estimate=False,
        probe=str(row["probe"]),
        printed_us=int(row["stamp_us"]),
    )
    led = None if row["event"] is None else Led(str(row["event"]), row["event_is_proved"] is True)
    return Ahead(line, int(row["stamp_us"]), int(row["tolerance_us"])), led
