"""The newest items in memory, from which nearly every reader is served.

Contract:

* Each event is held once, as the item of its newest revision; items come out in cursor order.
* `trim` evicts the oldest down to `size`, but never one of the last `RESERVE` items of its reserve
  key (by default its device): a storm on one GPU cannot push out another's last events. So it leaves
  at most max(size, RESERVE x number of keys) items, and the pinned ones.
* A pinned item is not evicted until it is replaced by its stored form: the journal lacks it.
* Every kept item with a cursor above `complete_after` is here. Below it the journal has to be asked.

It belongs to one thread (the event loop) and does no locking.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from daemon.event import Event, Item
from daemon.filter import EVERYTHING, EventFilter
from daemon.page import Slice

RESERVE = 32
"""How many of its last items every reserve key keeps, in memory and in the journal."""

EXAMINE = 1024
"""Items looked at in one call at most, so that a filter that matches rarely does not hold up the loop."""

ReserveKey = Callable[[Event], str]
"""Whose reserve an event counts against. Must give few distinct answers (the real devices of a node)."""


def by_device(event: Event) -> str:
    """A reserve for each device, one more for events of the node."""
    return event.device or ""


@dataclass(slots=True)
class _Place:
    """Where an event is held."""

    cursor: int
    key: str | None
    """Reserve key; None while pinned."""


class Ring:
    """See the module's docstring."""

    def __init__(self, size: int, reserve_key: ReserveKey = by_device, *, reserve: int = RESERVE) -> None:
        self.newest = 0
        """Highest cursor ever added; 0 before the first."""
        self.complete_after = 0
        """Cursor from which on nothing is lacking; 0 when all that is kept is here."""
        self._size = size
        self._reserve = reserve
        self._reserve_key = reserve_key
        # Two parallel lists in cursor order; the slot of an item that left is None until `_compact`.
        self._cursors: list[int] = []
        self._slots: list[Item | None] = []
        self._head = 0  # every slot before it is None
        self._places: dict[str, _Place] = {}
        # Cursors of the unpinned items of each reserve key, ascending, and the keys beyond their reserve.
        self._by_key: dict[str, list[int]] = {}
        self._rich: set[str] = set()
        self._unpinned = 0

    def __len__(self) -> int:
        """Number of items held."""
        return len(self._places)

    def __iter__(self) -> Iterator[Item]:
        """The items held, oldest first."""
        return (item for item in self._slots if item is not None)

    @property
    def oldest(self) -> int:
        """Cursor of the oldest item held; 0 when there is none."""
        while self._head < len(self._slots) and self._slots[self._head] is None:
            self._head += 1
        return self._cursors[self._head] if self._head < len(self._slots) else 0

    @property
    def pinned_count(self) -> int:
        """Number of items held that the journal does not have."""
        return len(self._places) - self._unpinned

    def get(self, event_id: str) -> Item | None:
        """The item of an event; None when it is not held."""
        place = self._places.get(event_id)
        return None if place is None else self._slots[self._position(place.cursor)]

    def supersedes(self, item: Item) -> bool:
        """True when it holds a newer revision of the item's event."""
        place = self._places.get(item.event.id)
        return place is not None and place.cursor > item.cursor

    def add(self, item: Item, *, pinned: bool = False) -> None:
        """Take the newest item in place of the event's older one."""
        assert item.cursor > self.newest, "items are added in cursor order"
        self._leave(item.event.id)
        self._cursors.append(item.cursor)
        self._slots.append(item)
        self.newest = item.cursor
        self._settle(item, pinned=pinned)

    def replace(self, item: Item) -> None:
        """Put an item in the place of the pinned one with its cursor, and unpin it. Does nothing when the
        event has moved on or has left."""
        place = self._places.get(item.event.id)
        if place is not None and place.cursor == item.cursor and place.key is None:
            self._slots[self._position(item.cursor)] = item
            self._settle(item, pinned=False)

    def pin_all(self) -> None:
        """Pin everything: the journal has lost it."""
        for place in self._places.values():
            place.key = None
        self._by_key.clear()
        self._rich.clear()
        self._unpinned = 0

    def trim(self) -> list[Item]:
        """Evict what is beyond `size` and no one's reserve, oldest first; returns it."""
        evicted: list[Item] = []
        while self._unpinned > self._size and self._rich:
            cursor = min(self._by_key[key][0] for key in self._rich)
            item = self._slots[self._position(cursor)]
            assert item is not None, "a cursor counted against a reserve has its item"
            self._leave(item.event.id)
            self.complete_after = max(self.complete_after, cursor)
            evicted.append(item)
        return evicted

    def discard(self, item: Item) -> None:
        """Forget this revision of an event; a newer one stays."""
        place = self._places.get(item.event.id)
        if place is not None and place.cursor == item.cursor:
            self._leave(item.event.id)

    def forget(self, cursors: Iterable[int]) -> None:
        """Forget the items at these cursors, as far as they are held."""
        for cursor in cursors:
            position = self._position(cursor)
            if position < len(self._slots) and self._cursors[position] == cursor:
                item = self._slots[position]
                if item is not None:
                    self._leave(item.event.id)

    def after(self, since: int, limit: int, match: EventFilter = EVERYTHING) -> Slice:
        """The first items with a cursor above `since`: at most `limit`, out of at most `EXAMINE`."""
        start = bisect_right(self._cursors, since)
        found: list[Item] = []
        for position in range(start, min(start + EXAMINE, len(self._slots))):
            item = self._slots[position]
            if item is not None and match.matches(item.event):
                found.append(item)
                if len(found) == limit:
                    return Slice(found, item.cursor)
        end = start + EXAMINE
        examined = self.newest if end >= len(self._slots) else self._cursors[end - 1]
        return Slice(found, max(since, examined))

    def before(self, upto: int, limit: int, match: EventFilter = EVERYTHING, *, since: int = 0) -> Slice:
        """The last items with `since` < cursor <= `upto`, oldest first: at most `limit`, out of at most
        `EXAMINE`. Every item between `examined` (exclusive) and `upto` was looked at."""
        start, end = bisect_right(self._cursors, since), bisect_right(self._cursors, upto)
        stop = max(start, end - EXAMINE)
        found: list[Item] = []
        for position in range(end - 1, stop - 1, -1):
            item = self._slots[position]
            if item is not None and match.matches(item.event):
                found.append(item)
                if len(found) == limit:
                    return Slice(found[::-1], item.cursor - 1)
        return Slice(found[::-1], self._cursors[stop] - 1 if stop > start else since)

    def pinned(self, since: int, upto: int, match: EventFilter = EVERYTHING) -> list[Item]:
        """Pinned items with `since` < cursor <= `upto`: the journal's part of the stream that it lacks."""
        if not self.pinned_count:
            return []
        start, end = bisect_right(self._cursors, since), bisect_right(self._cursors, upto)
        return [
            item
            for item in self._slots[start:end]
            if item is not None and self._places[item.event.id].key is None and match.matches(item.event)
        ]

    def _position(self, cursor: int) -> int:
        return bisect_left(self._cursors, cursor)

    def _settle(self, item: Item, *, pinned: bool) -> None:
        """Note where the item is, and count it against its reserve unless it is pinned."""
        if pinned:
            self._places[item.event.id] = _Place(item.cursor, None)
            return
        key = self._reserve_key(item.event)
        self._places[item.event.id] = _Place(item.cursor, key)
        cursors = self._by_key.setdefault(key, [])
        insort(cursors, item.cursor)
        if len(cursors) > self._reserve:
            self._rich.add(key)
        self._unpinned += 1

    def _leave(self, event_id: str) -> None:
        place = self._places.pop(event_id, None)
        if place is None:
            return
        self._slots[self._position(place.cursor)] = None
        if place.key is not None:
            cursors = self._by_key[place.key]
            del cursors[bisect_left(cursors, place.cursor)]
            if len(cursors) <= self._reserve:
                self._rich.discard(place.key)
            if not cursors:
                del self._by_key[place.key]
            self._unpinned -= 1
        # Every dead slot costs its share of one compaction, so leaving is O(1) on average.
        if len(self._slots) > 2 * len(self._places) + 64:
            self._compact()

    def _compact(self) -> None:
        self._head = 0
        self._slots = [item for item in self._slots if item is not None]
        self._cursors = [item.cursor for item in self._slots if item is not None]
