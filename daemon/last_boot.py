"""At the first start in a new boot: what the boot before said after the last record that was kept.

The whole log of that boot is played once more, as far as journald and pstore still have it, through a
pipeline of its own. Events are known by their id, which is made of boot id, kernel time and text: one
that the journal already holds is told again only when it has happened more often than was known, or
belongs to an incident, so that nothing is doubled. Incidents that were still open are followed from here
on, as if they had been heard live. Runs beside the live probes and holds up nobody.

That a boot is yet to be read is kept with the state of the incidents, from before the first record of the
new boot is stored until its events are: a process that ends meanwhile leaves it to the next one, but not
more often than `MOST_TRIES` times.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from daemon.event import Event, Kind
from daemon.incidents.saved import UNREAD, mark_unproved
from daemon.pipeline import Pipeline, Snapshot
from daemon.playback import Playback
from daemon.store import StateChange, Store
from daemon.thread import DiskThread
from probes.errors import UserError
from probes.line import KernelLine, Origin, ResumePoint

if TYPE_CHECKING:
    from probes import last_boot

_LOOKED_AT = 1000
log = logging.getLogger(__name__)

MOST_EVENTS = 2000
"""Events taken over from the boot before; of more, the last ones."""

MOST_TRIES = 3
"""Processes that begin to read a boot; a reading that ends the process must not do so for ever."""

DAY_US = 24 * 3600 * 1_000_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it."""

    events: int
    """Events that were new, or had happened more often than was known."""
    read_from: Sequence[str]
    """Sources that had lines of that boot; empty when there were none."""
    problems: Sequence[str]
    """What could not be read, as clauses."""


class Live:
    """The pipeline that hears this boot, as far as a reading of the boot before concerns it."""

    def __init__(
        self, pipeline: Pipeline, keep: Callable[[Sequence[Event]], None], now_us: Callable[[], int]
    ) -> None:
        """`keep` commits and pushes events with what the pipeline has to write; `now_us` is arrival time."""
        self._pipeline = pipeline
        self._keep = keep
        self._now_us = now_us

    def take_over(self, earlier: Snapshot, news: Callable[[Sequence[Event]], Sequence[Event]]) -> int:
        """Follow those incidents, and keep what `news` makes of the ones that changed; gives back
        how many it made."""
        incidents = self._pipeline.take_over(earlier, now_us=self._now_us())
        events = news(incidents)
        self._keep([*events, *incidents])
        return len(events)


@dataclass(frozen=True, slots=True)
class Unread:
    """A boot whose log is yet to be read to its end. Wall times in µs since the Unix epoch."""

    boot_id: str
    after_us: int | None
    """The last thing known that was before its end; None: not looked for yet."""
    before_us: int
    """When the boot behind it began."""
    tries: int
    """Processes that have begun to read it."""

    @property
    def key(self) -> str:
        """The key of its row."""
        return UNREAD + self.boot_id

    @classmethod
    def load(cls, text: str) -> Unread:
        """The value of a row. Raises KeyError, TypeError or ValueError on anything else."""
        data = json.loads(text)
        after_us = data["after_us"]
        return cls(
            str(data["boot_id"]),
            int(after_us) if after_us is not None else None,
            int(data["before_us"]),
            int(data["tries"]),
        )


class Played(NamedTuple):
    """What a log came to."""

    events: Sequence[Event]
    """The last revision of every event, in the order they were first published."""
    state: Snapshot
    """What the pipeline of the boot that followed starts from."""


class _Found(NamedTuple):
    event: Event
    known: Event | None
    """As the journal has it; None for news."""


async def read_on(
    store: Store,
    resume: ResumePoint | None,
    live: Live,
    *,
    boot_id: str,
    before_us: int,
    make_pipeline: Callable[[], Pipeline],
    places: last_boot.Places | None = None,
) -> Outcome | None:
    """Take over what the boot before said last. None when there is nothing to read on from: nothing was
    ever kept, or it was kept in this boot.

    `resume`: where the last process stopped, as the store gave it at its start. `boot_id` and `before_us`:
    this boot, and the wall time at which it began, µs since the Unix epoch. Never raises; can be cancelled.
    Must have begun before the first record of this boot is stored.
    """
    unread = [each for each in _owed(store) if each.boot_id != boot_id]
    if resume is not None and resume.boot_id not in ("", boot_id, *(each.boot_id for each in unread)):
        unread.append(Unread(resume.boot_id, after_us=None, before_us=before_us, tries=0))
    if not unread:
        return None
    unread = [replace(each, tries=each.tries + 1) for each in sorted(unread, key=_by_time)]
    _remember(store, unread)
    reading = _Reading(store, live, boot_id, make_pipeline, places)
    outcomes = []
    for boot in unread:
        outcomes.append(await reading.of(boot))
        store.put((), StateChange(dropped=[boot.key]))
    return Outcome(
        sum(each.events for each in outcomes),
        [name for each in outcomes for name in each.read_from],
        [problem for each in outcomes for problem in each.problems],
    )


def _by_time(boot: Unread) -> int:
    return boot.before_us


def _owed(store: Store) -> list[Unread]:
    """Boots that an earlier process did not read to the end."""
    found = []
    for key, text in list(store.faults.items()):
        if key.startswith(UNREAD):
            try:
                found.append(Unread.load(text))
            except (ValueError, TypeError, KeyError):
                log.error("cannot read the state %r, which is dropped", key)
                store.put((), StateChange(dropped=[key]))
    return found


