"""The real /dev/kmsg of this machine: writing into it, and its sequence numbers.

Other processes may write at the same time, so every line of a test carries an address or a token of
its own. Whatever a process writes has facility 1: a daemon shows it only as a drill.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from probes import kernel
from probes.kmsg_record import sequence_number
from tests.support.waiting import DEADLINE_S

KMSG = Path("/dev/kmsg")
_DEVKMSG = Path("/proc/sys/kernel/printk_devkmsg")
_FLOOD = (
    "import os, sys\n"
    "fd = os.open('/dev/kmsg', os.O_WRONLY)\n"
    "for n in range(int(sys.argv[1])): os.write(fd, b'flood %d ' % n + b'.' * 900 + b'\\n')\n"
)
_FLOODED_BYTES = 1 << 24


def skip_unless_usable() -> None:
    """Skip the test, with the reason, where the log cannot be read and written."""
    try:
        for mode in (os.O_RDONLY | os.O_NONBLOCK, os.O_WRONLY):
            os.close(os.open(KMSG, mode))
    except OSError as error:
        pytest.skip(f"{KMSG}: {error.strerror}")


def own_domain() -> str:
    """A PCI domain, four hexadecimal digits, that no other test uses at this time."""
    return f"{secrets.randbelow(0xE000) + 0x1000:04x}"


def drill_line(pci: str, code: int, pid: int, text: str = "drill") -> str:
    """A line as `xidwatch drill` writes it; `pci` without function."""
    return f"xidwatch-drill: xid (PCI:{pci}): {code}, pid={pid}, name=test, {text}"


def write(text: str) -> int:
    """Write one line, which must be like no other in the log; its sequence number."""
    # A descriptor of its own: the rate limit is counted for each open file.
    fd = os.open(KMSG, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.lseek(fd, 0, os.SEEK_END)
        os.write(fd, text.encode("ascii") + b"\n")
        while text.encode("ascii") not in (data := _read(fd)):
            pass
    finally:
        os.close(fd)
    seq = sequence_number(data)
    assert seq is not None, data
    return seq


def oldest() -> int:
    """Sequence number of the oldest record that the log still holds."""
    fd = os.open(KMSG, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        seq = sequence_number(_read(fd))
    finally:
        os.close(fd)
    assert seq is not None
    return seq


def newest() -> int:
    """Sequence number of the newest record; the log must hold one."""
    fd = os.open(KMSG, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    last = b""
    try:
        while True:
            try:
                last = os.read(fd, 8192)
            except BrokenPipeError:
                continue
            except BlockingIOError:
                break
    finally:
        os.close(fd)
    seq = sequence_number(last)
    assert seq is not None
    return seq


def _read(fd: int) -> bytes:
    while True:
        try:
            return os.read(fd, 8192)
        except BrokenPipeError:
            continue  # overtaken by someone's flood: the next read goes on behind the hole
        except BlockingIOError:
            raise AssertionError(f"{KMSG} does not give back what was written into it") from None


@contextmanager
def unlimited_writing() -> Iterator[None]:
    """While the block runs, processes may write as much as they like; skips where that cannot be set."""
    try:
        old = _DEVKMSG.read_text()
        _DEVKMSG.write_text("on\n")  # the kernel wants the newline
    except OSError as error:
        pytest.skip(f"{_DEVKMSG} cannot be set: {error.strerror}")
    try:
        yield
    finally:
        _DEVKMSG.write_text(old)


def overwrite() -> None:
    """Write until nothing is left of what the log held. Skips where the log is too large for that."""
    size = kernel.klogctl(kernel.SyslogAction.SIZE_BUFFER)
    if size > _FLOODED_BYTES:
        pytest.skip(f"a kernel log of {size} bytes takes too long to overwrite")
    with unlimited_writing():
        # Twice its size: the text ring and the ring of descriptors are sized apart.
        subprocess.run([sys.executable, "-c", _FLOOD, str(size // 256)], check=True, timeout=DEADLINE_S)
