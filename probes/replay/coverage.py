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
    section: int = 0
    """Number of the file, or section of one, in which it was first seen."""
    is_begun: bool = False
    """The log shows that it began: by an id, a remark, the kernel's greeting or a step back in time."""
    first_wall_us: int | None = None
    """Wall time of its first line; None while unknown."""
    last_wall_us: int | None = None
    first_kernel_us: int | None = None
    """Kernel time of its first line; None when no line carries it."""
    last_kernel_us: int | None = None
    offset_us: int | None = None
    """Wall time at kernel time 0, as far as the log shows it."""
    is_anchored: bool = False
    """No line shows `offset_us`: it was taken from the age of the file, or from the next boot."""
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

    def is_offset_by(self, offset_us: int, tolerance_us: int) -> bool:
        """True when `offset_us` is its wall time at kernel time 0, as far as a log shows that."""
        known_us = None if self.is_anchored else self.offset_us
        return known_us is not None and abs(known_us - offset_us) <= tolerance_us

    def is_shown_at(self, kernel_us: int | None, wall_us: int, tolerance_us: int) -> bool:
        """True when a line of these times lies within what is known of it."""
        if self.first_wall_us is None or self.last_wall_us is None:
            return False
        if kernel_us is not None and self.offset_us is not None:
            return self.is_offset_by(wall_us - kernel_us, tolerance_us)
        return self.first_wall_us - tolerance_us <= wall_us <= self.last_wall_us + tolerance_us

    def absorb(self, other: Boot, offset_us: int) -> None:
        """Take over what another log shows of the same boot, in kernel times alone."""
        self.lines += other.lines
        if self.offset_us is None:
            self.offset_us = offset_us
        if other.first_kernel_us is None or other.last_kernel_us is None:
            return
        first_us, last_us = other.first_kernel_us, other.last_kernel_us
        if self.first_wall_us is not None:
            first_us = min(first_us, max(self.first_wall_us - offset_us, 0))
        self.first_kernel_us = min(first_us, self.first_kernel_us or first_us)
        self.last_kernel_us = max(last_us, self.last_kernel_us or last_us)

    def fill_in_wall_times(self) -> None:
        """Widen the span in wall time to that in kernel time, once the one follows from the other."""
        if self.offset_us is None or self.first_kernel_us is None or self.last_kernel_us is None:
            return
        first_us, last_us = self.offset_us + self.first_kernel_us, self.offset_us + self.last_kernel_us
        self.first_wall_us = first_us if self.first_wall_us is None else min(first_us, self.first_wall_us)
        self.last_wall_us = last_us if self.last_wall_us is None else max(last_us, self.last_wall_us)


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
    kernel: int = 0
    """Of those, the kernel's own."""
    other_programs: int = 0
    """Of the lines understood, the ones that another program than the kernel wrote."""
    formats: Counter[str] = field(default_factory=Counter)
    """Lines by format."""
    messages: int = 0
    """The driver's lines that were handed on."""
    quoted: int = 0
    """Lines of other programs, or in no format known here, that hold what the driver prints for a fault."""
    absent: int = 0
    """Records that the sequence numbers count and the file does not hold."""
    lost: int = 0
    """Messages that journald or rsyslog says it lost; at least so many."""
    backward: int = 0
    """Lines whose time is before that of the line above."""
    hosts: set[str] = field(default_factory=set)
    """Hosts named in the kernel's lines, up to the first dot; a few of very many."""
    problem: str | None = None
    """Why it could not be read, or not to its end; None when it was."""
    hint: str | None = None

    @property
    def runs_backward(self) -> bool:
        """Most of its lines are older than the one above: `journalctl -r`."""
        return self.backward * 2 > self.understood

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
    def kernel(self) -> int:
        """The kernel's lines, of all files."""
        return sum(file.kernel for file in self.files)

    @property
    def quoted(self) -> int:
        """Lines that are not the kernel's and hold what the driver prints for a fault, of all files."""
        return sum(file.quoted for file in self.files)

    @property
    def absent(self) -> int:
        """Records that the sequence numbers count and the files do not hold."""
        return sum(file.absent for file in self.files)

    @property
    def lost(self) -> int:
        """Messages that journald or rsyslog says it lost."""
        return sum(file.lost for file in self.files)

    @property
    def hosts(self) -> list[str]:
        """Hosts named in the kernel's lines of all files. `localhost` is no name: a node has it while it
        starts."""
        return sorted(set().union(*(file.hosts for file in self.files)) - {"localhost"})

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
