"""A running eBPF probe to test, a BPF map written as the program in the kernel writes it, and what programs
there are."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.listening import Listener

Hear = Callable[..., Listener]
"""The fixture `hear`: runs a test in an event loop with a probe that hears, and returns the sink."""

_BPF = {"x86_64": 321, "aarch64": 280}
_MAP_UPDATE_ELEM = 2


class _Update(ctypes.Structure):
    _fields_ = (
        ("map_fd", ctypes.c_uint32),
        ("key", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
    )


def set_on_first_cpu(map_fd: int, values: list[int]) -> None:
    """Set the 64-bit values of entry 0 of a per-CPU array: these on the first CPU, 0 on all others."""
    per_cpu = (ctypes.c_uint64 * (8192 * len(values)))(*values)
    key = ctypes.c_uint32(0)
    attr = _Update(map_fd=map_fd, key=ctypes.addressof(key), value=ctypes.addressof(per_cpu))
    libc = ctypes.CDLL(None, use_errno=True)
    number = ctypes.c_long(_BPF[platform.machine()])
    if libc.syscall(number, ctypes.c_long(_MAP_UPDATE_ELEM), ctypes.byref(attr), ctypes.sizeof(attr)) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def programs_of(pid: int) -> set[str]:
    """Ids of the BPF programs that a process holds."""
    found: set[str] = set()
    for file in Path(f"/proc/{pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # it was closed meanwhile
            lines = file.read_text().splitlines()
            found.update(line.split()[1] for line in lines if line.startswith("prog_id:"))
    return found


def programs() -> set[str]:
    """Ids of all BPF programs in the kernel. Skips the test where they cannot be listed."""
    try:
        shown = subprocess.run(["bpftool", "prog", "show"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"bpftool cannot show programs: {error}")
    return {line.partition(":")[0] for line in shown.splitlines() if not line.startswith("\t")}
