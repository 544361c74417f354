"""How a cost grows: what was measured at each size, and the growth that follows from it.

A growth is judged by the exponent of x in a log-log fit of the medians: about 0 for O(1) and O(log n), 1 for
O(n). A fixed cost hides growth at small sizes, so the largest sizes are fitted a second time by themselves,
and the steeper of the two counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from benchmarks.figure import percentile

TOLERANCE = 0.3
"""How far an exponent may lie beyond the expected one: log n itself adds 0.1 to 0.2 from 1,000 to a million,
caches that overflow and other work on the machine the rest."""
TAIL = 3
"""Points in the second fit."""


class Order(StrEnum):
    """How a cost may grow with n."""

    CONSTANT = "O(1)"
    LOGARITHMIC = "O(log n)"
    LINEAR = "O(n)"

    @property
    def exponent(self) -> float:
        """The power of n that it comes to in a log-log fit."""
        return 1.0 if self is Order.LINEAR else 0.0


@dataclass(frozen=True, slots=True)
class Point:
    """What was measured at one size."""

    x: float
    p50: float
    """The median, or the only value."""
    p99: float | None = None
    """None where one value was measured."""

    @classmethod
    def of(cls, x: float, samples: Sequence[float]) -> Self:
        """The point of several measurements at one size. Raises ValueError for none."""
        worst = percentile(samples, 0.99) if len(samples) > 1 else None
        return cls(x, percentile(samples, 0.5), worst)


@dataclass(frozen=True, slots=True)
class Growth:
    """How one line grows."""

    expected: Order | None
    """None: a baseline, which is told and not judged."""
    exponent: float | None
    """Of all points; None with fewer than two, or where a value is 0."""
    tail: float | None
    """Of the last `TAIL` points."""
    held: bool | None
    """False: it grows faster than expected by more than `TOLERANCE`. None: not judged."""

    @property
    def words(self) -> str:
        """`x^0.03, expected O(1)`, and how it grows at the end where that differs."""
        if self.exponent is None:
            return "no growth can be fitted"
        text = f"x^{self.exponent:.2f}"
        if self.tail is not None and abs(self.tail - self.exponent) >= 0.1:
            text += f" (x^{self.tail:.2f} at the end)"
        if self.expected is not None:
            text += f", expected {self.expected}"
        return text + (": MISSED" if self.held is False else "")

    @classmethod
    def of(cls, points: Sequence[Point], expected: Order | None, *, judged: bool = True) -> Self:
        """The growth of these points; `judged` False: a run too short to judge by."""
        exponent, tail = fit(points), fit(points[-TAIL:])
        steepest = max((each for each in (exponent, tail) if each is not None), default=None)
        held = None
        if judged and expected is not None and steepest is not None:
            held = steepest <= expected.exponent + TOLERANCE
        return cls(expected, exponent, tail, held)


@dataclass(frozen=True, slots=True)
class Series:
    """Costs against one size, to be drawn as one plot: one line for each thing measured."""

    name: str
    """For the command line and file names: lower case, no blanks."""
    title: str
    x: str
    """What the axis counts, with its unit."""
    y: str
    lines: Mapping[str, Sequence[Point]]
    """Points in ascending x, by what was measured."""
    growth: Mapping[str, Growth]
    """Of the same lines; one that is missing has no growth to speak of, such as a course in time."""
    explanation: str
    """Why it grows as it does: one or two sentences."""
    log_x: bool = True
    log_y: bool = True
    missing: Mapping[str, str] = field(default_factory=dict)
    """What could not be measured here, and why."""

    @property
    def held(self) -> bool:
        """False when a line grows faster than it should."""
        return all(growth.held is not False for growth in self.growth.values())

    def to_dict(self) -> dict[str, Any]:
        """The series as a JSON object; points as [x, p50, p99]."""
        return {
            "name": self.name,
            "title": self.title,
            "x": self.x,
            "y": self.y,
            "lines": {
                name: [[point.x, point.p50, point.p99] for point in points]
                for name, points in self.lines.items()
            },
            "growth": {
                name: {
                    "expected": growth.expected,
                    "exponent": growth.exponent,
                    "tail": growth.tail,
                    "held": growth.held,
                    "words": growth.words,
                }
                for name, growth in self.growth.items()
            },
            "explanation": self.explanation,
            "log_x": self.log_x,
            "log_y": self.log_y,
            "missing": dict(self.missing),
            "held": self.held,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises KeyError or ValueError for anything else."""
        return cls(
            name=data["name"],
            title=data["title"],
            x=data["x"],
            y=data["y"],
            lines={name: [Point(*point) for point in points] for name, points in data["lines"].items()},
            growth={
                name: Growth(
                    None if growth["expected"] is None else Order(growth["expected"]),
                    growth["exponent"],
                    growth["tail"],
                    growth["held"],
                )
                for name, growth in data["growth"].items()
            },
            explanation=data["explanation"],
            log_x=data["log_x"],
            log_y=data["log_y"],
            missing=dict(data["missing"]),
        )


def fit(points: Sequence[Point]) -> float | None:
    """The power of x by which the medians grow: the slope of a least-squares line through their logarithms.

    None for fewer than two sizes, and where a value is not positive, which has no logarithm.
    """
    if any(point.x <= 0 or point.p50 <= 0 for point in points):
        return None
    logs = [(math.log(point.x), math.log(point.p50)) for point in points]
    if len({x for x, _ in logs}) < 2:
        return None
    mean_x = sum(x for x, _ in logs) / len(logs)
    mean_y = sum(y for _, y in logs) / len(logs)
    spread = sum((x - mean_x) ** 2 for x, _ in logs)
    return sum((x - mean_x) * (y - mean_y) for x, y in logs) / spread


class Lines:
    """Collects the points of a series, size by size."""

    def __init__(self, expected: Mapping[str, Order | None] | Mapping[str, Order]) -> None:
        """`expected`: the growth of each line, in the order in which they are told."""
        self._expected = dict(expected)
        self._points: dict[str, list[Point]] = {name: [] for name in expected}

    def add(self, name: str, x: float, samples: Sequence[float] | float) -> None:
        """What was measured at one size, larger than the ones before. Raises KeyError for a line that was
        not announced."""
        values = [samples] if isinstance(samples, float | int) else samples
        self._points[name].append(Point.of(x, values))

    @property
    def points(self) -> dict[str, Sequence[Point]]:
        """The lines that have points."""
        return {name: points for name, points in self._points.items() if points}

    def growth(self, *, judged: bool) -> dict[str, Growth]:
        """The growth of each line; see `Growth.of`."""
        return {
            name: Growth.of(points, self._expected[name], judged=judged)
            for name, points in self.points.items()
        }
