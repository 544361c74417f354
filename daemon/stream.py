"""The stream as readers see it: pages and waiting.

Contract:

* A reader is a cursor. It has no queue here: one that stops reading costs one chunk of references.
* Items come in cursor order, no revision twice, of every event the last revision. A reader behind the
  ring is served from the journal, in a thread of its own, and misses nothing.
* What was deleted before a reader came is told as `Missed`, never passed over in silence.
* Everything belongs to the event loop; nothing in it waits for a disk.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from daemon.event import Item
from daemon.filter import EVERYTHING, EventFilter
from daemon.page import (
    DEFAULT_LIMIT,
    MAX_LIMIT,
    NOTHING_KEPT,
    Marks,
    Missed,
    Page,
    Slice,
    clamp_limit,
    going_on_from,
    missed_since,
)
from daemon.reader import Reader, ahead_of_newest
from daemon.ring import Ring
from daemon.thread import ClosedError, DiskThread
from probes.errors import UserError

T = TypeVar("T")

__all__ = ["DEFAULT_LIMIT", "MAX_LIMIT", "EventStream", "Missed", "Page"]


class EventStream:
    """The reading side of the store; the methods below `close` are the store's, which fills it."""

    def __init__(
        self,
        ring: Ring,
        *,
        first_cursor: int,
        marks: Marks = NOTHING_KEPT,
        open_reader: Callable[[], Reader] | None = None,
        on_read_error: Callable[[Exception], None] | None = None,
    ) -> None:
        self.closed = False
        """True once `close` was called: nobody waits for more; pages of what is in memory still work."""
        self.deleted_through = marks.deleted_through
        """Newest cursor whose item was deleted; 0 when none ever was."""
        self._born = marks.born
        self._ring = ring
        self._first_cursor = first_cursor
        self._journal_oldest = marks.oldest
        self._open_reader = open_reader
        self._on_read_error = on_read_error
        self._thread: DiskThread | None = None
        self._devices: Callable[[], Mapping[int, str]] = dict
        self._published = asyncio.Event()

    @property
    def newest(self) -> int:
        """Newest cursor published; 0 before the first item ever."""
        return self._ring.newest

    @property
    def oldest(self) -> int:
        """Oldest cursor kept; 0 when nothing is."""
        held, stored = self._ring.oldest, self._journal_oldest
        return min(held, stored) if held and stored else held or stored

    @property
    def gone_through(self) -> int:
        """Newest cursor whose item was deleted, or lost with an earlier journal; 0 when none was."""
        return max(self.deleted_through, self._born - 1, 0)

    def number_by(self, devices: Callable[[], Mapping[int, str]]) -> None:
        """Let an NVML index in a filter mean the GPU that `devices` names at that time: index → PCI
        address."""
        self._devices = devices

    def resolved(self, match: EventFilter) -> EventFilter:
        """The filter as `page` applies it now."""
        return match.with_devices(self._devices()) if match.indices else match

    async def page(
        self, since: int | None, limit: int = DEFAULT_LIMIT, match: EventFilter = EVERYTHING
    ) -> Page:
        """The first `limit` (1 to 1000, clamped) matching items beyond `since`, oldest first; with None
        the newest `limit`. A page holds fewer than `limit` only when there are no more.

        Raises UserError when `since` was never given out, and when the journal is needed and cannot be
        read.
        """
        limit, match = clamp_limit(limit), self.resolved(match)
        if since is None:
            part = await self._last(limit, match)
        else:
            self._check(since)
            part = await self._first(since, limit, match)
        missed = missed_since(since, part.gone_through)
        examined = going_on_from(since, part.examined, self.newest, missed)
        return Page(part.items, examined, self.oldest, self.newest, missed)

    async def cursor_before(self, time_us: int) -> int:
        """A cursor to pass as `since` for what was written at `time_us` (µs since the Unix epoch) or later;
        see `Reader.cursor_before`.

        Raises UserError when the journal is needed and cannot be read.
        """
        if self._open_reader is None:
            return self._ring_cursor_before(time_us)
        unstored = self._ring.pinned(0, self.newest)
        cursor = await self._journal_or_refuse(lambda reader: reader.cursor_before(time_us))
        late = (item.cursor for item in unstored if item.event.last_time_us >= time_us)
        return min(cursor, next(late, cursor + 1) - 1)

    async def event(self, event_id: str) -> Item | None:
        """The newest revision of an event; None when it is not kept.

        Raises UserError when the journal is needed and cannot be read.
        """
        held = self._ring.get(event_id)
        if held is not None or not self._ring_floor:
            return held
        stored = await self._journal_or_refuse(lambda reader: reader.event(event_id))
        return self._ring.get(event_id) or stored

    async def wait_beyond(self, cursor: int) -> None:
        """Return when an item beyond `cursor` is there, or the stream was closed."""
        while self.newest <= cursor and not self.closed:
            await self._published.wait()

    def close(self) -> None:
        """End every `wait_beyond` now, and let no more pages be read from the journal."""
        self.closed = True
        if self._thread is not None:
            self._thread.close()
        self._wake()

    def publish(self, items: Iterable[Item], *, pinned: bool = False) -> None:
        """Take new items, in cursor order, and wake the readers. Pinned: the journal lacks them."""
        for item in items:
            self._ring.add(item, pinned=pinned)
        self._trim()
        self._wake()

    def stored(self, items: Iterable[Item]) -> None:
        """The journal has taken items that went out before: they take the place of the pinned ones."""
        if self._ring.pinned_count:
            for item in items:
                self._ring.replace(item)
            self._trim()

    def deleted(self, cursors: Sequence[int]) -> None:
        """These items are not kept any more."""
        self._ring.forget(cursors)
        self._are_gone(max(cursors, default=0))

    def journal_reaches(self, marks: Marks) -> None:
        """How far the journal's items reach now."""
        self._journal_oldest = marks.oldest
        self._are_gone(marks.deleted_through)
        self._born = max(self._born, marks.born)

    def _check(self, since: int) -> None:
        # A cursor between the newest and the first of this run may have been given out by an earlier
        # run for an item that was never stored: whoever holds it must be able to go on.
        if since < 0 or (since > self.newest and since >= self._first_cursor):
            raise ahead_of_newest(since, self.newest)

    def _wake(self) -> None:
        self._published.set()
        if not self.closed:
            self._published = asyncio.Event()

    def _trim(self) -> None:
        evicted = self._ring.trim()
        if evicted and self._open_reader is None:
            # Without a journal what leaves the ring is gone.
            self._are_gone(max(item.cursor for item in evicted))

    def _are_gone(self, through: int) -> None:
        self.deleted_through = max(self.deleted_through, through)

    async def _first(self, since: int, limit: int, match: EventFilter) -> Slice:
        """The first `limit` matching items beyond `since`, looked for up to what is now the newest."""
        end = self.newest
        items: list[Item] = []
        while True:
            part = await self._after_or_refuse(since, limit - len(items), match)
            items += part.items
            since = part.examined
            if len(items) == limit or since >= end:
                return Slice(items, since, part.gone_through)
            await asyncio.sleep(0)

    async def _last(self, limit: int, match: EventFilter) -> Slice:
        """The last `limit` matching items: first from the ring, and what is lacking from the journal."""
        newest = low = self.newest  # all above `low` was looked at
        items: list[Item] = []
        while len(items) < limit and low > self._ring_floor:
            part = self._ring.before(low, limit - len(items), match, since=self._ring_floor)
            items[:0] = part.items
            low = part.examined
            if low > self._ring_floor:
                await asyncio.sleep(0)
        lacking = limit - len(items)
        if lacking and low and self._open_reader is not None:
            pinned = self._ring.pinned(0, low, match)
            # Each pinned item may supersede a row of the journal, which is then left out.
            asked = lacking + self._ring.pinned_count
            older = await self._journal_or_refuse(lambda reader: reader.last(asked, match, upto=low))
            items[:0] = self._merged(pinned, older.items)[-lacking:]
        return Slice(items, newest, self.gone_through)

    def _ring_cursor_before(self, time_us: int) -> int:
        """`cursor_before` where nothing but the ring is kept: what left it is older than what it holds."""
        before = 1 if self.deleted_through else 0
        for item in self._ring:
            if item.event.last_time_us >= time_us:
                return before
            before = item.cursor
        return self.newest

    @property
    def _ring_floor(self) -> int:
        """Cursor above which the ring alone has everything that is kept."""
        return 0 if self._open_reader is None else self._ring.complete_after

    async def _after_or_refuse(self, since: int, limit: int, match: EventFilter) -> Slice:
        try:
            return await self._after(since, limit, match)
        except ClosedError:
            raise _shutting_down() from None

    async def _journal_or_refuse(self, look: Callable[[Reader], T]) -> T:
        try:
            return await self._journal(look)
        except ClosedError:
            raise _shutting_down() from None

    async def _after(self, since: int, limit: int, match: EventFilter) -> Slice:
        """Some of the matching items beyond `since`, at most `limit`. May raise ClosedError."""
        upto = self._ring_floor
        if since >= upto:
            part = self._ring.after(since, limit, match)
            return Slice(part.items, part.examined, self.gone_through)
        # Taken before the journal is read: what the journal lacks then is here, whatever happens meanwhile.
        pinned = self._ring.pinned(since, upto, match)
        part = await self._journal(lambda reader: reader.after(since, limit, match, upto=upto))
        items = self._merged([item for item in pinned if item.cursor <= part.examined], part.items)
        if len(items) > limit:
            items = items[:limit]
            return Slice(items, items[-1].cursor, part.gone_through)
        return Slice(items, part.examined, part.gone_through)

    def _merged(self, pinned: Sequence[Item], stored: Sequence[Item]) -> list[Item]:
        """Both in cursor order, each event once, without revisions that the ring supersedes."""
        by_cursor = {item.cursor: item for item in (*pinned, *stored)}
        return [
            by_cursor[cursor] for cursor in sorted(by_cursor) if not self._ring.supersedes(by_cursor[cursor])
        ]

    async def _journal(self, look: Callable[[Reader], T]) -> T:
        assert self._open_reader is not None
        if self.closed:
            raise ClosedError
        if self._thread is None:
            self._thread = DiskThread("journal-reader")
        try:
            return await self._thread.call(partial(_look, self._open_reader, look))
        except (sqlite3.Error, OSError) as error:
            if self._on_read_error is not None:
                self._on_read_error(error)
            raise UserError(
                f"the journal cannot be read: {error}",
                hint=f"events after cursor {self._ring.complete_after} are in memory; ask for those",
            ) from None


def _look(open_reader: Callable[[], Reader], look: Callable[[Reader], T]) -> T:
    """Runs in the thread. A connection a read: 0.2 ms, and none that outlives a journal set aside."""
    with open_reader() as reader:
        return look(reader)


def _shutting_down() -> UserError:
    return UserError("xidwatch is shutting down", hint="ask again with the same cursor when it is back")
