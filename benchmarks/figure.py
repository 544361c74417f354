"""What a benchmark gives back: figures, each with the limit it must hold and what it was measured against.

A limit is about a ratio, a count or a generous time, so that it means the same on every machine;
the absolute times beside it are in `beside`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any


class Unavailable(Exception):
    """This machine or this moment does not allow the row; the message says why."""


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


@dataclass(frozen=True, slots=True)
class Plan:
    """How to measure."""

    directory: Path
    """An empty directory of the row's own."""
    quick: bool = False
    """Fewer samples: to see that everything runs, not to quote."""

    def samples(self, full: int, quick: int) -> int:
        """How many samples to take."""
        return quick if self.quick else full


@dataclass(frozen=True, slots=True)
class Row:
    """One benchmark: a name for the command line, and what measures it."""

    name: str
    title: str
    measure: Callable[[Plan], Sequence[Figure]]
    """Raises Unavailable."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one row."""

    row: str
    title: str
    figures: Sequence[Figure] = ()
    skipped: str | None = None
    """Why it was not measured; None when it was."""
    runs: int = 0
    """2 when the first run missed a limit and the row was measured again."""
    load: float = 0.0
    """One-minute load average when the row began."""

    @property
    def held(self) -> bool:
        """False when a limit is missed."""
        return all(figure.held is not False for figure in self.figures)

    def to_dict(self) -> dict[str, Any]:
        """The outcome as a JSON object."""
        return {**asdict(self), "figures": [figure.to_dict() for figure in self.figures], "held": self.held}


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


def run_row(row: Row, plan: Callable[[], Plan], load: Callable[[], float]) -> Outcome:
    """Measure a row, and once more when it misses a limit: other work on the machine disturbs. Of each
    figure the better one counts then."""
    began_under = load()
    try:
        figures = list(row.measure(plan()))
        runs = 1
        if any(figure.held is False for figure in figures):
            again = {figure.what: figure for figure in row.measure(plan())}
            figures = [figure.better(again.get(figure.what, figure)) for figure in figures]
            runs = 2
    except Unavailable as reason:
        return Outcome(row.name, row.title, skipped=str(reason), load=began_under)
    return Outcome(row.name, row.title, figures, runs=runs, load=began_under)


def no_limits(figures: Sequence[Figure]) -> list[Figure]:
    """The same figures without limits: those of a run too short to judge by."""
    return [replace(figure, must=None) for figure in figures]
