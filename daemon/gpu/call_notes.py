"""Which NVML call each GPU is in, and since when: a page of memory that the daemon and its worker share.

The worker writes before and after every call (0.4 µs together on a machine where a message over the
socket took 2 µs and woke the daemon each time). The daemon reads only when an answer is overdue or the
worker has died, so it can name the call although the worker says nothing any more.

The page is a row of slots: the first is for calls of the library that concern no GPU (nvmlInit), each
other one belongs to the GPU whose address it holds. A slot has one writer, the thread of its GPU. The
reader may catch a slot half written; that matters only for a call that has just begun, which nobody is
looking for.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from dataclasses import dataclass

LIBRARY = "library"
"""The owner of the slot for calls that concern no GPU."""

SLOTS = 256
_SLOT = struct.Struct("<32s88sQ")
_CALL = struct.Struct("<88sQ")
_SINCE = struct.Struct("<Q")
_CALL_AT = 32
_SINCE_AT = 120
SIZE = SLOTS * _SLOT.size


@dataclass(frozen=True, slots=True)
class OpenCall:
    """A call that has begun and has not returned."""

    gpu: str
    """As in the request; LIBRARY for a call that concerns no GPU."""
    function: str
    """`nvmlDeviceGetTemperature`."""
    since_ns: int
    """When it began: CLOCK_MONOTONIC, the same in both processes."""

    @property
    def since_us(self) -> int:
        """When it began, Unix time in µs."""
        return (time.time_ns() - (time.monotonic_ns() - self.since_ns)) // 1000

    @property
    def seconds(self) -> float:
        """How long it has lasted by now."""
        return (time.monotonic_ns() - self.since_ns) / 1e9


def create() -> int:
    """A descriptor of a fresh page. Raises OSError."""
    descriptor = os.memfd_create("xidwatch-gpu-calls", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, SIZE)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


class CallNotes:
    """The page behind `descriptor`, which is closed: the mapping stays."""

    def __init__(self, descriptor: int) -> None:
        self._page = mmap.mmap(descriptor, SIZE)
        os.close(descriptor)
        self._lock = threading.Lock()
        self._taken = 0

    def slot(self, gpu: str) -> Slot:
        """A slot for `gpu`, for the worker. A node has fewer GPUs than there are slots; should the slots
        ever run out, the last one is shared."""
        with self._lock:
            at = min(self._taken, SLOTS - 1) * _SLOT.size
            self._taken += 1
        _SLOT.pack_into(self._page, at, gpu.encode()[:_CALL_AT], b"", 0)
        return Slot(self._page, at)

    def open_calls(self) -> dict[str, OpenCall]:
        """Every call in progress, by its GPU; for the daemon."""
        calls: dict[str, OpenCall] = {}
        for at in range(0, SIZE, _SLOT.size):
            owner, function, since_ns = _SLOT.unpack_from(self._page, at)
            if since_ns:
                gpu = _text(owner)
                calls[gpu] = OpenCall(gpu, _text(function), since_ns)
        return calls

    def close(self) -> None:
        """Unmap the page."""
        self._page.close()


class Slot:
    """Where one GPU's calls are noted."""

    def __init__(self, page: mmap.mmap, at: int) -> None:
        self._page = page
        self._call_at = at + _CALL_AT
        self._since_at = at + _SINCE_AT

    def begin(self, function: str) -> None:
        """`function` is about to be called."""
        _CALL.pack_into(self._page, self._call_at, function.encode(), time.monotonic_ns())

    def end(self) -> None:
        """It has returned."""
        _SINCE.pack_into(self._page, self._since_at, 0)


def _text(field: bytes) -> str:
    return field.rstrip(b"\0").decode(errors="replace")
