"""What comes back from asking GPUs: an answer, or why there is none. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from daemon.event import rfc3339
from daemon.gpu.protocol import Trouble


def not_returned(call: str, since_us: int, now_us: int | None = None) -> str:
    """`nvmlDeviceGetTemperature has not returned since 20:56:44Z (16 s)`; without how long it lasts where
    `now_us` is None. Times are wall clock, µs since the Unix epoch."""
    since = rfc3339(since_us)[len("2026-11-22T") : len("2026-11-22T20:56:44")]
    lasts = "" if now_us is None else f" ({max(now_us - since_us, 0) / 1e6:.0f} s)"
    return f"{call or 'an NVML call'} has not returned since {since}Z{lasts}"


@dataclass(frozen=True, slots=True)
class Answered:
    """What the operation read."""

    data: Mapping[str, object]
    """The operation's JSON object."""
    took_ms: float
    """How long it took in the worker, waiting for its turn not counted."""


@dataclass(frozen=True, slots=True)
class Unanswered:
    """Why there is no answer."""

    trouble: Trouble
    reason: str
    """For a person: a sentence without its full stop."""
    call: str | None = None
    """The NVML function it failed in or hangs in; None when it was none, or it is not known."""
    since_us: int | None = None
    """When that call began, Unix time in µs; None when it has returned."""

    def as_of(self, now_us: int) -> Unanswered:
        """The same, told at this time (wall clock, µs since the Unix epoch): how long a call that hangs has
        lasted."""
        if self.trouble is not Trouble.HUNG or self.call is None or self.since_us is None:
            return self
        return replace(self, reason=not_returned(self.call, self.since_us, now_us))


Answer = Answered | Unanswered


@dataclass(frozen=True, slots=True)
class Answers:
    """What each GPU answered."""

    gpus: Mapping[str, Answer] = field(default_factory=dict)
    """By PCI address, or `#N` for the GPU of index N whose address is not known."""
    trouble: Unanswered | None = None
    """What keeps all GPUs from answering; None when they could be asked."""


@dataclass(frozen=True, slots=True)
class HungCall:
    """A call that did not return, or took the worker with it; its GPU is left alone for a while."""

    gpu: str | None
    """PCI address, or `#N` while that is not known; None when the call was one of the library itself."""
    call: str
    """The NVML function, `nvmlDeviceGetTemperature`; "" when it is not known."""
    since_us: int
    """When it began, Unix time in µs."""
    trouble: Trouble
    """HUNG or CRASHED."""

    def told(self, now_us: int) -> str:
        """The call and how long it has lasted at this time (wall clock, µs since the Unix epoch).
        Only for one that is HUNG."""
        return not_returned(self.call, self.since_us, now_us)


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """The worker and its predecessors."""

    pid: int | None
    """None while none runs."""
    starts: int
    """Workers started so far."""
    abandoned: int
    """Workers given up because a call in them did not return."""
    stuck: int
    """Those of them that have not ended yet."""
    hung: tuple[HungCall, ...]
    """Calls because of which GPUs are left alone, the longest first."""
