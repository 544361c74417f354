"""One record of the ring: the Python side of `struct xid_line` in xid.h."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

LAYOUT = 2
"""XID_LAYOUT"""
_HEADER = struct.Struct("=HHIQQII16s")
_NO_FACILITY = 0xFFFF
# `[   12.345678] ` or, with CONFIG_PRINTK_CALLER, `[   12.345678][  T123] `.
_CONSOLE_PREFIX = re.compile(rb"^\[ *\d+\.\d{6}\](?:\[ *[TC]\d+\])? ", re.MULTILINE)


class ForeignLayout(ValueError):
    """The record was written by a program with another layout; the message says which."""


@dataclass(frozen=True, slots=True)
class PrintedLine:
    """A line of the kernel log, as the program heard it."""

    text: str
    """As /dev/kmsg shows it, without the newline that ends it; what is not UTF-8 has become U+FFFD."""
    monotonic_us: int
    """CLOCK_MONOTONIC in µs when it was printed."""
    facility: int | None
    """syslog facility: 0 is the kernel's own; None where the hook is not told it."""
    cpu: int
    task: str
    """The task that was running."""
    cgroup_id: int
    cut: bool
    """True when the line was longer than the record has room for."""


def decode(record: bytes, *, for_console: bool = False) -> PrintedLine:
    """The line in a record; `for_console`: as kernels before 5.19 print it there, with the time in front.

    Raises ForeignLayout.
    """
    if len(record) < _HEADER.size:
        raise ForeignLayout(f"a record of {len(record)} bytes, shorter than its header of {_HEADER.size}")
    layout, facility, cpu, monotonic_ns, cgroup_id, full, copied, task = _HEADER.unpack_from(record)
    if layout != LAYOUT:
        raise ForeignLayout(f"records of layout {layout}, not {LAYOUT}")
    if copied > len(record) - _HEADER.size:
        raise ForeignLayout(f"a text of {copied} bytes in a record of {len(record)}")
    text = record[_HEADER.size : _HEADER.size + copied]
    if for_console:
        text = _CONSOLE_PREFIX.sub(b"", text).removesuffix(b"\n")
    return PrintedLine(
        text=text.decode("utf-8", "replace"),
        monotonic_us=monotonic_ns // 1000,
        facility=None if facility == _NO_FACILITY else facility,
        cpu=cpu,
        task=task.partition(b"\0")[0].decode("utf-8", "replace"),
        cgroup_id=cgroup_id,
        cut=copied < full,
    )
