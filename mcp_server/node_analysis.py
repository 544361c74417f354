"""What `analyze_xid_errors` looks at: the newest 1,000 events of each severity, and as many incidents.

So a storm of mild ones cannot hide the bad ones, and the work is bounded; when there were more, the
result says so. What could not be heard in that time is part of the result, and so is from when on the
journal holds everything: of the time before that nothing can be said (`daemon.reach`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from daemon.analysis import HEARING, BlindSpots, FaultGroup, blind_spots, fault_groups
from daemon.event import Item, Kind, Severity, parse_rfc3339
from daemon.filter import EventFilter, uuid_key
from daemon.page import MAX_LIMIT, Missed, missed_since
from daemon.reach import reaches_back_to
from daemon.since import Since, parse_since
from mcp_server.addresses import INCIDENTS_ONLY
from mcp_server.incidents import concerns, in_order, is_open
from mcp_server.services import Services
from mcp_server.wire_analysis import AnalyzeXidErrors, Finding
from probes.health import ProbeHealth


@dataclass(frozen=True, slots=True)
class Looked:
    """What was looked at, and what it showed."""

    node: str
    severity: Severity
    """The mildest that was looked for."""
    groups: Sequence[FaultGroup]
    """Worst first; drills, if they were asked for, at the end."""
    single_groups: Sequence[FaultGroup]
    """The same without what belongs to one of `incidents`."""
    times: Mapping[str, int]
    """By incident id: how often its cause was counted, among the events looked at."""
    incidents: Sequence[Item]
    """Open before over, then worst first; drills, if they were asked for, at the end."""
    open_before: Sequence[Item]
    """Open incidents last heard of before the time looked at; no drills."""
    drills_left_out: int
    """Groups of drills that were not asked for."""
    blind: BlindSpots
    probes: Sequence[ProbeHealth]
    complete: bool
    """False when there were more events than were looked at."""
    missed: Missed | None
    """What retention had deleted of what was asked for, as far as a cursor tells."""
    as_of_us: int
    """When it was looked at. Wall clock, µs since the Unix epoch; so are all times here."""
    since_cursor: int
    """The cursor that was asked for; 0: none was."""
    from_us: int | None
    """Start of the time looked at; None when it is not known."""
    asked_from_us: int | None
    """Start of the time asked for, when what is kept does not reach that far; else None."""
    watching_since: str | None
    """Start of this daemon, RFC 3339; None when it is not known."""
    boot_id: str | None
    """The boot that runs now; None when it is not known."""
    forged_lines: int
    """Lines since the daemon's start that a process wrote in the driver's name; they were not believed."""
    knows_a_driver: bool
    """Whether the log or /proc named a driver or a GPU. Without one there may be nothing to hear of."""
    next_cursor: int

    @property
    def hears(self) -> bool:
        """Whether at least one live source hears now."""
        return any(probe.live and probe.hears for probe in self.probes)

    @property
    def faults(self) -> Sequence[FaultGroup]:
        """The groups that are no drills, worst first."""
        return [group for group in self.groups if not group.worst.drill]

    @property
    def open_incidents(self) -> Sequence[Item]:
        """The open incidents that are no drills, worst first."""
        return [item for item in self.incidents if is_open(item.event) and not item.event.drill]

    @property
    def finding(self) -> Finding:
        """What it comes to."""
        if self.faults or any(not item.event.drill for item in self.incidents):
            return Finding.FAULTS
        if not self.hears:
            return Finding.CANNOT_HEAR
        whole = self.complete and not self.blind and self.missed is None and self.asked_from_us is None
        return Finding.NO_FAULTS if whole else Finding.NOT_ALL_HEARD

    def is_before_reboot(self, group: FaultGroup) -> bool | None:
        """Whether a fault last happened in an earlier boot; None when this boot is not known."""
        return None if self.boot_id is None else group.newest.event.boot_id != self.boot_id


class NodeAnalysis:
    """Looks at the events of this node."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def look(self, asked: AnalyzeXidErrors) -> Looked:
        """What was asked for, as of now. Raises UserError when that makes no sense, or the journal is
        needed and cannot be read."""
        services, stream = self._services, self._services.stream
        now_us = time.time_ns() // 1000
        since = parse_since(asked.since, now_us=now_us) if asked.since else Since(0)
        if since.cursor:
            await stream.page(since.cursor, 1)  # refuses a cursor from the future
        match = stream.resolved(EventFilter.parse(severity=asked.severity, gpu=asked.gpu))
        next_cursor = stream.newest
        items, complete = await self._newest_of_each_severity(match, since)
        hearing, _ = await self._newest(EventFilter(kinds=HEARING), since)
        kept, all_incidents = await self._incidents(match, items)
        incidents = [item for item in kept if asked.include_drills or not item.event.drill]
        told = [item for item in incidents if _is_since(item, since)]
        told_ids = {item.event.id for item in told}
        groups = fault_groups(items)
        shown = [group for group in groups if asked.include_drills or not group.worst.drill]
        single = fault_groups(item for item in items if item.event.incident not in told_ids)
        status = services.status()
        started, boot_id = status.get("started"), status.get("boot_id")
        watching_since = started if isinstance(started, str) else None
        from_us = await self._from(since, watching_since)
        return Looked(
            node=services.node,
            severity=match.min_severity,
            groups=shown,
            single_groups=[group for group in single if asked.include_drills or not group.worst.drill],
            times=_times(items, incidents),
            incidents=told,
            open_before=[
                item
                for item in incidents
                if is_open(item.event) and not item.event.drill and item.event.id not in told_ids
            ],
            drills_left_out=len(groups) - len(shown),
            blind=blind_spots(hearing),
            probes=services.health(),
            complete=complete and all_incidents,
            missed=missed_since(since.cursor, stream.gone_through),
            as_of_us=now_us,
            since_cursor=since.cursor,
            from_us=from_us,
            asked_from_us=since.time_us if since.time_us and since.time_us != from_us else None,
            watching_since=watching_since,
            boot_id=boot_id if isinstance(boot_id, str) else None,
            forged_lines=services.counters().forged_lines,
            knows_a_driver=bool(services.gpus()) or services.driver_version() is not None,
            next_cursor=next_cursor,
        )

    async def _from(self, since: Since, watching_since: str | None) -> int | None:
        """Start of the time looked at; None when it is not known, as for a cursor."""
        if since.cursor:
            return None
        reach_us = await reaches_back_to(self._services.stream)
        if reach_us is None and watching_since is not None and not self._services.stream.gone_through:
            reach_us = parse_rfc3339(watching_since)
        return since.time_us or None if reach_us is None else max(reach_us, since.time_us)

    async def incidents(self, gpus: Sequence[str] = ()) -> list[Item]:
        """The incidents kept, of these GPUs or of all, in the order to tell them. Raises UserError."""
        match = self._services.stream.resolved(EventFilter.parse(gpu=gpus))
        items = (await self._services.stream.page(None, MAX_LIMIT, match)).items if gpus else []
        found, _ = await self._incidents(match, items)
        return found

    async def _newest_of_each_severity(self, match: EventFilter, since: Since) -> tuple[list[Item], bool]:
        """The items, and whether they are all there are."""
        found: dict[str, Item] = {}
        complete = True
        for severity in Severity:
            if severity.rank >= match.min_severity.rank:
                items, all_of_them = await self._newest(replace(match, min_severity=severity), since)
                found |= {item.event.id: item for item in items}
                complete = complete and all_of_them
                if all_of_them:
                    break  # the worse ones are among them
        return list(found.values()), complete

    async def _incidents(self, match: EventFilter, items: Iterable[Item]) -> tuple[list[Item], bool]:
        """The incidents kept, in the order to tell them, and whether they are all there are.

        `items` are events that match: their devices are the ones that were asked for.
        """
        wanted = replace(INCIDENTS_ONLY, min_severity=match.min_severity)
        found, all_of_them = await self._newest_of_each_severity(wanted, Since(0))
        if match.gpus:
            devices = self._devices(match.gpus) | {item.event.device or "" for item in items}
            found = [item for item in found if match.matches(item.event) or concerns(item.event, devices)]
        return in_order(found), all_of_them

    def _devices(self, gpus: Collection[int | str]) -> set[int | str]:
        """What was asked for, with the PCI addresses of the GPUs it names by index or UUID."""
        known = self._services.gpus()
        return {*gpus} | {gpu.pci for gpu in known if gpu.index in gpus or uuid_key(gpu.uuid) in gpus}

    async def _newest(self, match: EventFilter, since: Since) -> tuple[list[Item], bool]:
        """The newest matching items since then, and whether they are all there are."""
        page = await self._services.stream.page(None, MAX_LIMIT, match)
        inside = [item for item in page.items if _is_since(item, since)]
        return inside, len(page.items) < MAX_LIMIT or len(inside) < len(page.items)


def _times(items: Iterable[Item], incidents: Sequence[Item]) -> Mapping[str, int]:
    """How often the cause of each incident was counted, those included that a storm had folded into one."""
    causes = {item.event.id: (item.event.detail["primary"]["kind"], item.event.code) for item in incidents}
    times: Counter[str] = Counter()
    for item in items:
        event = item.event
        kind, code = causes.get(event.incident or "", (None, None))
        if event.kind == kind or event.kind is Kind.OVERFLOW:
            times[event.incident or ""] += event.count if event.code == code else 0
    return times


def _is_since(item: Item, since: Since) -> bool:
    return item.cursor > since.cursor and item.event.last_time_us >= since.time_us
