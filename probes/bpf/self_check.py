"""Tells a program that is not called from a log in which nothing is printed."""

from __future__ import annotations

from dataclasses import dataclass

LOOK_EVERY_US = 1_000_000
_SILENCES = 2


@dataclass(frozen=True, slots=True)
class _Look:
    at_us: int
    seq: int
    called: int
    silences: int
    """Looks in a row that found a longer log and the same count."""


class SelfCheck:
    """Compares how far the log goes, as another source reads it, with how often the program was called.

    The program is called before anyone can read the record. One longer log with the same count proves
    nothing yet: the records may have been printed just before the first count was read. But then the
    count stood still from that look to this one, and every record beyond this look must raise it.
    """

    def __init__(self) -> None:
        self._last: _Look | None = None

    def is_due(self, now_us: int) -> bool:
        """False within a second of the last look: no reader is behind the log for that long."""
        return self._last is None or now_us - self._last.at_us >= LOOK_EVERY_US

    def deaf(self, now_us: int, seq: int, called: int) -> bool:
        """Look: another source has read up to `seq`, and the program was called `called` times by now."""
        last = self._last
        if last is None or called != last.called or seq < last.seq:
            silences = 0
        else:
            silences = last.silences + (seq > last.seq)
        self._last = _Look(now_us, seq, called, silences)
        return silences >= _SILENCES
