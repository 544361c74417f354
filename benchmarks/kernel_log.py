"""Writing to the real /dev/kmsg, and looking at it from the side."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from benchmarks.figure import Unavailable
from daemon.decoded import Fault, Part
from daemon.grammar import find
from probes.errors import UserError
from xidwatch.drill import Drill, compose

KMSG = Path("/dev/kmsg")
_RATE_LIMIT = Path("/proc/sys/kernel/printk_devkmsg")
_RECORD_BYTES = 8192
_CANDIDATES = (31, 32, 38, 43, 45, 48, 56, 57, 58, 61, 62, 63, 64, 68, 69, 74, 80, 81, 92, 94, 95, 110, 121)


def drill_line(code: int, pid: int, channel: int = 8) -> str:
    """A drill's line, as `xidwatch drill` writes it, of one process. Its channel makes it differ from another
    of the same fault."""
    try:
        return compose(Drill(str(code), pid=pid, name="bench", text=f"Ch {channel:08x}"))
    except UserError as error:
        raise Unavailable(error.message) from error


def one_line_codes(count: int) -> list[int]:
    """Xids of which each line is a whole fault, so that each is told of at once."""
    whole = []
    for code in _CANDIDATES:
        decoded = find(drill_line(code, 1))
        if isinstance(decoded, Fault) and decoded.part is Part.WHOLE:
            whole.append(code)
    assert len(whole) >= count, "the grammar makes several lines of nearly every Xid"
    return whole[:count]


def require_kmsg() -> None:
    """Raises Unavailable unless this process may read and write the kernel log."""
    for flags, what in ((os.O_RDONLY | os.O_NONBLOCK, "read"), (os.O_WRONLY, "write")):
        try:
            os.close(os.open(KMSG, flags))
        except OSError as error:
            raise Unavailable(f"cannot {what} {KMSG}: {(error.strerror or '').lower()}") from None


@contextmanager
def unlimited() -> Iterator[None]:
    """kernel.printk_devkmsg=on while the block runs: else the kernel drops what a process writes too fast.

    Raises Unavailable when it cannot be set.
    """
    try:
        before = _RATE_LIMIT.read_text(encoding="ascii").strip()
        _RATE_LIMIT.write_text("on\n", encoding="ascii")
    except OSError as error:
        raise Unavailable(f"cannot set kernel.printk_devkmsg=on: {(error.strerror or '').lower()}") from None
    try:
        yield
    finally:
        _RATE_LIMIT.write_text(f"{before}\n", encoding="ascii")


def write(line: str) -> int:
    """One record, at a level that no console prints; CLOCK_MONOTONIC in ns right before it was written.

    Opened anew each time: kernel.printk_devkmsg=ratelimit allows ten lines in 5 s to an open file.
    """
    fd = os.open(KMSG, os.O_WRONLY | os.O_CLOEXEC)
    try:
        now = time.monotonic_ns()
        os.write(fd, f"<7>{line}\n".encode())
    finally:
        os.close(fd)
    return now


class Bystander:
    """Knows the newest sequence number, without a part in what is measured."""

    def __init__(self) -> None:
        self._fd = os.open(KMSG, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def newest(self) -> int:
        """Sequence number of the newest record; the log is never empty."""
        newest = -1
        os.lseek(self._fd, 0, os.SEEK_SET)
        while True:
            try:
                newest = int(os.read(self._fd, _RECORD_BYTES).split(b",", 2)[1])
            except BlockingIOError:
                return newest
            except BrokenPipeError:
                continue
