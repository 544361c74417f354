"""From CLOCK_MONOTONIC to the clock of the kernel log.

Both count from boot, but NTP slews only the first: they are milliseconds apart after a day, and may
be minutes apart after a year. The offset is learned from lines that were stamped by both.
"""

from __future__ import annotations

_SURE_US = 2_000
"""A line gets its two stamps within microseconds; the rest is room for an interrupt in between."""
_DRIFT_PPM = 500
"""The most that NTP slews a clock (adjtimex(2))."""
_TRUSTED_FOR_US = 1_800_000_000
"""By then the drift may have made more than the offset tells."""


class LogClock:
    """How far CLOCK_MONOTONIC is ahead of the log's clock, as far as it is known. All values in µs."""

    def __init__(self) -> None:
        self._offset: int | None = None
        self._learned_at_us = 0

    def learn(self, monotonic_us: int, kernel_us: int) -> None:
        """One line was stamped with both."""
        self._offset = monotonic_us - kernel_us
        self._learned_at_us = monotonic_us

    def doubt(self) -> None:
        """What was learned led to a contradiction: forget it."""
        self._offset = None

    def kernel_us(self, monotonic_us: int) -> int | None:
        """The stamp that the log gave a line of this time; None when that is not known."""
        if self._offset is None or monotonic_us - self._learned_at_us > _TRUSTED_FOR_US:
            return None
        return monotonic_us - self._offset

    def tolerance_us(self, monotonic_us: int) -> int:
        """How far a stamp may be from that."""
        return _SURE_US + abs(monotonic_us - self._learned_at_us) * _DRIFT_PPM // 1_000_000
