"""Reads a BPF ring buffer through shared memory: no thread, no copy by the kernel, no system call.

The kernel's side (kernel/bpf/ringbuf.c): a producer reserves a record by writing its header with the
BUSY bit set and then moving the producer's position over it; it fills the record and clears the bit.
The consumer owns nothing but its own position, which gives the space before it back. The data area
is mapped twice in a row, so that a record never breaks at its end.

The descriptor is readable while there is something between the two positions: level-triggered, as
an event loop wants it. One consumer, one thread.
"""

from __future__ import annotations

import mmap
import threading

_PAGE = mmap.PAGESIZE
_BUSY = 1 << 31  # BPF_RINGBUF_BUSY_BIT: reserved, and still being written
_DISCARDED = 1 << 30  # BPF_RINGBUF_DISCARD_BIT: the producer thought better of it
_LENGTH = _DISCARDED - 1
_HEADER_BYTES = 8


class RingBuffer:
    """The consumer of one ring buffer; borrows its descriptor."""

    def __init__(self, fd: int, size: int) -> None:
        """Map the ring of `size` bytes, a power of two. Raises OSError when the kernel will not."""
        self._fd = fd
        self._mask = size - 1
        self._own_page = mmap.mmap(fd, _PAGE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        try:
            length = _PAGE + 2 * size
            self._pages = mmap.mmap(fd, length, mmap.MAP_SHARED, mmap.PROT_READ, offset=_PAGE)
        except OSError:
            self._own_page.close()
            raise
        # Items of a cast view are read and written whole, as the positions and headers must be.
        self._consumer = memoryview(self._own_page).cast("Q")
        self._producer = memoryview(self._pages)[:_PAGE].cast("Q")
        self._data = memoryview(self._pages)[_PAGE:]
        self._headers = self._data.cast("I")
        self._barrier = threading.Lock()
        self._barrier.acquire()

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._fd

    def read(self, limit: int) -> list[bytes]:
        """At most `limit` records, oldest first; fewer when the next one is still being written."""
        taken = start = self._consumer[0]
        produced = self._producer[0]
        self._fence()  # the positions before the headers that they speak of
        spans: list[tuple[int, int]] = []
        while taken < produced and len(spans) < limit:
            at = taken & self._mask
            header = self._headers[at // 4]
            if header & _BUSY:
                break
            length = header & _LENGTH
            if not header & _DISCARDED:
                spans.append((at + _HEADER_BYTES, at + _HEADER_BYTES + length))
            taken += _HEADER_BYTES + (length + 7 & ~7)
        if taken == start:
            return []
        self._fence()  # the headers, without BUSY, before what they say is complete
        records = [bytes(self._data[begin:end]) for begin, end in spans]
        self._fence()  # the copies before the space is given back
        self._consumer[0] = taken
        self._fence()  # and that before the event loop asks the kernel whether there is more
        return records

    def close(self) -> None:
        """Unmap the ring; the descriptor stays open. May be called twice."""
        for view in (self._headers, self._data, self._producer, self._consumer):
            view.release()
        self._pages.close()
        self._own_page.close()

    def _fence(self) -> None:
        """Every access to memory before this comes before every access after it, on this CPU.

        Releasing a lock is a store-release and taking it a load-acquire, whichever way Python makes
        its locks; arm64 keeps an acquire behind a release, and all else on their sides. On x86-64
        taking one is a locked instruction: a full barrier. One thread reads: it is never contended.
        """
        self._barrier.release()
        self._barrier.acquire()
