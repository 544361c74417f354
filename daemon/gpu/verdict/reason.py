"""What a verdict is made of: the values, and their public JSON form."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from daemon.event import Blame


class State(StrEnum):
    """The verdict."""

    HEALTHY = "healthy"
    """Everything that this GPU has was read and is in order."""
    DEGRADED = "degraded"
    """It works, but not as it should, or it waits for a repair."""
    UNHEALTHY = "unhealthy"
    """No work should be given to it."""
    UNKNOWN = "unknown"
    """Nothing bad was found, but not everything could be looked at."""


class Severity(StrEnum):
    """What a reason does to the verdict."""

    UNHEALTHY = "unhealthy"
    DEGRADED = "degraded"
    UNKNOWN = "unknown"
    """Something could not be looked at."""
    NOTE = "note"
    """Worth knowing; it changes nothing."""


class Source(StrEnum):
    """Where a threshold comes from."""

    DRIVER = "driver"
    """The GPU's own threshold or verdict, as the driver reports it."""
    NVIDIA = "nvidia"
    """A document or tool of NVIDIA; `Reason.reference` names it."""
    JUDGEMENT = "judgement"
    """Ours."""


class Code(StrEnum):
    """What a reason is about; stable, for programs."""

    GPU_LOST = "gpu_lost"
    GPU_GONE = "gpu_gone"
    NVML_HUNG = "nvml_hung"
    NOT_ANSWERED = "not_answered"
    UNREAD = "unread"
    GPUS_UNREADABLE = "gpus_unreadable"
    RECOVERY_ACTION = "recovery_action"
    FATAL_EVENTS = "fatal_events"
    CRITICAL_EVENTS = "critical_events"
    OTHER_EVENTS = "other_events"
    APPLICATION_EVENTS = "application_events"
    UNPROVED_EVENTS = "unproved_events"
    RECOVERED_EVENTS = "recovered_events"
    ECC_UNCORRECTED = "ecc_uncorrected"
    ECC_LIFETIME = "ecc_lifetime"
    ECC_OFF = "ecc_off"
    SRAM_THRESHOLD = "sram_threshold"
    MEMORY_UNREPAIRABLE = "memory_unrepairable"
    REPAIR_PENDING = "repair_pending"
    ROW_REMAP_FAILURE = "row_remap_failure"
    ROW_REMAP_PENDING = "row_remap_pending"
    SPARE_ROWS_USED_UP = "spare_rows_used_up"
    PAGES_RETIRED = "pages_retired"
    PAGE_RETIREMENT_PENDING = "page_retirement_pending"
    GPU_TEMPERATURE = "gpu_temperature"
    MEMORY_TEMPERATURE = "memory_temperature"
    THERMAL_SLOWDOWN = "thermal_slowdown"
    POWER_BRAKE = "power_brake"
    HARDWARE_SLOWDOWN = "hardware_slowdown"
    SLOWED_BEFORE = "slowed_before"
    PCIE_WIDTH = "pcie_width"
    PCIE_GENERATION = "pcie_generation"
    PCIE_REPLAYS = "pcie_replays"
    NVLINK_DOWN = "nvlink_down"
    NVLINK_ERRORS = "nvlink_errors"
    NVLINK_RETRAINED = "nvlink_retrained"
    FABRIC_NOT_READY = "fabric_not_ready"
    FABRIC_UNHEALTHY = "fabric_unhealthy"
    FABRIC_DEGRADED = "fabric_degraded"
    WORK_REFUSED = "work_refused"
    MODE_PENDING = "mode_pending"


BLAMES: Final = (Blame.HARDWARE, Blame.FABRIC, Blame.DRIVER, Blame.UNKNOWN, Blame.APPLICATION)
"""In the order to tell faults that are equally bad: what was broken before what may follow from it."""

Value = bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason of a verdict."""

    code: Code
    severity: Severity
    sentence: str
    """For a person: one sentence, with units."""
    reading: str | None = None
    """Path of the reading (`row_remapping.pending`), its unit in its name; None when it is no reading."""
    value: Value = None
    """The reading; None when there is none."""
    threshold: Value = None
    """What `value` would have to be, or at most or at least be; None where there is nothing to compare."""
    source: Source = Source.DRIVER
    """Where the threshold comes from."""
    reference: str | None = None
    """NVIDIA's document or tool; None for other sources."""
    events: tuple[str, ...] = ()
    """Ids of the events that it is about, newest first."""
    fault: str | None = None
    """What the events tell of: `Xid 48`; None when it is not about events, or about several sorts of them."""
    blame: Blame | None = None
    """Whose fault that usually is; None as `fault`."""

    @property
    def name(self) -> str:
        """What it is about, in one word or two: `Xid 48`, `row_remap_pending`."""
        return self.fault or self.code.value

    def to_json(self) -> dict[str, Any]:
        """As a public JSON object."""
        return {
            "code": self.code.value,
            "severity": self.severity.value,
            "sentence": self.sentence,
            "reading": self.reading,
            "value": self.value,
            "threshold": self.threshold,
            "threshold_source": self.source.value,
            "reference": self.reference,
            "events": list(self.events),
            "fault": self.fault,
            "blame": self.blame.value if self.blame is not None else None,
        }


@dataclass(frozen=True, slots=True)
class NotChecked:
    """Something that this GPU or its driver does not have, so that nothing can be said of it."""

    check: str
    """`row remapping`."""
    why: str

    def to_json(self) -> dict[str, str]:
        """As a public JSON object."""
        return {"check": self.check, "why": self.why}


@dataclass(frozen=True, slots=True)
class Verdict:
    """A state with its reasons, gravest first."""

    state: State
    reasons: tuple[Reason, ...] = ()
    not_checked: tuple[NotChecked, ...] = ()

    @classmethod
    def of(cls, reasons: Iterable[Reason], not_checked: Iterable[NotChecked] = ()) -> Verdict:
        """The verdict that these reasons give: the gravest one decides, notes never."""
        ordered = tuple(sorted(reasons, key=lambda reason: _ORDER.index(reason.severity)))
        gravest = ordered[0].severity if ordered else Severity.NOTE
        state = State.HEALTHY if gravest is Severity.NOTE else State(gravest.value)
        return cls(state, ordered, tuple(not_checked))

    @property
    def headline(self) -> str:
        """The state and its first reason, in one line."""
        first = self.reasons[0] if self.reasons else None
        if first is None or (self.state is State.HEALTHY):
            return self.state.value
        return f"{self.state.value}: {first.sentence}"

    def to_json(self) -> dict[str, Any]:
        """As a public JSON object."""
        return {
            "state": self.state.value,
            "reasons": [reason.to_json() for reason in self.reasons],
            "not_checked": [check.to_json() for check in self.not_checked],
        }


_ORDER = tuple(Severity)
