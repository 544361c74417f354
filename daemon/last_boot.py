"""At the first start in a new boot: what the boot before said after the last record that was kept.

The whole log of that boot is played once more, as far as journald and pstore still have it, through a
pipeline of its own. Events are known by their id, which is made of boot id, kernel time and text: one
that the journal already holds is told again only when it has happened more often than was known, so that
nothing is doubled. Runs beside the live probes and holds up nobody.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from daemon.event import Event, Kind
from daemon.pipeline import Pipeline
from daemon.playback import Playback
from daemon.store import Store
from daemon.thread import DiskThread
from probes import last_boot
from probes.errors import UserError
from probes.line import KernelLine, ResumePoint

_LOOKED_AT = 1000
log = logging.getLogger(__name__)

MOST_EVENTS = 2000
"""Events taken over from the boot before; of more, the last ones."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it."""

    events: int
    """Events that were new, or had happened more often than was known."""
    read_from: Sequence[str]
    """Sources that had lines of that boot; empty when there were none."""
    problems: Sequence[str]
    """What could not be read, as clauses."""


async def read_on(
    store: Store,
    resume: ResumePoint | None,
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
    """
    if resume is None or not resume.boot_id or resume.boot_id == boot_id:
        return None
    found = last_boot.Found()
    thread = DiskThread("last-boot")  # journalctl can take long, and must not keep the process from ending
    try:
        after_us = await _last_known_us(store, resume.boot_id)
        lines = last_boot.read(
            resume.boot_id, after_us=after_us, before_us=before_us, found=found, places=places
        )
        events = await thread.call(partial(events_of, lines, make_pipeline, next_boot=boot_id))
        news = [event for each in events if (event := await _news(store, each)) is not None]
    except Exception:  # the boundary: what is past must not keep the daemon from hearing what is now
        log.exception("the log of the boot before could not be read on")
        return Outcome(0, (), ("it could not be processed",))
    finally:
        thread.close()
    if news:
        store.put(news)
        log.info("took over %d events of the boot before from %s", len(news), ", ".join(found.read_from))
    return Outcome(len(news), found.read_from, found.problems)


def events_of(
    lines: Iterable[KernelLine], make_pipeline: Callable[[], Pipeline], *, next_boot: str
) -> list[Event]:
    """The last revision of every event of these records, in the order they were first published.

    Another boot has followed: incidents are told as what that leaves of them.
    """
    playback = Playback(make_pipeline)
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
    return list(events.values())


async def _last_known_us(store: Store, boot_id: str) -> int:
    """Wall time of the last event kept of that boot; 0 when the newest ones are all of another."""
    page = await store.stream.page(None, _LOOKED_AT)
    times = (item.event.last_time_us for item in page.items if item.event.boot_id == boot_id)
    return max(times, default=0)


async def _news(store: Store, event: Event) -> Event | None:
    """The event as it should go out; None when it is already known so.

    Incidents are left out: one that only this reading found would stay open for ever, because nobody
    follows it from here on.
    """
    if event.kind is Kind.INCIDENT:
        return None
    try:
        known = await store.stream.event(event.id)
    except UserError:  # the journal cannot be read now: rather nothing than everything twice
        return None
    if known is None:
        return replace(event, incident=None)
    before = known.event
    if event.count <= before.count or event.kind is not before.kind:
        return None
    return replace(
        before,
        revision=before.revision + 1,
        count=event.count,
        last_time_us=max(before.last_time_us, event.last_time_us),
        lines=event.lines if len(event.lines) > len(before.lines) else before.lines,
        lines_dropped=max(before.lines_dropped, event.lines_dropped),
    )
