"""What is kept and pushed: journal, ring and stream behind one `put`.

Contract:

* `put` gives each event its cursor: strictly growing, never given out twice, also across restarts and
  a lost journal (see `first_cursor`). A reader with a cursor of a lost journal is told so.
* Commit first, then publish, in cursor order. While a commit takes longer than `LATE_S`, or the disk
  refuses, items are published at once with `stored: false`, and `health` says so. What was not stored
  is kept, compacted, and tried again; when the journal has it, the item becomes `stored: true` in
  place, at the same cursor.
* A journal that turns out broken is set aside; all that memory holds goes into the new one, and
  readers are told what is gone. A disk that is read-only from the start is read, as far as it can be.

A `Store` belongs to the event loop it was opened in, and nothing here blocks that loop but `open`.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Self

from daemon.backlog import Backlog
from daemon.commits import Commits, JournalHealth, JournalState
from daemon.event import Event, Item
from daemon.journal import Change, Journal, Saved, open_reader
from daemon.journal_file import FILE_NAME, is_broken
from daemon.page import NOTHING_KEPT, Marks
from daemon.retention import Retention
from daemon.ring import ReserveKey, Ring, by_device
from daemon.state_dir import is_read_only
from daemon.stream import EventStream
from daemon.writer import Writer
from probes.line import ResumePoint

__all__ = ["NO_CHANGE", "JournalHealth", "JournalState", "Retention", "StateChange", "Store"]

RING_SIZE = 4096
UNSTORED_ITEMS = 4096
"""Events that may wait for a journal that takes nothing (some 10 MB), unless the ring holds more."""

CURSORS_APART = 2**20
"""Cursors left out when the clock does not tell them from those of the last run: more than a run gives out
that the journal does not get to hold."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StateChange:
    """What changed beside the events, to be stored in the same transaction."""

    faults: Mapping[str, str] = field(default_factory=dict)
    """Open-fault rows to write: JSON text by key."""
    dropped: Collection[str] = ()
    """Keys of the rows to delete."""
    context: str | None = None
    """JSON text; None: unchanged."""


NO_CHANGE = StateChange()


