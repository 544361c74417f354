"""How far the log has been read: what tells a line that is yet to come from one that will not come."""

from __future__ import annotations

from daemon.log_clock import LogClock
from probes.line import Reached

_PRINTING_US = 5_000
"""eBPF hears a line before the log shows it. It is microseconds; the rest is room for a CPU that stands
still in between."""


class LogReading:
    """Where the reader of /dev/kmsg is, and the clock by which it can be compared with eBPF."""

    def __init__(self) -> None:
        self.clock = LogClock()
        self.is_complete = True
        """False from a loss on, until the reader is at the end of the log again: of lines with the same text
        the first one read need not be the first one printed."""
        self._reached: Reached | None = None

    def reached(self, reached: Reached | None) -> None:
        """Take where the reader is; None: it does not hear."""
        if reached is not None and reached.end_us is not None and reached.end_us != self.end_us:
            self.is_complete = True
        self._reached = reached

    def lost(self) -> None:
        """The reader has lost records."""
        self.is_complete = False

    @property
    def hears(self) -> bool:
        """True while /dev/kmsg is read."""
        return self._reached is not None

    @property
    def end_us(self) -> int | None:
        """Arrival time at which everything had been read; None where that was never so."""
        return None if self._reached is None else self._reached.end_us

    def is_past(self, monotonic_us: int) -> bool:
        """True when a line printed then (CLOCK_MONOTONIC) has been read, or will not be."""
        reached = self._reached
        if reached is None:
            return False
        if reached.end_us is not None and monotonic_us + _PRINTING_US <= reached.end_us:
            return True
        expected = self.clock.kernel_us(monotonic_us)
        if expected is None or reached.last_us is None:
            return False
        return reached.last_us > expected + self.clock.tolerance_us(monotonic_us)
