"""What the journal does not have yet: compacted, bounded, and written as one change.

Each event is held once, at its newest cursor, each open-fault row once, and the newest context and
resume point. `trim` is for a journal that takes nothing: beyond `limit` events the oldest are dropped as
the ring would (the last of each device stay), and the journal will say that they are gone.
Belongs to the event loop.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from daemon.event import Item
from daemon.journal import Change
from daemon.ring import ReserveKey, Ring
from probes.line import ResumePoint


class Backlog:
    """See the module's docstring."""

    def __init__(self, limit: int, reserve_key: ReserveKey) -> None:
        self._limit = limit
        self._reserve_key = reserve_key
        self._items = Ring(limit, reserve_key)
        self._faults: dict[str, str | None] = {}
        self._context: str | None = None
        self._resume: ResumePoint | None = None
        self._deleted_through = 0
        self._first_cursor = 0

    def __bool__(self) -> bool:
        """True while something waits."""
        state = self._faults or self._context is not None or self._resume
        return bool(self._items or state or self._deleted_through or self._first_cursor)

    def __len__(self) -> int:
        """Number of events that wait."""
        return len(self._items)

    def add_items(self, items: Iterable[Item]) -> None:
        """Items to store, in cursor order."""
        for item in items:
            self._items.add(item)

    def put_under(self, items: Iterable[Item]) -> None:
        """Items to store again, in cursor order, all older than those that wait."""
        older = Ring(self._limit, self._reserve_key)
        newer = tuple(self._items)
        for item in (*items, *newer):
            if item.cursor > older.newest:
                older.add(item)
        self._items = older

    def trim(self) -> list[Item]:
        """Drop the oldest items beyond the limit; returns them."""
        dropped = self._items.trim()
        if dropped:
            self.add_deleted(max(item.cursor for item in dropped))
        return dropped

    def add_state(
        self,
        faults: Mapping[str, str] | None = None,
        dropped: Collection[str] = (),
        context: str | None = None,
        resume: ResumePoint | None = None,
    ) -> None:
        """Open-fault rows to write and to delete, the context, the resume point; None: unchanged."""
        self._faults.update(faults or {})
        self._faults.update(dict.fromkeys(dropped))
        self._context = self._context if context is None else context
        self._resume = resume or self._resume

    def add_deleted(self, cursor: int) -> None:
        """Remember in the journal that items up to this cursor are gone."""
        self._deleted_through = max(self._deleted_through, cursor)

    def add_first_cursor(self, cursor: int) -> None:
        """Note in the journal where this run begins to give out cursors."""
        self._first_cursor = cursor

    def change(self) -> Change:
        """All that waits, as it is now. It waits on until `written` is told."""
        return Change(
            items=tuple(self._items),
            faults=dict(self._faults),
            context=self._context,
            resume=self._resume,
            deleted_through=self._deleted_through,
            first_cursor=self._first_cursor,
        )

    def written(self, change: Change) -> None:
        """The journal has taken this change: what became newer since still waits."""
        for item in change.items:
            self._items.discard(item)
        for key, state in change.faults.items():
            if key in self._faults and self._faults[key] == state:
                del self._faults[key]
        if self._context == change.context:
            self._context = None
        if self._resume == change.resume:
            self._resume = None
        if self._deleted_through == change.deleted_through:
            self._deleted_through = 0
        if self._first_cursor == change.first_cursor:
            self._first_cursor = 0
