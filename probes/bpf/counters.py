"""The program's own counts: what it saw, wanted, and had no room for."""

from __future__ import annotations

import ctypes
import mmap
from dataclasses import dataclass
from pathlib import Path

from probes.bpf import syscalls
from probes.bpf.descriptors import Descriptors

_FIELDS = 4  # struct xid_counts: seen, matched, dropped, unread, of 64 bits each
_MOST_CPUS = 8192  # the largest CONFIG_NR_CPUS of x86-64; arm64 has 4096
_POSSIBLE = Path("/sys/devices/system/cpu/possible")


@dataclass(frozen=True, slots=True)
class Counts:
    """Lines of the kernel log since the program was loaded, over all CPUs."""

    seen: int = 0
    """Lines the program was called for."""
    matched: int = 0
    """Of these, lines it wanted to hand over."""
    dropped: int = 0
    """Of these, lines that were not handed over: the ring had no room."""
    unread: int = 0
    """Lines whose text it could not read."""
    recursion: int | None = None
    """Lines printed while the program was running on that CPU, so that it was not called.
    None when the kernel does not count them (before Linux 5.12)."""

    @property
    def lost(self) -> int:
        """Lines that may have mattered and that no one has: dropped, unread, or not called for."""
        return self.dropped + self.unread + (self.recursion or 0)

    def __add__(self, other: Counts) -> Counts:
        """The counts of both; `recursion` of those that know it."""
        known = [each for each in (self.recursion, other.recursion) if each is not None]
        return Counts(
            self.seen + other.seen,
            self.matched + other.matched,
            self.dropped + other.dropped,
            self.unread + other.unread,
            sum(known) if known else None,
        )


class Counters:
    """Reads them; holds memory for the answer, and no descriptor of its own."""

    def __init__(self, descriptors: Descriptors) -> None:
        self._map = descriptors.counts
        self._programs = descriptors.programs
        # The kernel writes one struct for each possible CPU whatever the size of the buffer: there is
        # room for the most that can be, in pages that are not touched before the kernel does.
        buffer = mmap.mmap(-1, _MOST_CPUS * _FIELDS * 8, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._values = (ctypes.c_uint64 * (_MOST_CPUS * _FIELDS)).from_buffer(buffer)
        self._used = memoryview(buffer).cast("Q")[: _possible_cpus() * _FIELDS]

    def read(self) -> Counts:
        """The counts now. Raises BpfError when the kernel will not tell (a bug, or a closed descriptor)."""
        syscalls.look_up(self._map, 0, self._values)
        seen, matched, dropped, unread = (sum(self._used[field::_FIELDS]) for field in range(_FIELDS))
        missed = [syscalls.recursion_misses(program) for program in self._programs]
        known = [misses for misses in missed if misses is not None]
        return Counts(seen, matched, dropped, unread, sum(known) if known else None)


def _possible_cpus() -> int:
    """One more than the highest number of a CPU; all that can be where sysfs is not mounted."""
    try:
        highest = _POSSIBLE.read_text("ascii").replace(",", "-").split("-")[-1]
        return min(int(highest) + 1, _MOST_CPUS)
    except (OSError, ValueError):
        return _MOST_CPUS
