"""A stand-in for /dev/kmsg whose records come from the kernel: a FIFO in packet mode.

Only the kernel can write facility 0 into the real device, so records of kernel origin are played
through a FIFO: one write is one packet, one read is one record. It has no history, cannot be
seeked, and holds records of at most 4,096 bytes.
"""

from __future__ import annotations

import fcntl
import os
import select
from pathlib import Path
from types import TracebackType

from tests.support.waiting import DEADLINE_S

_F_SETPIPE_SZ = 1031  # linux/fcntl.h
_PIPE_BYTES = 1 << 20


def escape(text: str) -> bytes:
    """Text as the kernel prints it into a record: control bytes, backslash and non-ASCII as `\\xNN`."""
    return b"".join(
        bytes([byte]) if 32 <= byte < 127 and byte != 0x5C else b"\\x%02x" % byte for byte in text.encode()
    )


class FakeKernelLog:
    """The writing end. Sequence numbers and kernel time go on by themselves; both can be set."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self.next_seq = 100
        self.time_us = 5_000_000
        # Open for both, so that it neither waits for a reader nor loses records while none is there.
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.fcntl(self._fd, fcntl.F_SETFL, os.O_RDWR | os.O_NONBLOCK | os.O_DIRECT)
        fcntl.fcntl(self._fd, _F_SETPIPE_SZ, _PIPE_BYTES)

    def __enter__(self) -> FakeKernelLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the writing end."""
        os.close(self._fd)

    def write(
        self, text: str, *, time_us: int | None = None, seq: int | None = None, priority: int = 4
    ) -> int:
        """One record, by default of facility kern and level 4; returns its sequence number.

        Without `time_us` each record is 10 µs after the one before.
        """
        seq = self.next_seq if seq is None else seq
        self.next_seq = seq + 1
        self.time_us = self.time_us + 10 if time_us is None else time_us
        self.write_raw(b"%d,%d,%d,-;" % (priority, seq, self.time_us) + escape(text) + b"\n")
        return seq

    def write_raw(self, record: bytes) -> None:
        """One packet as it is."""
        poller = select.poll()
        poller.register(self._fd, select.POLLOUT)
        while True:
            try:
                os.write(self._fd, record)
            except BlockingIOError:
                if not poller.poll(DEADLINE_S * 1000):
                    raise AssertionError("nobody reads the fake kernel log") from None
            else:
                return
