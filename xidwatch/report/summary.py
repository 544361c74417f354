"""What a replay found, as one value that every form of the report writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from daemon.event import Action, Event, Kind, Severity
from daemon.text import clean
from probes.replay.coverage import Boot, Coverage
from xidwatch.event_row import short_pci, what
from xidwatch.report.finding import Finding, find

MOST_SHOWN = 200
"""Events listed for people; JSON has all that were kept."""

MOST_FINDINGS = 30
"""Incidents listed for people."""

_MOST_NAMED = 8
_WORTH_DOING = frozenset(Action) - {Action.IGNORE}


@dataclass(slots=True)
class Device:
    """What happened on one GPU or NVSwitch."""

    pci: str | None
    """None: faults that name no device."""
    label: str
    """`91:00 NVIDIA H200`, or what is known of it."""
    uuid: str | None = None
    events: int = 0
    faults: int = 0
    """How often something happened: repeats counted."""
    worst: Severity = Severity.INFO
    codes: Counter[str] = field(default_factory=Counter)
    """Faults by what they are: `Xid 79`."""
    first_us: int = 0
    last_us: int = 0


@dataclass(frozen=True, slots=True)
class Advice:
    """One thing to do."""

    severity: Severity
    action: str
    text: str
    because: str
    """What asks for it: `Xid 79 on 91:00`."""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything the report says."""

    headline: str
    node: str | None
    """The machine; None when neither the logs nor the person named one."""
    findings: Sequence[Finding]
    """The incidents: open ones before those that are over, then worst first, then newest first."""
    events: Sequence[Event]
    """Worst first, of equal ones the newest first."""
    timeline: Sequence[Event]
    """The events again, oldest first."""
    devices: Sequence[Device]
    """Worst first."""
    advice: Sequence[Advice]
    """Most pressing first."""
    coverage: Coverage
    notes: Sequence[str]
    """What limits all this: gaps, guesses, lines not believed. Whole sentences."""
    let_go: int
    """Events beyond what a report keeps."""

    @property
    def span_us(self) -> tuple[int, int] | None:
        """From when to when the logs reach, µs since the Unix epoch; None when nothing says so."""
        first, last = self.coverage.first_wall_us, self.coverage.last_wall_us
        return (first, last) if first is not None and last is not None else None


def summarise(
    faults: Sequence[Event],
    incidents: Sequence[Event],
    coverage: Coverage,
    *,
    node: str | None,
    notes: Sequence[str],
    let_go: int,
) -> Report:
    """The report on these events, each list oldest first."""
    worst_first = sorted(faults, key=_worst_first)
    by_id = {event.id: event for event in faults}
    findings = [find(incident, by_id) for incident in sorted(incidents, key=_worst_first)]
    findings.sort(key=lambda finding: not finding.is_open)
    return Report(
        headline=_headline(worst_first, findings, notes),
        node=node,
        findings=findings,
        events=worst_first,
        timeline=faults,
        devices=_devices(faults),
        advice=_advice(findings, worst_first),
        coverage=coverage,
        notes=notes,
        let_go=let_go,
    )


def title(report: Report) -> str:
    """What the report is on."""
    of_node = "" if report.node is None else f" of {clean(report.node, 80)}"
    return f"NVIDIA faults in saved logs{of_node}"


def where(event: Event) -> str:
    """` on 91:00`, or nothing for an event of the node."""
    return f" on {short_pci(event.device)}" if event.device is not None else ""


def moment(time_us: int, *, estimate: bool = False) -> str:
    """`2026-11-22 11:20:06Z`, with `~` behind an estimate."""
    return f"{datetime.fromtimestamp(time_us // 1_000_000, UTC):%Y-%m-%d %H:%M:%S}Z{'~' if estimate else ''}"


def _worst_first(event: Event) -> tuple[int, int]:
    return (-event.severity.rank, -event.last_time_us)


