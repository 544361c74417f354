"""Which boot a log without wall times tells of: found by lines that another log has with a wall time.

`dmesg` beside a journal, in an nvidia-bug-report or a sosreport: the age of the file says when dmesg was
asked, and its last line may be days older. A line that both have says it to the second.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from probes.replay.coverage import Boot
from probes.replay.timestamps import SECOND_US

_WINDOW_US = 2 * SECOND_US
"""Stamps in whole seconds, and the journal's own delay, put the same line so far apart."""
_MOST_TEXTS = 200
"""Different texts that are compared: enough to tell one boot from another."""
_MOST_SEEN = 64
"""Sightings of each."""


class Sighting(NamedTuple):
    """A line with a wall time, in another log."""

    boot: Boot
    kernel_us: int | None
    wall_us: int


class Match(NamedTuple):
    """What the common lines say."""

    boot: Boot
    """The boot they belong to."""
    offset_us: int
    """Wall time at kernel time 0."""


def match(lines: Iterable[tuple[str, int]], seen: Mapping[str, list[Sighting]]) -> Match | None:
    """The boot of lines given as text and kernel time; None when nothing tells. Of boots that fit equally
    well it is the latest: the driver says some things at each of its starts."""
    votes: list[tuple[int, Boot]] = []
    texts: set[str] = set()
    for text, kernel_us in lines:
        texts.add(text)
        if len(texts) > _MOST_TEXTS:
            break
        votes += [
            (sighting.wall_us - kernel_us, sighting.boot)
            for sighting in seen.get(text, [])[:_MOST_SEEN]
            if sighting.kernel_us is None or sighting.kernel_us == kernel_us
        ]
    if not votes:
        return None
    votes.sort(key=lambda vote: vote[0])
    offsets = [offset_us for offset_us, _ in votes]
    most, first, last = 0, 0, 0
    for end, offset_us in enumerate(offsets, start=1):
        begin = bisect_left(offsets, offset_us - _WINDOW_US)
        if end - begin >= most:
            most, first, last = end - begin, begin, end
    boots = {id(boot): boot for _, boot in votes[first:last]}
    winner = Counter(id(boot) for _, boot in votes[first:last]).most_common(1)[0][0]
    # A stamp in whole seconds is cut, never rounded up: the latest is the nearest.
    return Match(boots[winner], offsets[last - 1])
