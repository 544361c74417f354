"""The same line in two places: `dmesg` and `journalctl` of one report, a log appended to itself.

The n-th such line of one place and the n-th of another are the same one; two lines of one place are
never merged. Lines are the same when their text is and

* their kernel times are equal, where both carry it to the microsecond, or else
* their wall times are at most 2 s apart, and as much more as the format of one of them may be off; a time
  taken from the age of the file is not compared.

Lines of two boots that both carry the kernel's own boot id are never the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from itertools import islice

from probes.replay.coverage import Boot

TOLERANCE_US = 2_000_000
REMEMBERED = 20_000
"""Lines remembered, the latest ones (some 15 MB)."""
_MOST_LOOKED_AT = 64
"""Earlier lines of one text and time that are compared; only a storm has more."""


@dataclass(slots=True, eq=False)
class Place:
    """One occurrence of a line."""

    source: int
    """Number of the place that showed it last: a file, a section of it, what follows a step back in time."""
    text: str
    kernel_us: int | None
    wall_us: int
    slack_us: int | None
    """How far the wall time may be off; 0 for one taken when the line was printed or stored; None when the
    log gives none, so that it was computed and may be days off."""
    boot: Boot


class Duplicates:
    """Remembers the driver's lines, by their text with each of their times."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._index: dict[Hashable, list[Place]] = {}
        self._in_order: deque[Place] = deque()
        self._remembered = remembered

    def is_known(self, place: Place) -> bool:
        """Whether another place has shown this line already; remembers it if not."""
        for key in _where_to_look(place):
            places = self._index.get(key, ())
            for earlier in islice(places, _MOST_LOOKED_AT):
                if earlier.source != place.source and _same(earlier, place):
                    earlier.source = place.source
                    self._move_to_end(earlier, key)
                    return True
        for key in _keys(place):
            self._index.setdefault(key, []).append(place)
        self._in_order.append(place)
        if len(self._in_order) > self._remembered:
            self._forget(self._in_order.popleft())
        return False

    def of(self, text: str) -> Iterator[Place]:
        """Some of the places in which a line with this text stood."""
        return islice(self._index.get(text, ()), _MOST_LOOKED_AT)

    def _move_to_end(self, place: Place, key: Hashable) -> None:
        places = self._index[key]
        places.remove(place)
        places.append(place)

    def _forget(self, place: Place) -> None:
        for key in _keys(place):
            places = self._index[key]
            places.remove(place)
            if not places:
                del self._index[key]


def _keys(place: Place) -> Iterator[Hashable]:
    """Where a line is filed."""
    yield place.text
    if place.kernel_us is not None:
        yield (place.text, "kernel", place.kernel_us)
    yield (place.text, place.wall_us // TOLERANCE_US) if place.slack_us == 0 else (place.text, "rough")


def _where_to_look(place: Place) -> Iterator[Hashable]:
    """Where the same line of another place would be filed."""
    if place.kernel_us is not None:
        yield (place.text, "kernel", place.kernel_us)
    if place.slack_us != 0:
        yield place.text
        return
    slot = place.wall_us // TOLERANCE_US
    yield from ((place.text, near) for near in (slot, slot - 1, slot + 1))
    yield (place.text, "rough")


def _same(one: Place, other: Place) -> bool:
    if one.boot.is_named and other.boot.is_named and one.boot.id != other.boot.id:
        return False
    if one.kernel_us is not None and other.kernel_us is not None:
        return one.kernel_us == other.kernel_us
    if one.slack_us is None or other.slack_us is None:
        return True
    return abs(one.wall_us - other.wall_us) <= TOLERANCE_US + one.slack_us + other.slack_us
