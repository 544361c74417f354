"""A running program's ring in the event loop: its records as they come, and what was lost between them.

Belongs to the event loop's thread; no timer runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from probes.bpf.counters import Counters, Counts
from probes.bpf.descriptors import Descriptors
from probes.bpf.ring import RingBuffer
from probes.bpf.syscalls import BpfError

RECORDS_A_TURN = 64
"""Working one off costs the sink 50 to 100 µs."""
_SMALLEST_BYTES = 256
"""No program here hands over smaller records."""

Take = Callable[[Sequence[bytes], int], None]
"""Records, oldest first, and how many more calls of the program than told so far came to nothing."""


class RingFeed:
    """Feeds `take` until it is closed; owns the descriptors."""

    def __init__(self, descriptors: Descriptors, take: Take, failed: Callable[[str], None]) -> None:
        """`failed` is called with the reason when the program can no longer be asked.

        Raises OSError when the ring cannot be mapped; the descriptors are closed then.
        """
        self._descriptors = descriptors
        self._take = take
        self._failed = failed
        try:
            self._ring = RingBuffer(descriptors.ring, descriptors.ring_bytes)
        except OSError:
            descriptors.close()
            raise
        self._counters = Counters(descriptors)
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self.counts = Counts()
        """As of the last look or turn."""
        self.told_lost = 0
        self._loop.add_reader(self._ring.fileno(), self.turn)

    def turn(self) -> None:
        """Take a turn's share. The descriptor stays readable while there is more."""
        self._turn()

    def drain(self) -> None:
        """Take everything that is in the ring now; what comes meanwhile may stay."""
        for _ in range(self._descriptors.ring_bytes // (_SMALLEST_BYTES * RECORDS_A_TURN) + 1):
            if not self._turn():
                return

    def _turn(self) -> bool:
        """False when there was nothing to take."""
        if self._closed:
            return False
        records = self._ring.read(RECORDS_A_TURN)
        if not self._read_counts():
            return False
        lost = max(self.counts.lost - self.told_lost, 0)
        self.told_lost += lost
        if records or lost:
            self._take(records, lost)
        return bool(records)

    def look(self) -> None:
        """Read the counts outside of a turn. A loss without a record would wake no one: it gets its turn."""
        if not self._closed and self._read_counts() and self.counts.lost > self.told_lost:
            self._loop.call_soon(self.turn)

    def close(self) -> None:
        """Detach the program; nothing is fed afterwards. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._ring.fileno())
        self._ring.close()
        self._descriptors.close()

    def _read_counts(self) -> bool:
        try:
            self.counts = self._counters.read()
        except BpfError as error:
            self._failed(f"the program's counts are gone: {error.strerror}")
            return False
        return True
