"""Whether a series is flat: the slope of Theil and Sen, which a few outliers do not move.

The slope is the median of the slopes between all pairs of points. Of a long series the medians of windows
are taken, so that the number of pairs stays small and a spike within a window counts for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import Final

Series = Sequence[tuple[float, float]]
"""Seconds and values, in the order of time."""

WINDOWS: Final = 60
SETTLING: Final = 1 / 3
"""Share of the load at its beginning that is not judged: what fills once is still filling."""


@dataclass(frozen=True, slots=True)
class Flatness:
    """What a series did, and what it may do."""

    name: str
    first: float
    """Median of the middle third of the load."""
    last: float
    """Median of its last third."""
    growth: float
    """Slope times the time that is judged: how much it grew in that time."""
    highest: float
    """Highest value of all."""
    bound: float
    """How much it may grow."""

    @property
    def is_flat(self) -> bool:
        """Whether slope and thirds both say so: the first finds what creeps, the second what stepped."""
        return self.growth <= self.bound and self.last - self.first <= self.bound


def slope(series: Series) -> float:
    """Theil and Sen's, in units a second; 0 for fewer than two points in time."""
    slopes = [(y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in combinations(series, 2) if x2 > x1]
    return median(slopes) if slopes else 0.0


def windows(series: Series, count: int = WINDOWS) -> list[tuple[float, float]]:
    """The series as medians of at most so many stretches of equally many points."""
    size = max(1, -(-len(series) // count))
    parts = [series[start : start + size] for start in range(0, len(series), size)]
    return [(median(x for x, _ in part), median(y for _, y in part)) for part in parts]


def judge(name: str, series: Series, bound: float) -> Flatness:
    """A series of the time under load against its bound, in the units of its values. Raises ValueError for
    one that is too short to say anything."""
    judged = series[int(len(series) * SETTLING) :]
    if len(judged) < 6:
        raise ValueError(f"{name}: {len(series)} samples are too few to judge")
    half = len(judged) // 2
    points = windows(judged)
    return Flatness(
        name=name,
        first=median(value for _, value in judged[:half]),
        last=median(value for _, value in judged[half:]),
        growth=slope(points) * (points[-1][0] - points[0][0]),
        highest=max(value for _, value in series),
        bound=bound,
    )
