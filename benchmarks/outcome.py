"""Measuring a row, and what became of it: figures, what plots are drawn from, and what is absent."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

from benchmarks.figure import Absent, Figure, Plan, Unavailable
from benchmarks.samples import Samples, merged
from benchmarks.series import Series

Part: TypeAlias = Figure | Samples | Series | Absent
"""What a row gives back, in any number."""


@dataclass(frozen=True, slots=True)
class Row:
    """One benchmark: a name for the command line, and what measures it."""

    name: str
    title: str
    measure: Callable[[Plan], Sequence[Part]]
    """Raises Unavailable."""
    is_repeated: bool = True
    """Measured again when a limit is missed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one row."""

    row: str
    title: str
    figures: Sequence[Figure] = ()
    samples: Sequence[Samples] = ()
    """Of all runs."""
    series: Sequence[Series] = ()
    absent: Sequence[Absent] = ()
    skipped: str | None = None
    """Why it was not measured; None when it was."""
    failed: str | None = None
    """What broke it off; None when nothing did."""
    runs: int = 0
    """2 when the first run missed a limit and the row was measured again."""
    load: float = 0.0
    """One-minute load average when the row began."""
    seconds: float = 0.0
    """How long it took, of CLOCK_MONOTONIC."""

    @property
    def held(self) -> bool:
        """False when a limit is missed, a cost grows faster than it should, or the row broke off."""
        figures = all(figure.held is not False for figure in self.figures)
        return self.failed is None and figures and all(each.held for each in self.series)

    def to_dict(self) -> dict[str, Any]:
        """The outcome as a JSON object. Samples are left out: they have a file of their own."""
        return {
            "row": self.row,
            "title": self.title,
            "figures": [figure.to_dict() for figure in self.figures],
            "series": [each.to_dict() for each in self.series],
            "absent": [asdict(each) for each in self.absent],
            "skipped": self.skipped,
            "failed": self.failed,
            "runs": self.runs,
            "load": self.load,
            "seconds": self.seconds,
            "held": self.held,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Outcome:
        """The inverse of `to_dict`, without samples. Raises KeyError, TypeError or ValueError for anything
        else."""
        return cls(
            data["row"],
            data["title"],
            figures=[Figure.from_dict(each) for each in data["figures"]],
            series=[Series.from_dict(each) for each in data["series"]],
            absent=[Absent(**each) for each in data["absent"]],
            skipped=data["skipped"],
            failed=data["failed"],
            runs=data["runs"],
            load=data["load"],
            seconds=data["seconds"],
        )


def run_row(row: Row, plan: Callable[[], Plan], load: Callable[[], float]) -> Outcome:
    """Measure a row, and most of them once more when a limit is missed: other work on the machine disturbs.
    Of each figure the better one counts then; samples are those of both runs. A quick run is not judged."""
    began, began_under = time.monotonic(), load()
    first_plan = plan()
    try:
        outcome = _outcome(row, row.measure(first_plan))
        if first_plan.quick:
            outcome = replace(outcome, figures=[replace(each, must=None) for each in outcome.figures])
        elif row.is_repeated and not outcome.held:
            outcome = _better(outcome, _outcome(row, row.measure(plan())))
    except Unavailable as reason:
        outcome = Outcome(row.name, row.title, skipped=str(reason))
    except Exception as error:  # the other rows are measured all the same, and half an hour is not lost
        traceback.print_exc()
        outcome = Outcome(row.name, row.title, failed=f"{type(error).__name__}: {error}")
    return replace(outcome, load=began_under, seconds=time.monotonic() - began)


def _outcome(row: Row, parts: Sequence[Part]) -> Outcome:
    return Outcome(
        row.name,
        row.title,
        figures=[part for part in parts if isinstance(part, Figure)],
        samples=merged(part for part in parts if isinstance(part, Samples)),
        series=[part for part in parts if isinstance(part, Series)],
        absent=[part for part in parts if isinstance(part, Absent)],
        runs=1,
    )


def _better(first: Outcome, second: Outcome) -> Outcome:
    again = {figure.what: figure for figure in second.figures}
    held = {each.name: each for each in second.series if each.held}
    return replace(
        first,
        figures=[figure.better(again.get(figure.what, figure)) for figure in first.figures],
        samples=merged([*first.samples, *second.samples]),
        series=[each if each.held else held.get(each.name, each) for each in first.series],
        runs=2,
    )
