"""What saved logs cover: what was read, from when to when, in which formats, and what is missing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from probes.replay.timestamps import Assumptions


@dataclass(slots=True)
class Boot:
    """The part of a boot that the logs show."""

    id: str
    """/proc's boot id where the log gives it, else `replay-1`, `replay-2` …"""
    is_named: bool
    """The id is the kernel's own."""
    source: str
    """Name of the file in which it was first seen."""
    first_wall_us: int | None = None
    """Wall time of its first line; None while unknown."""
    last_wall_us: int | None = None
    first_kernel_us: int | None = None
    """Kernel time of its first line; None when no line carries it."""
    last_kernel_us: int | None = None
    offset_us: int | None = None
    """Wall time at kernel time 0, as far as the log shows it."""
    lines: int = 0

    @property
    def head_is_missing(self) -> bool:
        """The log begins so late after the start of the kernel that earlier lines are not in it."""
        return self.first_kernel_us is not None and self.first_kernel_us > _HEAD_US

    def see(self, kernel_us: int | None, wall_us: int | None) -> None:
        """Widen the span by one line."""
        self.lines += 1
        if kernel_us is not None:
            if self.first_kernel_us is None:
                self.first_kernel_us = kernel_us
            self.last_kernel_us = max(kernel_us, self.last_kernel_us or 0)
        if wall_us is not None:
            self.first_wall_us = wall_us if self.first_wall_us is None else min(self.first_wall_us, wall_us)
            self.last_wall_us = max(wall_us, self.last_wall_us or wall_us)

    def fill_in_wall_times(self) -> None:
        """Say from when to when the boot is shown, where only kernel times say so."""
        if self.offset_us is None or self.first_wall_us is not None:
            return
        if self.first_kernel_us is not None and self.last_kernel_us is not None:
            self.first_wall_us = self.offset_us + self.first_kernel_us
            self.last_wall_us = self.offset_us + self.last_kernel_us


_HEAD_US = 5_000_000
"""A log that begins within 5 s of kernel time holds the kernel's own start; klogd and journald may
miss a line or two before."""


@dataclass(slots=True)
class FileCoverage:
    """What was read of one file."""

    name: str
    lines: int = 0
    """Lines that are not empty."""
    understood: int = 0
    """Lines in a format known here, those of other programs included."""
    other_programs: int = 0
    """Of those, the ones that another program than the kernel wrote."""
    formats: Counter[str] = field(default_factory=Counter)
    """Lines by format."""
    messages: int = 0
    """The driver's lines that were handed on."""
    problem: str | None = None
    """Why it could not be read, or not to its end; None when it was."""
    hint: str | None = None

    @property
    def not_understood(self) -> int:
        """Lines in no format known here."""
        return self.lines - self.understood


@dataclass(slots=True)
class Coverage:
    """What was read of all files. Grows while they are read."""

    files: list[FileCoverage] = field(default_factory=list)
    boots: list[Boot] = field(default_factory=list)
    assumed: Assumptions = field(default_factory=Assumptions)
    messages: int = 0
    """The driver's lines that were handed on."""
    unproved: int = 0
    """Of those, the ones whose format does not show who printed them."""
    duplicates: int = 0
    """The driver's lines that stood in more than one place, and were handed on once."""
    outside: int = 0
    """The driver's lines before or after the time asked for."""
    estimated: int = 0
    """The driver's lines whose wall time is an estimate."""

    @property
    def lines(self) -> int:
        """Lines read, of all files."""
        return sum(file.lines for file in self.files)

    @property
    def understood(self) -> int:
        """Lines in a format known here, of all files."""
        return sum(file.understood for file in self.files)

    @property
    def formats(self) -> Counter[str]:
        """Lines by format, of all files."""
        total: Counter[str] = Counter()
        for file in self.files:
            total.update(file.formats)
        return total

    @property
    def first_wall_us(self) -> int | None:
        """Wall time of the oldest line; None when no line carries any."""
        return min(
            (boot.first_wall_us for boot in self.boots if boot.first_wall_us is not None), default=None
        )

    @property
    def last_wall_us(self) -> int | None:
        """Wall time of the newest line."""
        return max((boot.last_wall_us for boot in self.boots if boot.last_wall_us is not None), default=None)