def _remember(store: Store, unread: Iterable[Unread]) -> None:
    store.put((), StateChange(faults={each.key: json.dumps(asdict(each)) for each in unread}))


@dataclass(frozen=True, slots=True)
class _Reading:
    store: Store
    live: Live
    next_boot: str
    make_pipeline: Callable[[], Pipeline]
    places: last_boot.Places | None

    async def of(self, boot: Unread) -> Outcome:
        """Read one boot to its end."""
        if boot.tries > MOST_TRIES:
            log.error("the log of boot %s is not read: %d processes ended over it", boot.boot_id, MOST_TRIES)
            return Outcome(0, (), (f"{MOST_TRIES} processes ended over it",))
        from probes import last_boot  # noqa: PLC0415  # all of replay comes with it; few starts read a boot

        found = last_boot.Found()
        thread = DiskThread(
            "last-boot"
        )  # journalctl can take long, and must not keep the process from ending
        try:
            boot = await self._with_begin(boot)
            lines = last_boot.read(
                boot.boot_id,
                after_us=boot.after_us or 0,
                before_us=boot.before_us,
                found=found,
                places=self.places,
            )
            played = await thread.call(partial(play, lines, self.make_pipeline, next_boot=self.next_boot))
            known = [each for event in played.events if (each := await _look_up(self.store, event))]
            count = self.live.take_over(played.state, partial(_news, known))
        except Exception:  # the boundary: what is past must not keep the daemon from hearing what is now
            log.exception("the log of the boot before could not be read on")
            return Outcome(0, (), ("it could not be processed",))
        finally:
            thread.close()
        if count:
            log.info("took over %d events of the boot before from %s", count, ", ".join(found.read_from))
        return Outcome(count, found.read_from, found.problems)

    async def _with_begin(self, boot: Unread) -> Unread:
        """The boot with the time of the last event known before its end; a day before this boot where no
        event is. A dump of the kernel that is older is of another boot."""
        if boot.after_us is not None:
            return boot
        page = await self.store.stream.page(None, _LOOKED_AT)
        times = (item.event.last_time_us for item in page.items if item.event.boot_id != self.next_boot)
        boot = replace(boot, after_us=max(times, default=boot.before_us - DAY_US))
        _remember(self.store, [boot])
        return boot


def play(lines: Iterable[KernelLine], make_pipeline: Callable[[], Pipeline], *, next_boot: str) -> Played:
    """What these records of one boot come to. Another boot has followed: incidents are told as what that
    leaves of them."""
    made: list[Pipeline] = []

    def make() -> Pipeline:
        made[:] = [make_pipeline()]
        return made[0]

    playback = Playback(make)
    events: dict[str, Event] = {}

    def take(changed: Iterable[Event]) -> None:
        for event in changed:
            events[event.id] = event
        while len(events) > MOST_EVENTS:
            del events[next(iter(events))]

    for line in lines:
        take(playback.play(line))
    take(playback.next_boot(next_boot))
    take(playback.end())
    rows = made[0].snapshot().faults if made else {}
    unproved = {event.id for event in events.values() if event.origin == Origin.UNKNOWN}
    return Played(list(events.values()), Snapshot(mark_unproved(rows, unproved), None))


async def _look_up(store: Store, event: Event) -> _Found | None:
    """The event with what the journal has of it; None when that cannot be found out: rather nothing than
    everything twice."""
    try:
        known = await store.stream.event(event.id)
    except UserError:
        return None
    return _Found(event, known.event if known is not None else None)


def _news(found: Sequence[_Found], incidents: Sequence[Event]) -> list[Event]:
    """The events as they should go out, those left out that are known so. `incidents` are those that go
    out as followed from here on; one that was over by the end of its boot is told as it was found."""
    told = {incident.id for incident in incidents}
    settled = {event.id for event, known in found if known is not None and known.incident is not None}
    over = [event for event, known in found if known is None and _is_over(event, settled)]
    homes = _homes([*over, *incidents])
    news = [event for each in found if (event := _as_told(each, homes)) is not None]
    return [*news, *(event for event in over if event.id not in told)]


def _is_over(event: Event, settled: Collection[str]) -> bool:
    """True for an incident that had ended, and of which no event is known to be in another one."""
    if event.kind is not Kind.INCIDENT or event.detail["state"] == "open":
        return False
    return all(member["id"] not in settled for member in event.detail["members"])


def _homes(incidents: Iterable[Event]) -> dict[str, str]:
    """The incident of each event that an incident lists."""
    return {member["id"]: incident.id for incident in incidents for member in incident.detail["members"]}


def _as_told(found: _Found, homes: Mapping[str, str]) -> Event | None:
    event, known = found
    if event.kind is Kind.INCIDENT:
        return None
    home = homes.get(event.id)
    if known is None:
        return replace(event, incident=home)
    if event.kind is not known.kind:
        return None
    is_more = event.count > known.count
    if not is_more and home in (None, known.incident):
        return None
    return replace(
        known,
        revision=known.revision + 1,
        count=max(event.count, known.count),
        last_time_us=max(known.last_time_us, event.last_time_us),
        lines=event.lines if len(event.lines) > len(known.lines) else known.lines,
        lines_dropped=max(known.lines_dropped, event.lines_dropped),
        incident=home or known.incident,
    )
