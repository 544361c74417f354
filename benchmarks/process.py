"""What the kernel knows of a running process: processor time, memory, wake-ups."""

from __future__ import annotations

from pathlib import Path


def rss_mb(pid: int) -> float:
    """Resident memory, in MB (10^6 bytes)."""
    return _status(Path(f"/proc/{pid}/status"))["VmRSS"] * 1024 / 1e6


def anonymous_mb(pid: int) -> float:
    """The part of it that no file backs: what the process itself has allocated."""
    return _status(Path(f"/proc/{pid}/status"))["RssAnon"] * 1024 / 1e6


def cpu_s(pid: int) -> float:
    """Processor time of all its threads so far, from the scheduler's own clock (nanoseconds)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


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
