"""How a part that can be unavailable says so: `check()` results and the health of running probes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Verdict(StrEnum):
    """Outcome of one check."""

    OK = "ok"
    WARN = "warn"
    """Works, but less well than it could; the hint says what to change."""
    FAIL = "fail"
    """Cannot work here; the hint says what is missing."""
    OFF = "off"
    """Not asked for, or not part of this version."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `xidwatch doctor`."""

    name: str
    """What was looked at: `kmsg`, `log_buf_len`, `disk`, `port` …"""
    verdict: Verdict
    finding: str
    """One sentence: what was found, with the values read."""
    hint: str | None = None
    """One sentence: what to do about it; None when nothing needs doing."""


class ProbeState(StrEnum):
    """`ProbeHealth` in one word."""

    OK = "ok"
    DEGRADED = "degraded"
    """It hears, but not everything; the reason says what not."""
    RELEASED = "released"
    """It does not hear, because somebody asked for that."""
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class ProbeHealth:
    """State of one running probe, for `status`, `/readyz` and `/metrics`."""

    name: str
    hears: bool
    """True while new records reach the daemon through this probe."""
    live: bool
    """True for a source of every kernel message, as it is printed; False for a second witness of some faults,
    and for a replay of a file."""
    reason: str | None = None
    """One sentence: why it does not hear, or what it does not hear while it hears the rest; None while it
    hears everything."""
    hint: str | None = None
    cause: str | None = None
    """Short name of the reason, for programs, where the probe has such names; None while it hears."""
    note: str | None = None
    """What is worth knowing of how it hears; None when all is as usual."""
    counters: Mapping[str, int] = field(default_factory=dict)
    """Counts since start, e.g. `records`, `skipped`, `malformed`, `lost`, `reopened`."""
    on_request: bool = False
    """True when it does not hear because somebody asked for that."""

    @property
    def state(self) -> ProbeState:
        """In one word."""
        if self.hears:
            return ProbeState.OK if self.reason is None else ProbeState.DEGRADED
        return ProbeState.RELEASED if self.on_request else ProbeState.DOWN
