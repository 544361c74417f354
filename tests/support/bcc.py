"""The real bcc where it is installed, packages that stand in for it, and whether a program is still there."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
from pathlib import Path

import pytest

from probes.bpf import bcc
from probes.bpf.bcc_installed import Installation
from probes.bpf.syscalls import BpfError
from probes.bpf.unavailable import LoaderError, State

_BPF = {"x86_64": 321, "aarch64": 280}
_PROG_GET_FD_BY_ID = 13


def skip_unless_usable() -> None:
    """Skip the test, with the reason, where bcc is missing or may not load anything."""
    try:
        bcc.load().close()
    except LoaderError as error:
        if error.why.state not in (State.NO_BCC, State.NAMESAKE_BCC):
            raise
        pytest.skip(error.why.reason)
    except BpfError as error:
        pytest.skip(str(error))


def stand_in(place: Path, code: str) -> Installation:
    """A package in `place` that looks like the real one from outside, with this code."""
    (place / "bcc").mkdir(parents=True)
    (place / "bcc" / "__init__.py").write_text(code)
    (place / "bcc" / "libbcc.py").touch()
    return Installation(place, Path(sys.executable))


def namesake(place: Path) -> Installation:
    """A package in `place` with the files of PyPI's bcc 0.1.10, which wants numpy."""
    (place / "bcc").mkdir(parents=True)
    (place / "bcc" / "__init__.py").write_text("from .bcc import *\n")
    (place / "bcc" / "bcc.py").write_text("import numpy_that_is_not_here\n")
    return Installation(place, Path(sys.executable))


def program_id(fd: int) -> int:
    """The kernel's number for the program behind a descriptor of this process; it is used once only."""
    lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("prog_id:"))


def is_loaded(number: int) -> bool:
    """Whether the kernel still has the program of this number."""
    libc = ctypes.CDLL(None, use_errno=True)
    wanted = (ctypes.c_uint32 * 4)(number)
    fd = libc.syscall(
        ctypes.c_long(_BPF[platform.machine()]), ctypes.c_long(_PROG_GET_FD_BY_ID), wanted, ctypes.c_long(16)
    )
    if fd < 0:
        if ctypes.get_errno() != errno.ENOENT:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return False
    os.close(fd)
    return True
