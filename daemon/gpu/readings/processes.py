"""Which processes hold a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from daemon.gpu.readings.section import Section


@dataclass(frozen=True, slots=True)
class GpuProcess(Section):
    """One process on a GPU or MIG instance; a process that uses both ways is listed twice."""

    pid: int
    """As the driver gives it: in a container without the host's pid namespace it may name nothing there."""
    type: str
    """`compute` or `graphics`."""
    memory_used_bytes: int | None = None
    """None: the driver does not know it."""
    gi: int | None = None
    """GPU instance id; None without MIG."""
    ci: int | None = None
    """Compute instance id; None without MIG."""


@dataclass(frozen=True, slots=True)
class Processes(Section):
    """The processes of a GPU by the driver's books: the driver lists only what it may show the reader."""

    processes: tuple[GpuProcess, ...] | None = None
    """Sorted by pid. None: not read. Empty: no process."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """`compute` or `graphics` → why those could not be listed; `processes` when neither could."""