def counted(number: int, noun: str) -> str:
    """`1 event`, `2,000 events`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def reach(report: Report) -> Iterator[tuple[str, str]]:
    """What the logs cover, as labels and texts: clean, not escaped."""
    coverage = report.coverage
    if (span := report.span_us) is not None:
        yield "time", f"{moment(span[0])} to {moment(span[1])}"
    unread = coverage.lines - coverage.understood
    yield (
        "lines",
        f"{coverage.lines:,} read, {unread:,} not understood, {coverage.kernel:,} the kernel's, "
        f"{coverage.messages:,} of the driver",
    )
    yield "formats", ", ".join(f"{name} ({count:,})" for name, count in coverage.formats.most_common())
    yield "hosts", ", ".join(clean(host, 60) for host in coverage.hosts[:_MOST_NAMED])
    named = [clean(file.name, 100) for file in coverage.files]
    yield "files", _shortened(named)
    yield "boots", _shortened([_boot(boot) for boot in reversed(coverage.boots)])


def _shortened(found: Sequence[str]) -> str:
    more = len(found) - _MOST_NAMED
    return "; ".join(found[:_MOST_NAMED]) + (f"; and {more:,} more" if more > 0 else "")


def _boot(boot: Boot) -> str:
    """`replay-2 (2026-01-22 11:00:00Z to 2026-01-22 13:30:00Z, 8 lines, its beginning is missing)`."""
    told = [counted(boot.lines, "line")]
    if boot.first_wall_us is not None and boot.last_wall_us is not None:
        told.insert(0, f"{moment(boot.first_wall_us)} to {moment(boot.last_wall_us)}")
    if boot.head_is_missing:
        told.append("its beginning is missing")
    return f"{clean(boot.id, 40)} ({', '.join(told)})"


def _headline(events: Sequence[Event], findings: Sequence[Finding], notes: Sequence[str]) -> str:
    if not events:
        limits = " What limits that stands at the end." if notes else ""
        return f"No fault of an NVIDIA GPU or NVSwitch in these logs.{limits}"
    real = [event for event in events if not event.drill]
    if not real:
        return f"Only drills: {counted(len(events), 'test event')}."
    heard = counted(len(real), "event")
    if findings:
        going_on = sum(finding.is_open for finding in findings)
        heard = f"{counted(len(findings), 'incident')} ({going_on:,} open) from {heard}"
    worst = real[0]
    told = next((each.incident for each in findings if each.incident.severity is worst.severity), None)
    if told is not None and not told.drill:
        return f"{heard}; the worst is {told.severity}: {told.summary}"
    return f"{heard}; the worst is {worst.severity}: {what(worst)}{where(worst)}, {worst.summary}"


def _devices(events: Iterable[Event]) -> list[Device]:
    found: dict[str | None, Device] = {}
    for event in events:
        if event.drill or event.kind in (Kind.GAP, Kind.PROBE):
            continue
        device = found.get(event.device)
        if device is None:
            device = found[event.device] = Device(event.device, _label(event), first_us=event.time_us)
        if event.gpu is not None and device.uuid is None:
            device.uuid = event.gpu.uuid
        device.events += 1
        device.faults += event.count
        device.codes[what(event)] += event.count
        device.first_us = min(device.first_us, event.time_us)
        device.last_us = max(device.last_us, event.last_time_us)
        if event.severity.rank > device.worst.rank:
            device.worst = event.severity
    return sorted(found.values(), key=lambda device: (-device.worst.rank, -device.faults, device.label))


def _label(event: Event) -> str:
    if event.device is None:
        return "node"
    if event.nvswitch is not None:
        instance = "" if event.nvswitch.instance is None else str(event.nvswitch.instance)
        return f"nvswitch{instance} {short_pci(event.device)}"
    name = event.gpu.name if event.gpu is not None and event.gpu.name else ""
    return f"GPU {short_pci(event.device)} {clean(name, 40)}".rstrip()


def _advice(findings: Sequence[Finding], events: Sequence[Event]) -> list[Advice]:
    """What to do, each thing once with everything that asks for it: open incidents, or the events where
    there are none."""
    asking = [each.incident for each in findings if each.is_open] if findings else events
    reasons: dict[tuple[str, str], list[Event]] = {}
    for event in asking:
        if event.drill or event.action not in _WORTH_DOING:
            continue
        reasons.setdefault((event.action, event.action_text), []).append(event)
    advice = []
    for (action, text), because in reasons.items():
        worst = max(because, key=lambda event: event.severity.rank)
        named = list(dict.fromkeys(f"{_cause(event)}{where(event)}" for event in because))
        shown = ", ".join(named[:4]) + (f" and {len(named) - 4} more" if len(named) > 4 else "")
        advice.append(Advice(worst.severity, action, text, shown))
    return sorted(advice, key=lambda each: -each.severity.rank)


def _cause(event: Event) -> str:
    """An incident is named by its primary cause."""
    if event.kind is not Kind.INCIDENT:
        return what(event)
    kind = str((event.detail.get("primary") or {}).get("kind"))
    label = {"xid": "Xid", "sxid": "SXid"}.get(kind)
    return (
        f"{label} {event.code}" if label and event.code is not None else clean(event.name or "incident", 48)
    )
