"""A process that ended, as the tracker in the kernel tells it: mirrors struct tracker_end of tracker.h."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntFlag

from probes.bpf.printed import ForeignLayout

LAYOUT = 1
LEVELS = 8
NAME_BYTES = 128
_HEADER = struct.Struct("=IIQQQIIIIII16s")  # as long as the C compiler makes it: see tracker.h
_BYTES = _HEADER.size + LEVELS * NAME_BYTES
CUT = "..."
"""Stands for the outer levels of a cgroup's path where it has more than `LEVELS`."""


class Known(IntFlag):
    """Groups of values that hold, as of the kernel's structs whose members were found."""

    END = 1
    CODE = 2
    FILES = 4
    CGROUP = 8
    CGROUP_V1 = 16
    NAMESPACE = 32


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended. None: the kernel did not let it be seen."""

    pid: int
    """In the initial pid namespace, as the driver prints it."""
    ended_us: int
    """When its last thread ended, µs of CLOCK_MONOTONIC."""
    started_us: int | None = None
    """Its start, µs of CLOCK_BOOTTIME. With the pid it identifies a process for the whole boot."""
    name: str | None = None
    """Command name of its first thread, at most 15 bytes, chosen by the process itself."""
    exit_code: int | None = None
    """What it gave exit(3), 0 to 255; None also when a signal ended it."""
    signal: int | None = None
    """Number of the signal that ended it; None also when it ended by itself."""
    had_device: bool | None = None
    """It held a /dev/nvidia* file as it ended."""
    cgroup: str | None = None
    """Path of its cgroup from the root of the node's tree: of version 2, or where it is in the root of that,
    the one of version 1's memory controller. Begins with `CUT` when it is longer than can be told."""
    own_pids: bool | None = None
    """It lived in a pid namespace below the initial one."""


def decode(record: bytes) -> Ended:
    """The process of a ring record. Raises ForeignLayout when another program wrote it."""
    if len(record) != _BYTES:
        raise ForeignLayout(f"records of {len(record)} bytes, not of {_BYTES}")
    (layout, pid, ended_ns, started_ns, _, known, status, had_device, level, levels, deeper, comm) = (
        _HEADER.unpack_from(record)
    )
    if layout != LAYOUT:
        raise ForeignLayout(f"layout {layout}, not {LAYOUT}")
    has_code, signal = bool(known & Known.CODE), status & 0x7F
    return Ended(
        pid=pid,
        ended_us=ended_ns // 1000,
        started_us=started_ns // 1000 if known & Known.END else None,
        name=_text(comm) if known & Known.END else None,
        exit_code=status >> 8 & 0xFF if has_code and not signal else None,
        signal=signal if has_code and signal else None,
        had_device=bool(had_device) if known & Known.FILES else None,
        cgroup=_path(record, min(levels, LEVELS), cut=bool(deeper)) if known & Known.CGROUP else None,
        own_pids=level > 0 if known & Known.NAMESPACE else None,
    )


def _path(record: bytes, levels: int, *, cut: bool) -> str:
    places = (_HEADER.size + level * NAME_BYTES for level in reversed(range(levels)))
    names = [_text(record[at : at + NAME_BYTES]) for at in places]
    return "/".join([CUT if cut else "", *names]) or "/"


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("utf-8", "replace")
