"""An event as a member of an incident: the event itself, and where it stands in kernel time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from daemon.event import Action, Blame, Event, Kind, Severity, from_dict, to_dict
from daemon.fault import OpenFault
from probes.line import Origin

_DETAIL_KEPT = frozenset({"caused_by_xid", "remote_pci", "recovery_from", "recovery_to", "link"})
"""The decoded fields that the rules look at; an incident's saved state holds no others."""

FAULT_KINDS = frozenset({Kind.XID, Kind.SXID, Kind.GPU_LOST, Kind.NVRM, Kind.OVERFLOW})
"""Kinds of event that can be part of an incident."""

RECOVERY_ACTION = 154
RECOVERED = 0
"""The value of `recovery_to` that says that the driver asks for nothing any more."""


class Sign(NamedTuple):
    """What an event reports, wherever and whenever: all that the tables tell events apart by."""

    kind: Kind
    """The event's kind; an overflow counts as what it folds, if that is one code."""
    xid: int | None
    """The Xid number; None for anything else."""
    name: str | None
    """Name of driver trouble without a code; None for anything else."""
    severity: Severity

    @classmethod
    def of(cls, event: Event) -> Sign:
        """What this event reports."""
        kind = event.kind
        if kind is Kind.OVERFLOW and event.code is not None:
            kind = Kind.SXID if event.nvswitch is not None else Kind.XID
        return cls(
            kind,
            event.code if kind is Kind.XID else None,
            event.name if kind is Kind.NVRM else None,
            event.severity,
        )


@dataclass(frozen=True, slots=True)
class Member:
    """One event of an incident, at its newest revision."""

    event: Event
    first_us: int
    """Kernel time of its first record, µs since boot."""
    last_us: int
    """Kernel time of its last record."""
    sign: Sign = field(init=False, compare=False)
    """What it reports."""
    device: str | None = field(init=False, compare=False)
    """PCI address of GPU or NVSwitch; None for an event of the node."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sign", Sign.of(self.event))
        object.__setattr__(self, "device", self.event.device)

    @classmethod
    def of(cls, fault: OpenFault, event: Event) -> Member:
        """The published `event` of `fault`."""
        return cls(event, fault.began_us, fault.last_us)

    def slim(self) -> Member:
        """As an incident keeps it: without log lines, witnesses and most detail."""
        event = self.event
        kept = {name: value for name, value in event.detail.items() if name in _DETAIL_KEPT}
        slim = replace(event, lines=(), lines_dropped=0, witnesses=(), detail=kept, incident=None)
        return Member(slim, self.first_us, self.last_us)

    # -- what the rules ask ------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The event's id."""
        return self.event.id

    @property
    def kind(self) -> Kind:
        """The event's kind; an overflow counts as what it folds, if that is one code."""
        return self.sign.kind

    @property
    def xid(self) -> int | None:
        """The Xid number; None for anything else."""
        return self.sign.xid

    @property
    def pid(self) -> int | None:
        """Process that the driver names, in the host's pid namespace; None when it names none."""
        return self.event.process.pid if self.event.process is not None else None

    @property
    def gpu_instance(self) -> int | None:
        """MIG GPU instance id; None when the line names none."""
        gpu = self.event.gpu
        return gpu.mig.gi if gpu is not None and gpu.mig is not None else None

    @property
    def caused_by(self) -> int | None:
        """The Xid that the driver itself prints as the cause of this one."""
        return self._number("caused_by_xid")

    @property
    def recovery_to(self) -> int | None:
        """154: number of the recovery action that the driver asks for from now on."""
        return self._number("recovery_to") if self.xid == RECOVERY_ACTION else None

    @property
    def remote_pci(self) -> str | None:
        """74: the other end of the link, where the line names it."""
        remote = self.event.detail.get("remote_pci")
        return remote if isinstance(remote, str) else None

    @property
    def is_serious(self) -> bool:
        """Critical or fatal: work was lost through hardware or driver, or the GPU is unusable."""
        return self.event.severity.rank >= Severity.CRITICAL.rank

    @property
    def is_application_error(self) -> bool:
        """A fault of the program's own making, as far as the code can tell."""
        return self.event.blame is Blame.APPLICATION

    @property
    def asks_for_recovery(self) -> bool:
        """154 to anything but None."""
        return self.recovery_to not in (None, RECOVERED)

    @property
    def what(self) -> tuple[Kind, int | str | None]:
        """What failed, wherever it did: the code, or the name of a trouble without one."""
        event = self.event
        return self.kind, event.code if event.code is not None else event.name

    def is_same_as(self, other: Member) -> bool:
        """The same failed on the same device."""
        return self.what == other.what and self.device == other.device

    def reports_the_same_as(self, earlier: Member) -> bool:
        """True when a later revision of the event says nothing that a rule could look at anew."""
        mine, its = self.event, earlier.event
        return (
            self.is_same_as(earlier)
            and self.pid == earlier.pid
            and mine.severity is its.severity
            and mine.detail == its.detail
        )

    def follows(self, other: Member) -> bool:
        """True when its first record was printed after the other's."""
        return self._place() > other._place()

    def _place(self) -> tuple[int, int]:
        return self.first_us, self.event.kmsg_seq or 0

    def _number(self, name: str) -> int | None:
        value = self.event.detail.get(name)
        return value if isinstance(value, int) else None

    # -- words -------------------------------------------------------------------------------

    @property
    def label(self) -> str:
        """`Xid 79`, `SXid 20034`, or what an event without a code tells."""
        event = self.event
        if event.code is not None:
            return f"{'SXid' if self.kind is Kind.SXID else 'Xid'} {event.code}"
        return {Kind.GPU_LOST: "loss of the GPU", Kind.OVERFLOW: "many faults"}.get(
            event.kind, event.name or event.kind.value
        )

    # -- saved state ---------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """As an object of JSON, for `load`."""
        event = to_dict(self.event, 0, stored=True)
        return {"event": event, "first_us": self.first_us, "last_us": self.last_us}

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> Member:
        """The member of such an object. Raises KeyError, TypeError or ValueError on anything else."""
        return cls(from_dict(data["event"]), int(data["first_us"]), int(data["last_us"]))


def proved(event: Event) -> bool:
    """True for what the kernel said, and for drills. What nobody can prove the kernel said neither opens
    nor closes an incident."""
    return event.drill or event.origin == Origin.KERNEL


def can_belong(event: Event) -> bool:
    """True for events that incidents are made of."""
    return event.kind in FAULT_KINDS and proved(event)


MILD_ACTIONS = frozenset({Action.IGNORE, Action.RESTART_APP})
"""First steps after which the GPU itself needs nothing."""
