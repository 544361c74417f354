"""Things by the first line of a log text and by time, for some seconds."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

REMEMBERED_US = 25_000_000
"""Less than an event without news stays open."""
REMEMBERED = 4096

_T = TypeVar("_T")


class _Place(NamedTuple):
    at_us: int
    number: int


class Shelf(Generic[_T]):
    """Keeps each thing for `REMEMBERED_US` of arrival time, and the last `REMEMBERED` of all."""

    def __init__(self) -> None:
        self._places: dict[str, list[_Place]] = {}
        self._things: dict[int, tuple[str, _Place, int, _T]] = {}  # by number, in the order of `add`
        self._numbers: dict[int, int] = {}
        self._next = 0

    def __len__(self) -> int:
        """How many things are there."""
        return len(self._things)

    def __reversed__(self) -> Iterator[_T]:
        """All things, the one that was added last first."""
        return (thing for *_, thing in reversed(self._things.values()))

    def add(self, key: str, at_us: int, arrival_us: int, thing: _T) -> None:
        """Put a thing of time `at_us` there; what is too old at `arrival_us` falls off."""
        place = _Place(at_us, self._next)
        self._next += 1
        insort(self._places.setdefault(key, []), place)
        self._things[place.number] = (key, place, arrival_us, thing)
        self._numbers[id(thing)] = place.number
        while True:
            _, _, oldest_us, oldest = next(iter(self._things.values()))
            if len(self._things) <= REMEMBERED and oldest_us >= arrival_us - REMEMBERED_US:
                return
            self.remove(oldest)

    def of(self, key: str) -> Sequence[_T]:
        """The things of this key, by their time."""
        return [self._things[place.number][-1] for place in self._places.get(key, ())]

    def near(self, key: str, at_us: int, within_us: int) -> Sequence[_T]:
        """The things of this key that are not further than that from `at_us`, by their time."""
        places = self._places.get(key, [])
        first = bisect_left(places, _Place(at_us - within_us, -1))
        found = []
        for place in places[first:]:
            if place.at_us > at_us + within_us:
                break
            found.append(self._things[place.number][-1])
        return found

    def remove(self, thing: _T) -> None:
        """Take a thing away; nothing happens where it is not there."""
        number = self._numbers.pop(id(thing), None)
        if number is None:
            return
        key, place, _, _ = self._things.pop(number)
        places = self._places[key]
        del places[bisect_left(places, place)]
        if not places:
            del self._places[key]
