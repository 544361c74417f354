"""A program whose start the kernel holds up, as a disk that does not answer holds up an exec."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# linux/fanotify.h
_CLASS_CONTENT, _CLOEXEC = 0x4, 0x1
_MARK_ADD = 0x1
_OPEN_EXEC_PERM = 0x40000
_ALLOW = 0x1
_EVENT = struct.Struct("=IBBHQii")
_RESPONSE = struct.Struct("=iI")


class ExecGate:
    """Whoever executes the program at `path` waits until `open`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def open(self) -> None:
        """Let the one who waits pass; it must be waiting, or this waits for it."""
        event = os.read(self._descriptor, 4096)
        (*_, opened, _pid) = _EVENT.unpack_from(event)
        os.write(self._descriptor, _RESPONSE.pack(opened, _ALLOW))
        os.close(opened)


@contextmanager
def exec_gate(path: Path) -> Iterator[ExecGate]:
    """Hold up whoever executes `path`. Skips the test where the kernel does not let us."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.fanotify_init(_CLASS_CONTENT | _CLOEXEC, os.O_RDONLY | os.O_CLOEXEC)
    if descriptor < 0:
        pytest.skip(f"no fanotify here: {os.strerror(ctypes.get_errno())}")
    mask = ctypes.c_uint64(_OPEN_EXEC_PERM)
    try:
        if libc.fanotify_mark(descriptor, _MARK_ADD, mask, -100, bytes(path)) < 0:
            pytest.skip(f"no fanotify permission events here: {os.strerror(ctypes.get_errno())}")
        yield ExecGate(path, descriptor)
    finally:
        os.close(descriptor)  # whoever still waits passes
