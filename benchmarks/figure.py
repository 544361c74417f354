"""What a benchmark gives back: figures, each with the limit it must hold and what it was measured against.

A limit is about a ratio, a count or a generous time, so that it means the same on every machine;
the absolute times beside it are in `beside`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self


class Unavailable(Exception):
    """This machine or this moment does not allow the row; the message says why."""


@dataclass(frozen=True, slots=True)
class Absent:
    """A part of a row that could not be measured; the other parts were."""

    what: str
    reason: str


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number."""

    what: str
    value: float
    unit: str
    """Printed behind the number: `ms`, `x` (a ratio), `MB`, `/s`, or "" for a count."""
    must: float | None = None
    """The limit, in the same unit; None where the figure is only told."""
    reach: float | None = None
    """What we would like it to be."""
    at_least: bool = False
    """True when more is better: `must` is then the least allowed."""
    beside: str = ""
    """The baseline, percentiles and counts that the number stands on."""

    @property
    def held(self) -> bool | None:
        """Whether the limit holds; None without one."""
        if self.must is None:
            return None
        return self.value >= self.must if self.at_least else self.value <= self.must

    def better(self, other: Figure) -> Figure:
        """The better of two measurements of the same thing."""
        first_wins = self.value >= other.value if self.at_least else self.value <= other.value
        return self if first_wins else other

    def to_dict(self) -> dict[str, Any]:
        """The figure as a JSON object."""
        return {**asdict(self), "held": self.held}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises TypeError for anything else."""
        return cls(**{name: value for name, value in data.items() if name != "held"})


@dataclass(frozen=True, slots=True)
class Plan:
    """How to measure."""

    directory: Path
    """An empty directory of the row's own."""
    quick: bool = False
    """Few samples: to see that everything runs, not to quote."""
    full: bool = False
    """As many samples as a distribution takes to be drawn; half an hour for all rows."""

    def samples(self, usual: int, quick: int, full: int | None = None) -> int:
        """How many samples to take; `full` is the same as usual where None."""
        if self.quick:
            return quick
        return full if self.full and full is not None else usual


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of all do not exceed. Raises ValueError for none."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def median(values: Sequence[float]) -> float:
    """The middle one, or the lower of the two middle ones."""
    return percentile(values, 0.5)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """`p50 1.20, p99 3.40, max 5.00`."""
    shares = (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
    return ", ".join(f"{name} {percentile(values, share):.{digits}f}" for name, share in shares)
