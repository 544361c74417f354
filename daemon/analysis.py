"""What is wrong, from the events that are kept: faults of one kind on one device taken together.

Pure: it is given events and groups them, worst first. Drills never mix with real faults. Events
about the daemon's own hearing (gaps, probes) are no faults; `blind_spots` sums them up, so that "no
errors" is never said of a time that could not be heard.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from daemon.event import Event, Item, Kind
from daemon.own_events import is_of_the_log

NOT_FAULTS = frozenset({Kind.GAP, Kind.PROBE, Kind.DRIVER_LOADED, Kind.INCIDENT, Kind.OPERATOR})
HEARING = frozenset({Kind.GAP, Kind.PROBE})
"""Kinds of event that say that something could not be heard."""


@dataclass(frozen=True, slots=True)
class FaultGroup:
    """The events of one device that tell of the same fault."""

    worst: Event
    """The most severe event, the newest of several: whose meaning stands for the group."""
    newest: Item
    """The event that happened last."""
    events: int
    """Number of events."""
    count: int
    """Times the fault happened: the sum of the events' counts."""
    first_time_us: int
    """Wall clock, µs since the Unix epoch."""
    last_time_us: int


@dataclass(frozen=True, slots=True)
class BlindSpots:
    """What could not be heard."""

    gaps: int
    """Stretches of kernel records that were lost."""
    lost_records: int | None
    """How many records they had in all; None when that is not known."""
    outages: int
    """Times a source of kernel messages stopped hearing."""
    last_time_us: int | None
    """When it last happened; None when it never did."""

    def __bool__(self) -> bool:
        """True when anything could not be heard."""
        return self.gaps + self.outages > 0


def fault_groups(items: Iterable[Item]) -> list[FaultGroup]:
    """The faults among these items: real ones before drills, worst first, then the newest first."""
    by_fault: dict[tuple[object, ...], list[Item]] = {}
    for item in items:
        event = item.event
        if event.kind not in NOT_FAULTS:
            what = event.name if event.code is None else event.code
            by_fault.setdefault((event.drill, event.device, event.kind, what), []).append(item)
    groups = [_group(members) for members in by_fault.values()]
    groups.sort(key=lambda group: (group.worst.drill, -group.worst.severity.rank, -group.last_time_us))
    return groups


def blind_spots(items: Sequence[Item]) -> BlindSpots:
    """What the gap and probe events among these items say."""
    gaps = [item.event for item in items if item.event.kind is Kind.GAP]
    downs = [item.event for item in items if _is_outage(item.event)]
    lost = [event.detail.get("lost_records") for event in gaps]
    counted = [number for number in lost if isinstance(number, int)]
    return BlindSpots(
        gaps=len(gaps),
        lost_records=sum(counted) if len(counted) == len(lost) else None,
        outages=len(downs),
        last_time_us=max((event.last_time_us for event in (*gaps, *downs)), default=None),
    )


def _is_outage(event: Event) -> bool:
    """True when a source of kernel messages went down."""
    return event.kind is Kind.PROBE and event.detail.get("hears") is not True and is_of_the_log(event)


def _group(items: Sequence[Item]) -> FaultGroup:
    newest = max(items, key=lambda item: (item.event.last_time_us, item.cursor))
    worst = max(items, key=lambda item: (item.event.severity.rank, item.event.last_time_us, item.cursor))
    return FaultGroup(
        worst=worst.event,
        newest=newest,
        events=len(items),
        count=sum(item.event.count for item in items),
        first_time_us=min(item.event.time_us for item in items),
        last_time_us=newest.event.last_time_us,
    )
