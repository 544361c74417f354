"""What `analyze_xid_errors` looks at: the newest 1,000 events of each severity, and as many incidents.

So a storm of mild ones cannot hide the bad ones, and the work is bounded; when there were more, the
result says so. What could not be heard in that time is part of the result.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from daemon.analysis import HEARING, BlindSpots, FaultGroup, blind_spots, fault_groups
from daemon.event import Item, Severity, rfc3339
from daemon.filter import EventFilter, uuid_key
from daemon.page import MAX_LIMIT, Missed, missed_since
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
    from_time: str | None
    """Start of the time looked at, RFC 3339; None when it is not known."""
    watching_since: str | None
    """Start of this daemon, RFC 3339; None when it is not known."""
    boot_id: str | None
    """The boot that runs now; None when it is not known."""
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
        whole = self.complete and not self.blind and self.missed is None
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
        match = EventFilter.parse(severity=asked.severity, gpu=asked.gpu)
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
        return Looked(
            node=services.node,
            severity=match.min_severity,
            groups=shown,
            single_groups=[group for group in single if asked.include_drills or not group.worst.drill],
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
            from_time=await self._from_time(since) or watching_since,
            watching_since=watching_since,
            boot_id=boot_id if isinstance(boot_id, str) else None,
            next_cursor=next_cursor,
        )

    async def incidents(self, gpus: Sequence[str] = ()) -> list[Item]:
        """The incidents kept, of these GPUs or of all, in the order to tell them. Raises UserError."""
        match = EventFilter.parse(gpu=gpus)
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

    async def _from_time(self, since: Since) -> str | None:
        """Start of the time that was looked at; None when nothing is kept and no time was asked for."""
        stream = self._services.stream
        kept = await stream.page(since.cursor, 1)
        oldest_us = kept.items[0].event.time_us if kept.items else None
        if since.time_us and (oldest_us is None or not stream.deleted_through):
            return rfc3339(since.time_us)
        return None if oldest_us is None else rfc3339(max(oldest_us, since.time_us))


def _is_since(item: Item, since: Since) -> bool:
    return item.cursor > since.cursor and item.event.last_time_us >= since.time_us
