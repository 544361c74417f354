"""From CLOCK_MONOTONIC to the clock of the kernel log.

Both count from boot, but NTP slews only the first: they are milliseconds apart after a day, and may
be minutes apart after a year. The offset is measured, or else learned from lines that were stamped by both.
"""

from __future__ import annotations

_SURE_US = 300
"""A line gets its two stamps within microseconds."""
_POSSIBLE_US = 4_000
"""The rest is room for a CPU that stands still in between, and for the log's clock, which need not agree
between CPUs to the millisecond."""
_DRIFT_PPM = 500
"""The most that NTP slews a clock (adjtimex(2))."""
_MEASURED_FOR_US = 60_000_000
"""Measuring again may be refused later, when rights were given up."""
_TRUSTED_FOR_US = 1_800_000_000
"""By then the drift may have made more than the offset tells."""


class LogClock:
    """How far CLOCK_MONOTONIC is ahead of the log's clock, as far as it is known. All values in µs."""

    def __init__(self) -> None:
        self._offset: int | None = None
        self._learned_at_us = 0
        self._is_measured = False

    def measured(self, monotonic_us: int, offset_us: int) -> None:
        """Both were read at the same time, and were so far apart."""
        self._is_measured = True
        self._offset, self._learned_at_us = offset_us, monotonic_us

    def learn(self, monotonic_us: int, kernel_us: int) -> None:
        """One line was stamped with both; what was measured lately is better."""
        if self._is_measured and abs(monotonic_us - self._learned_at_us) < _MEASURED_FOR_US:
            return
        self._is_measured = False
        self._offset = monotonic_us - kernel_us
        self._learned_at_us = monotonic_us

    def doubt(self) -> None:
        """What was learned led to a contradiction: forget it. What was measured is not in doubt."""
        if not self._is_measured:
            self._offset = None

    def kernel_us(self, monotonic_us: int) -> int | None:
        """The stamp that the log gave a line of this time; None when that is not known."""
        if self._offset is None or monotonic_us - self._learned_at_us > _TRUSTED_FOR_US:
            return None
        return monotonic_us - self._offset

    def monotonic_us(self, kernel_us: int) -> int | None:
        """When a line of this stamp was printed; None when that is not known."""
        return None if self._offset is None else kernel_us + self._offset

    def sure_us(self, monotonic_us: int) -> int:
        """How far a stamp mostly is from that at most."""
        return _SURE_US + self._drift_us(monotonic_us)

    def tolerance_us(self, monotonic_us: int) -> int:
        """How far a stamp may be from that."""
        return _POSSIBLE_US + self._drift_us(monotonic_us)

    def _drift_us(self, monotonic_us: int) -> int:
        return abs(monotonic_us - self._learned_at_us) * _DRIFT_PPM // 1_000_000
