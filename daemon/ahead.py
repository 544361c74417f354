"""Lines that went out before the log showed them, as they are saved.

A probe that has no stamps of the log's own brought them: the log may show them only after a restart, and
then they must be recognised, once each, and not be counted again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from daemon.fault import OpenFault
from daemon.same_line import apart, contradict, first_line, is_fragment_of
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
    ended: str | None = None
    """That event as an open fault is saved, where it is proved but for some lines and no longer open: should
    a process have written this one, it is counted out again. None: it is open, or needs no more."""


Saved = tuple[Ahead, Led | None]
"""A line, and what it led to."""

HomeOf = Callable[[KernelLine], Led | None]
"""What a line led to; None when it led to no event."""


def as_json(line: Saved) -> str:
    """One line and what it led to, as JSON."""
    return json.dumps(_row(*line))


def dump(lines: Sequence[Saved], text_of: Callable[[Saved], str] = as_json) -> str | None:
    """The lines, the last one first, and what they led to, as one line of JSON; None when there are none."""
    return f"[{', '.join(map(text_of, lines))}]" if lines else None


def load(text: str) -> list[Saved]:
    """The lines of a saved row, the first one first, each with what it led to.

    Raises ValueError, TypeError or KeyError when the text is none.
    """
    return [_ahead(row) for row in reversed(json.loads(text))]


class SavedAhead:
    """The row of saved state, written down anew only when the lines or what they led to have changed; and
    of each line only once, unless what it led to has."""

    def __init__(self, lines: Callable[[], Iterable[Ahead]], home_of: HomeOf) -> None:
        """`lines` gives all of them, the last one first."""
        self._lines = lines
        self._home_of = home_of
        self._dumped: Sequence[Saved] = []
        self._texts: dict[int, tuple[Saved, str]] = {}  # by id of the line's object, which is held here
        self._text: str | None = None
        self._taken: str | None = None

    def snapshot(self) -> Mapping[str, str]:
        """The row, by its name; nothing when there are no lines."""
        lines = [(each, self._home_of(each.line)) for each in islice(self._lines(), MOST)]
        if lines != self._dumped:
            self._dumped = lines
            texts = {id(each[0]): (each, self._text_of(each)) for each in lines}
            self._text = dump(lines, lambda each: texts[id(each[0])][1])
            self._texts = texts
        return {} if self._text is None else {STATE_KEY: self._text}

    def _text_of(self, line: Saved) -> str:
        known = self._texts.get(id(line[0]))
        return known[1] if known is not None and known[0] == line else as_json(line)

    def take_changes(self) -> tuple[Mapping[str, str], frozenset[str]]:
        """The row, if it changed since the last call, and its name, if it is no longer needed."""
        row, before = self.snapshot(), self._taken
        self._taken = row.get(STATE_KEY)
        if before == self._taken:
            return {}, frozenset()
        return row, frozenset() if row else frozenset({STATE_KEY})

    def restored(self, text: str) -> None:
        """This is what an earlier process had saved."""
        self._taken = text


class EarlierAhead:
    """What an earlier process told before the log showed it."""

    def __init__(self) -> None:
        self.lines: list[Ahead] = []
        """Those that the log has not shown since, the first one first."""

    def take(self, told: KernelLine, kernel_us: int) -> Ahead | None:
        """The one that the log shows here, once; None when it is none of them."""
        near = [each for each in self.lines if _is_shown_by(told, kernel_us, each)]
        found = min(near, key=lambda each: apart(each.line.kernel_us, kernel_us), default=None)
        if found is not None:
            self.lines.remove(found)
        return found


def _is_shown_by(told: KernelLine, kernel_us: int, ahead: Ahead) -> bool:
    line = ahead.line
    if line.boot_id != told.boot_id or apart(line.kernel_us, kernel_us) > ahead.tolerance_us:
        return False
    if contradict(line, told):
        return False
    return first_line(line.text) == first_line(told.text) or is_fragment_of(line, told)


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
        "ended": None if led is None else led.ended,
    }


def _ahead(row: dict[str, Any]) -> Saved:
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
    led = None
    if row["event"] is not None:
        ended = row.get("ended")
        if ended is not None:
            OpenFault.load(ended)  # raises here, where a row that cannot be read is left out
        led = Led(str(row["event"]), row["event_is_proved"] is True, ended)
    return Ahead(line, int(row["stamp_us"]), int(row["tolerance_us"])), led
