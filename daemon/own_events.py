"""Events about the daemon itself: records it lost, probes that went down or came back, what it was told
to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from daemon.catalog import meaning_of
from daemon.event import Event, Gpu, Kind, Process, Severity
from daemon.fault import OpenFault, Slot, Trust
from daemon.lineless import opened
from probes.health import ProbeHealth, ProbeState
from probes.line import LostRecords

_SECOND_WITNESS = "SECOND_WITNESS_"
"""How the names of events about a probe begin that hears only some faults, beside the kernel log."""
MAX_RANGES = 16
"""Ranges of lost sequence numbers that a gap event lists; further ones are in its totals."""


@dataclass(frozen=True, slots=True)
class Report:
    """One thing to say about a probe."""

    slot: Slot
    name: str
    """`KERNEL_RECORDS_LOST`, or one of those of `report_of_probe`."""
    probe: str
    boot_id: str
    at_us: int
    """Arrival time, µs of CLOCK_MONOTONIC."""
    wall_us: int


def report_of_loss(lost: LostRecords) -> Report:
    """Records were lost; losses of one storm share the slot."""
    slot = Slot(Trust.PROVED, lost.boot_id, Kind.GAP, lost.probe, None)
    return Report(slot, "KERNEL_RECORDS_LOST", lost.probe, lost.boot_id, lost.arrival_us, lost.wall_us)


def report_of_probe(health: ProbeHealth, *, boot_id: str, at_us: int, wall_us: int) -> Report:
    """A probe stopped hearing, or hears again: `PROBE_DOWN`, `PROBE_UP`. Without a second witness, one that
    is not live, no kernel message goes unheard: `SECOND_WITNESS_DOWN`, `SECOND_WITNESS_UP`, or, where
    somebody asked for it, `SECOND_WITNESS_RELEASED`."""
    change = "UP" if health.hears else "DOWN"
    if health.state is ProbeState.RELEASED:
        change = "RELEASED"
    name = f"PROBE_{change}" if health.live else f"{_SECOND_WITNESS}{change}"
    slot = Slot(Trust.PROVED, boot_id, Kind.PROBE, f"{health.name} {name}", None)
    return Report(slot, name, health.name, boot_id, at_us, wall_us)


def is_of_the_log(event: Event) -> bool:
    """True when this event of a probe is about one that hears the kernel log, not about a second witness."""
    return event.name is None or not event.name.startswith(_SECOND_WITNESS)


def opened_by(
    report: Report, detail: Mapping[str, Any], *, node: str, driver_version: str | None
) -> OpenFault:
    """The open fault that a first report becomes."""
    return opened(
        report.slot,
        meaning_of(report.slot.kind, report.name),
        identity=f"{report.slot.kind}\0{report.slot.what}",
        witness=report.probe,
        at_us=report.at_us,
        wall_us=report.wall_us,
        detail=detail,
        node=node,
        driver_version=driver_version,
    )


@dataclass(frozen=True, slots=True)
class Operation:
    """What an operator tool did, or refused to do."""

    name: str
    """`KILL_GPU_PROCESS` or `RESET_GPU`."""
    summary: str
    """One sentence that says what was done to whom, and how it ended."""
    succeeded: bool
    """False: it failed, or was refused."""
    pci: str | None = None
    """The GPU, by PCI address."""
    process: Process | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


def operator_event(
    operation: Operation, gpu: Gpu | None, *, node: str, boot_id: str, at_us: int, wall_us: int
) -> OpenFault:
    """The open fault that an operation becomes. Two of them never join."""
    what = f"{operation.name} {at_us}"
    means = replace(
        meaning_of(Kind.OPERATOR, None),
        name=operation.name,
        summary=operation.summary,
        severity=Severity.INFO if operation.succeeded else Severity.WARNING,
    )
    return opened(
        Slot(Trust.PROVED, boot_id, Kind.OPERATOR, what, operation.pci),
        means,
        identity=f"{Kind.OPERATOR}\0{what}",
        witness="operator",
        at_us=at_us,
        wall_us=wall_us,
        detail=operation.detail,
        node=node,
        driver_version=None,
        gpu=gpu,
        process=operation.process,
    )


def probe_detail(health: ProbeHealth, others_hear: Sequence[str]) -> dict[str, Any]:
    """What a probe event says; `others_hear` are the probes that go on hearing the kernel log."""
    return {
        "probe": health.name,
        "hears": health.hears,
        "reason": health.reason,
        "hint": health.hint,
        "others_hear": list(others_hear),
    }


_RECOVERED = ("recovered", "recovered_unproved")


def gap_detail(before: Mapping[str, Any], lost: LostRecords) -> dict[str, Any]:
    """What a gap event says: totals over all its ranges, and the first ranges themselves.

    `lost_records` is null once any part of the loss cannot be counted. `recovered`, where it is there, says
    how many of the records told of a fault and were heard through eBPF; `recovered_unproved` how many read
    like it, while nobody could show that the kernel printed them.
    """
    total = before.get("lost_records", 0)
    ranges = list(before.get("ranges", []))
    if lost.first_seq is not None and len(ranges) < MAX_RANGES:
        ranges.append([lost.first_seq, lost.last_seq])
    firsts = [seq for seq in (before.get("first_seq"), lost.first_seq) if seq is not None]
    lasts = [seq for seq in (before.get("last_seq"), lost.last_seq) if seq is not None]
    return {
        "lost_records": None if total is None or lost.count is None else total + lost.count,
        "first_seq": min(firsts, default=None),
        "last_seq": max(lasts, default=None),
        "ranges": ranges,
        **{name: before[name] for name in _RECOVERED if name in before},
    }


def note_recovered(gap: OpenFault, *, is_proved: bool) -> None:
    """One more of the lost records told of a fault, or reads like it, and was heard through eBPF."""
    name = _RECOVERED[not is_proved]
    gap.detail[name] = gap.detail.get(name, 0) + 1
    told, unproved = (gap.detail.get(each, 0) for each in _RECOVERED)
    parts = [meaning_of(gap.slot.kind, gap.event.name).summary]
    if told:
        lines = "one of the lost lines told of a fault, and was" if told == 1 else None
        parts.append(f"{lines or f'{told} of the lost lines told of faults, and were'} heard through eBPF")
    if unproved:
        lines = "one lost line that reads like a fault was" if unproved == 1 else None
        parts.append(
            f"{lines or f'{unproved} lost lines that read like faults were'} heard through eBPF, "
            "and nobody can show that the kernel printed that"
        )
    gap.event = replace(gap.event, summary="; ".join(parts))