class Store:
    """See the module's docstring. Made by `open`, or by `in_memory` where nothing is to be kept."""

    def __init__(
        self,
        saved: Saved,
        marks: Marks,
        items: Iterable[Item],
        *,
        ring_size: int = RING_SIZE,
        reserve_key: ReserveKey = by_device,
        writer: Writer | None = None,
        state_dir: Path | None = None,
        unread: bool = False,
    ) -> None:
        """`unread`: there may be a journal, of which nothing is known yet."""
        self.resume: ResumePoint | None = saved.resume
        """Where reading goes on: at first as the last run stored it (None: from the start of the log)."""
        self.faults: dict[str, str] = saved.faults
        """The open-fault rows: at first those of the last run."""
        self.context: str | None = saved.context
        self._next = first = first_cursor(marks.newest, saved.first_cursor, time.time_ns() // 1_000_000)
        if marks == NOTHING_KEPT and not unread:
            marks = replace(marks, born=first)
        self._waiting: deque[Item] = deque()  # has a cursor, is not yet published
        self._late = self._lost = 0
        self._backlog = Backlog(max(ring_size, UNSTORED_ITEMS), reserve_key)
        self._ring = _filled(Ring(ring_size, reserve_key), items, marks)
        self.stream = EventStream(
            self._ring,
            first_cursor=first,
            marks=marks,
            open_reader=partial(open_reader, state_dir) if writer and state_dir else None,
            on_read_error=self._on_read_error,
        )
        """The reading side."""
        self._commits = Commits(writer, self._backlog, self, has_items=marks.oldest > 0) if writer else None
        self._first_cursor = first

    @classmethod
    def open(
        cls,
        state_dir: Path,
        *,
        ring_size: int = RING_SIZE,
        retention: Retention | None = None,
        reserve_key: ReserveKey = by_device,
    ) -> Self:
        """Open the journal of a state directory that this process has locked, in a running event loop.

        Raises UserError for what the user can mend: a directory that cannot be used, a newer schema. A
        disk that refuses (full, I/O error) is a state: events are pushed, and opening is tried again.
        """
        failure: str | None = None
        try:
            found = _load(state_dir, ring_size, reserve_key)
        except (sqlite3.Error, OSError) as error:
            failure = f"cannot open the journal: {error}"
            found = _look(state_dir, ring_size)
        journal = found.journal
        writer = Writer(state_dir, journal, retention or Retention(), reserve_key, unread=found.unread)
        store = cls(
            found.saved,
            found.marks,
            found.items,
            ring_size=ring_size,
            reserve_key=reserve_key,
            writer=writer,
            state_dir=state_dir,
            unread=found.unread,
        )
        assert store._commits is not None
        store._backlog.add_first_cursor(store._first_cursor)
        if journal is not None and journal.note is not None:
            store._commits.notes.append(journal.note)
        if failure is not None:
            store._commits.fail(failure)
        else:
            store._commits.send()
        return store

    @classmethod
    def in_memory(cls, *, ring_size: int = RING_SIZE, reserve_key: ReserveKey = by_device) -> Self:
        """A store without a journal: what leaves the ring is gone, and readers are told."""
        nothing = _Found()
        return cls(nothing.saved, nothing.marks, (), ring_size=ring_size, reserve_key=reserve_key)

    def put(
        self, events: Sequence[Event], state: StateChange = NO_CHANGE, resume: ResumePoint | None = None
    ) -> None:
        """Keep and push changed events, in this order, with the state that belongs to them (one
        transaction). Returns at once."""
        for key in state.dropped:
            self.faults.pop(key, None)
        self.faults.update(state.faults)
        self.context = self.context if state.context is None else state.context
        self.resume = resume or self.resume
        items = [Item.of(self._take_cursor(), event, stored=True) for event in events]
        self._waiting.extend(items)
        if self._commits is None:
            self.on_late()
            return
        self._backlog.add_items(items)
        self._backlog.add_state(state.faults, state.dropped, state.context, resume)
        if self._commits.state is not JournalState.OK:
            self.on_late()
        if self._backlog:
            self._commits.send()

    def health(self) -> JournalHealth:
        """Whether what is heard is also kept."""
        commits = self._commits
        if commits is None:
            return JournalHealth(JournalState.OFF, "events are kept in memory only", late=self._late)
        return JournalHealth(
            state=commits.state,
            reason=commits.reason,
            unstored=len(self._backlog),
            late=self._late,
            lost=self._lost,
            failures=commits.failures,
            last_error=commits.last_error,
            notes=tuple(commits.notes),
        )

    async def close(self) -> None:
        """End the readers, store what waits, close the journal; a hanging disk is given up after 5 s."""
        self.stream.close()
        if self._commits is not None:
            await self._commits.close()

    # -- what became of the commits: called by `Commits` --------------------------------------

    def on_written(self, change: Change, marks: Marks) -> None:
        """Publish what is stored now."""
        self.stream.journal_reaches(marks)
        self.stream.stored(change.items)
        if not change.items:
            return
        last = change.items[-1].cursor
        published: list[Item] = []
        while self._waiting and self._waiting[0].cursor <= last:
            published.append(self._waiting.popleft())
        if published:
            self.stream.publish(published)

    def on_late(self) -> None:
        """Publish what waits without waiting for the journal."""
        if self._waiting:
            items = [Item.of(item.cursor, item.event, stored=False) for item in self._waiting]
            self._waiting.clear()
            self._late += len(items)
            self.stream.publish(items, pinned=self._commits is not None)
        dropped = self._backlog.trim() if self._commits is not None and self._commits.is_stuck else ()
        if dropped:
            self._lost += len(dropped)
            self.stream.deleted([item.cursor for item in dropped])

    def on_deleted(self, cursors: Sequence[int], marks: Marks) -> None:
        """Forget what retention deleted."""
        self.stream.deleted(cursors)
        self.stream.journal_reaches(marks)

    def on_opened(self, marks: Marks) -> None:
        """The journal could be opened only now: what it holds is served from there."""
        self._next = max(self._next, marks.newest + 1)
        self._ring.complete_after = max(self._ring.complete_after, marks.newest)
        self.stream.journal_reaches(marks)

    def on_replaced(self) -> None:
        """Give the new journal what memory holds, and remember that the rest is gone."""
        gone = self._ring.complete_after
        self._ring.pin_all()
        self._backlog.put_under(_as_stored(item) for item in self._ring)
        self._backlog.add_state(self.faults, (), self.context, self.resume)
        self._backlog.add_deleted(gone)
        self._backlog.add_first_cursor(self._first_cursor)
        self.stream.journal_reaches(Marks(0, gone, gone))

    def _on_read_error(self, error: Exception) -> None:
        _log.error("cannot read the journal: %s", error)
        if self._commits is not None:
            self._commits.look_into(error)

    def _take_cursor(self) -> int:
        cursor, self._next = self._next, self._next + 1
        return cursor


@dataclass(frozen=True, slots=True)
class _Found:
    """What a start finds on disk; by default nothing."""

    journal: Journal | None = None
    saved: Saved = field(default_factory=lambda: Saved(resume=None, faults={}, context=None))
    marks: Marks = NOTHING_KEPT
    items: Sequence[Item] = ()
    unread: bool = False
    """True when there is a journal that could not be read."""


def first_cursor(newest: int, last_run: int, now_ms: int) -> int:
    """The first cursor of a run: the Unix time in ms, so that it grows across a lost journal, but beyond
    the newest one stored.

    `last_run` is the first cursor of the run before, 0 when that is not known. That run may have given
    out more than was stored; when the clock has not moved past it, there is no telling how much.
    """
    known = max(newest, last_run)
    if last_run and now_ms <= known:
        return known + CURSORS_APART
    return max(newest + 1, now_ms)


def _load(state_dir: Path, ring_size: int, reserve_key: ReserveKey) -> _Found:
    """Open the journal and read what a start needs; a file that breaks then is set aside, too."""

    def read(journal: Journal) -> _Found:
        return _Found(journal, journal.saved(), journal.marks(), journal.newest_items(ring_size))

    journal = Journal.open(state_dir, reserve_key=reserve_key)
    try:
        return read(journal)
    except (sqlite3.Error, OSError) as error:
        journal.close()
        if not is_broken(error):
            raise
        return read(Journal.start_anew(state_dir, str(error), reserve_key=reserve_key))


def _look(state_dir: Path, ring_size: int) -> _Found:
    """What can be read of a journal that cannot be written. Raises UserError for a newer schema."""
    try:
        # A file without content is what a full disk left of one that was to be made.
        if not (state_dir / FILE_NAME).exists() or not (state_dir / FILE_NAME).stat().st_size:
            return _Found()
        if not is_read_only(state_dir):
            return _Found(unread=True)
        with open_reader(state_dir) as reader:
            return _Found(None, reader.saved(), reader.marks(), reader.last(ring_size).items)
    except (sqlite3.Error, OSError) as error:
        _log.error("cannot read the journal: %s", error)
        return _Found(unread=True)


def _as_stored(item: Item) -> Item:
    return item if item.stored else Item.of(item.cursor, item.event, stored=True)


def _filled(ring: Ring, items: Iterable[Item], marks: Marks) -> Ring:
    """The ring with the newest items of the journal."""
    for item in items:
        ring.add(item)
    if ring.oldest != marks.oldest:
        ring.complete_after = ring.oldest - 1 if ring.oldest else marks.newest
    ring.newest = max(ring.newest, marks.newest)
    return ring
