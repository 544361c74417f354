"""How far CLOCK_MONOTONIC is ahead of the clock of the kernel log, without a line in the log.

printk stamps with `local_clock()`, which no system call reads. perf stamps with it too: a software event
on the calling thread, which counts nothing, notes when the thread is named, and naming it anew, as it is
called already, between two looks at CLOCK_MONOTONIC gives both clocks within microseconds.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import struct
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Measured:
    """The two clocks, read at the same moment."""

    offset_us: int
    """CLOCK_MONOTONIC less the log's clock."""
    at_us: int
    """CLOCK_MONOTONIC of that moment."""


_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
_ATTR = struct.Struct("=IIQQQQQIIQ")  # struct perf_event_attr, PERF_ATTR_SIZE_VER0
_SOFTWARE, _DUMMY = 1, 9
_SAMPLE_TIME = 1 << 2
_EXCLUDE_KERNEL, _EXCLUDE_HV, _COMM, _SAMPLE_ID_ALL = 1 << 5, 1 << 6, 1 << 9, 1 << 18
_RECORD_COMM = 3
_FLAG_FD_CLOEXEC = 8
_DATA_HEAD = 1024  # struct perf_event_mmap_page
_PR_SET_NAME, _PR_GET_NAME = 15, 16
_TRIES = 5


def measure() -> Measured | None:
    """Both clocks as of now; None where `offset_us` is."""
    offset = offset_us()
    return None if offset is None else Measured(offset, time.monotonic_ns() // 1000)


def offset_us() -> int | None:
    """CLOCK_MONOTONIC less the log's clock, in µs; None where perf may not be used, or not on this CPU."""
    number = _PERF_EVENT_OPEN.get(platform.machine())
    if number is None:
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _EXCLUDE_KERNEL | _EXCLUDE_HV | _COMM | _SAMPLE_ID_ALL
    attr = ctypes.create_string_buffer(
        _ATTR.pack(_SOFTWARE, _ATTR.size, _DUMMY, 0, _SAMPLE_TIME, 0, flags, 0, 0, 0), _ATTR.size
    )
    arguments = (ctypes.c_int(0), ctypes.c_int(-1), ctypes.c_int(-1), ctypes.c_ulong(_FLAG_FD_CLOEXEC))
    fd = libc.syscall(ctypes.c_long(number), ctypes.byref(attr), *arguments)
    if fd < 0:
        return None
    try:
        with mmap.mmap(fd, 2 * mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ) as ring:
            samples = [_sample(libc, ring) for _ in range(_TRIES)]
    except (OSError, ValueError):
        return None
    finally:
        os.close(fd)
    # The one that took the least time is the one that nothing came between.
    found = [sample for sample in samples if sample is not None]
    return min(found)[1] if found else None


def _sample(libc: ctypes.CDLL, ring: mmap.mmap) -> tuple[int, int] | None:
    """How long it took in ns, and the offset in µs."""
    name = ctypes.create_string_buffer(16)
    libc.prctl(_PR_GET_NAME, name, 0, 0, 0)
    (begin,) = struct.unpack_from("=Q", ring, _DATA_HEAD)
    before = time.monotonic_ns()
    libc.prctl(_PR_SET_NAME, name, 0, 0, 0)
    after = time.monotonic_ns()
    (end,) = struct.unpack_from("=Q", ring, _DATA_HEAD)
    if end == begin:
        return None
    at = mmap.PAGESIZE + begin % mmap.PAGESIZE
    kind, _, size = struct.unpack_from("=IHH", ring, at)
    if kind != _RECORD_COMM or begin + size != end:
        return None
    (stamp,) = struct.unpack_from("=Q", ring, at + size - 8)
    return after - before, ((before + after) // 2 - stamp) // 1000
