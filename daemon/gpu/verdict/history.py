"""What was heard of a GPU in the last hour, as reasons: by severity, blame, and whether it is over.

What counts against a GPU has a reason for each sort of fault, so that none hides behind another; what
does not has one for all. An error of a program is never held against the GPU it ran on, nor is a line
that nobody can prove the kernel printed. A fault is over when its incident has recovered, or when after
it the driver was loaded anew or asked for no recovery action any more. Drills are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from daemon.event import Blame, Event, Kind
from daemon.event import Severity as EventSeverity
from daemon.gpu.verdict.reason import BLAMES, Code, Reason, Severity, Source
from daemon.incidents.member import FAULT_KINDS, RECOVERED, RECOVERY_ACTION, proved
from daemon.incidents.outcome import State as IncidentState

WINDOW_US = 3_600_000_000
"""How far back events count: one hour."""
_IDS = 8
_WORDS = {
    Code.FATAL_EVENTS: "Fatal in the last hour",
    Code.CRITICAL_EVENTS: "Critical in the last hour",
    Code.OTHER_EVENTS: "Warned of in the last hour",
    Code.APPLICATION_EVENTS: "Errors of programs in the last hour, which say nothing against the GPU",
    Code.UNPROVED_EVENTS: "In the last hour, from lines that may not be the kernel's",
    Code.RECOVERED_EVENTS: "Over since, in the last hour",
}
_CODES = {EventSeverity.FATAL: Code.FATAL_EVENTS, EventSeverity.CRITICAL: Code.CRITICAL_EVENTS}
_SEVERITIES = {Code.FATAL_EVENTS: Severity.UNHEALTHY, Code.CRITICAL_EVENTS: Severity.DEGRADED}


def heard(
    events: Iterable[Event], devices: frozenset[str | None], now_us: int, *, advice_is_read: bool = False
) -> Iterator[Reason]:
    """The reasons from what was heard of `devices` (None: the node as a whole), gravest first.

    `advice_is_read`: the driver's present recovery action is known from a reading, so that the events
    that told of earlier ones are not needed.
    """
    every = tuple(events)
    endings = _Endings.of(every)
    own = [
        event
        for event in every
        if event.kind in FAULT_KINDS
        and event.device in devices
        and not event.drill
        and event.severity is not EventSeverity.INFO
        and now_us - event.last_time_us <= WINDOW_US
        and not (advice_is_read and _is_advice(event))
    ]
    sorted_out: dict[Code, list[Event]] = {}
    for event in sorted(own, key=lambda event: event.last_time_us, reverse=True):
        sorted_out.setdefault(_code(event, endings), []).append(event)
    for code in _WORDS:
        found = sorted_out.get(code, [])
        if code in _SEVERITIES:
            yield from (_of_a_fault(code, same, now_us) for same in _by_fault(found))
        elif found:
            yield _reason(code, found, now_us)


def _by_fault(events: Sequence[Event]) -> Iterable[list[Event]]:
    """These events, newest first, by what they tell of; blame of the hardware first."""
    faults: dict[str, list[Event]] = {}
    for event in sorted(events, key=lambda event: BLAMES.index(event.blame)):
        faults.setdefault(_fault(event), []).append(event)
    return faults.values()


def _of_a_fault(code: Code, events: list[Event], now_us: int) -> Reason:
    newest_first = sorted(events, key=lambda event: event.last_time_us, reverse=True)
    reason = _reason(code, newest_first, now_us)
    return replace(reason, fault=_fault(events[0]), blame=events[0].blame)


@dataclass(frozen=True, slots=True)
class _Endings:
    """What says that faults are over."""

    incidents: frozenset[str]
    """Ids of the incidents that have recovered."""
    driver_loaded_us: int
    """When the driver was last loaded; 0 when that was not heard."""
    nothing_asked_us: Mapping[str | None, int]
    """Device → when its driver last said that no recovery action is needed any more."""

    @classmethod
    def of(cls, events: Iterable[Event]) -> _Endings:
        incidents, loaded_us, asked = set(), 0, dict[str | None, int]()
        for event in events:
            if event.kind is Kind.INCIDENT:
                if event.detail.get("state") == IncidentState.RECOVERED:
                    incidents.add(event.id)
            elif event.drill or not proved(event):
                continue
            elif event.kind is Kind.DRIVER_LOADED:
                loaded_us = max(loaded_us, event.last_time_us)
            elif _is_advice(event) and event.detail.get("recovery_to") == RECOVERED:
                asked[event.device] = max(asked.get(event.device, 0), event.last_time_us)
        return cls(frozenset(incidents), loaded_us, asked)

    def cover(self, event: Event) -> bool:
        """True when the fault that `event` tells of is over."""
        after_us = max(self.driver_loaded_us, self.nothing_asked_us.get(event.device, 0))
        return event.incident in self.incidents or event.last_time_us < after_us


def _code(event: Event, endings: _Endings) -> Code:
    if not proved(event):
        return Code.UNPROVED_EVENTS
    if event.blame is Blame.APPLICATION:
        return Code.APPLICATION_EVENTS
    if endings.cover(event):
        return Code.RECOVERED_EVENTS
    return _CODES.get(event.severity, Code.OTHER_EVENTS)


def _is_advice(event: Event) -> bool:
    return event.kind is Kind.XID and event.code == RECOVERY_ACTION


def _reason(code: Code, events: list[Event], now_us: int) -> Reason:
    newest, total = events[0], sum(event.count for event in events)
    more = f", and {total - 1} more" if total > 1 else ""
    sentence = f"{_WORDS[code]}: {_name(newest)}, {_ago(now_us - newest.last_time_us)}{more}."
    ids = tuple(event.id for event in events[:_IDS])
    return Reason(
        code,
        _SEVERITIES.get(code, Severity.NOTE),
        sentence,
        "events of the last hour",
        total,
        0,
        Source.JUDGEMENT,
        events=ids,
    )


def _fault(event: Event) -> str:
    if event.code is None:
        return event.kind.value
    return f"{'SXid' if event.nvswitch is not None else 'Xid'} {event.code}"


def _name(event: Event) -> str:
    summary = event.summary.rstrip(".")
    return summary if event.code is None else f"{_fault(event)} ({summary})"


def _ago(us: int) -> str:
    seconds = max(us, 0) // 1_000_000
    return f"{seconds} s ago" if seconds < 120 else f"{seconds // 60} min ago"
