"""Every single measurement of one kind, kept so that its distribution can be drawn.

Rows that measure the same thing in several ways name the same chart; their lines meet there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Samples:
    """The measurements of one chart."""

    name: str
    """Of the chart, for file names: lower case, no blanks."""
    title: str
    x: str
    """What was measured, with its unit."""
    ours: Mapping[str, Sequence[float]]
    """Each way in which xidwatch does it, in the order of the measurements."""
    baselines: Mapping[str, Sequence[float]]
    """What it is measured against."""

    def to_dict(self) -> dict[str, Any]:
        """The samples as a JSON object, rounded to a thousandth of their unit."""
        return {
            "name": self.name,
            "title": self.title,
            "x": self.x,
            "ours": _rounded(self.ours),
            "baselines": _rounded(self.baselines),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises TypeError for anything else."""
        return cls(**data)


def merged(samples: Iterable[Samples]) -> list[Samples]:
    """One for each chart, with all lines; a line that comes more than once has all its measurements."""
    charts: dict[str, Samples] = {}
    for each in samples:
        known = charts.get(each.name)
        charts[each.name] = each if known is None else _joined(known, each)
    return list(charts.values())


def _joined(first: Samples, second: Samples) -> Samples:
    return Samples(
        first.name,
        first.title,
        first.x,
        _all_lines(first.ours, second.ours),
        _all_lines(first.baselines, second.baselines),
    )


def _all_lines(
    first: Mapping[str, Sequence[float]], second: Mapping[str, Sequence[float]]
) -> dict[str, Sequence[float]]:
    names = dict.fromkeys((*first, *second))
    return {name: [*first.get(name, ()), *second.get(name, ())] for name in names}


def _rounded(lines: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    return {name: [round(value, 3) for value in values] for name, values in lines.items()}
