"""What the kernel knows of a running process: processor time, memory, wake-ups."""

from __future__ import annotations

import time
from pathlib import Path

_CPU_CLOCK = 2
"""CPUCLOCK_SCHED of linux/posix-timers.h, in the low bits of a clock whose high bits are the inverted pid."""


def rss_mb(pid: int) -> float:
    """Resident memory, in MB (10^6 bytes)."""
    return _status(Path(f"/proc/{pid}/status"))["VmRSS"] * 1024 / 1e6


def anonymous_mb(pid: int) -> float:
    """The part of it that no file backs: what the process itself has allocated."""
    return _status(Path(f"/proc/{pid}/status"))["RssAnon"] * 1024 / 1e6


def cpu_s(pid: int) -> float:
    """Processor time of a process so far, that of its ended threads included."""
    return time.clock_gettime(~pid << 3 | _CPU_CLOCK)


def switches(pid: int) -> int:
    """How often its threads were put on a processor so far: each wake-up ends in one switch away."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        status = _status(task / "status")
        total += status["voluntary_ctxt_switches"] + status["nonvoluntary_ctxt_switches"]
    return total


def _status(path: Path) -> dict[str, int]:
    fields: dict[str, int] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        first = value.split()[:1]
        if first and first[0].isdigit():
            fields[name] = int(first[0])
    return fields
