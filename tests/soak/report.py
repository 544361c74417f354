"""What a soak found: a table for people, JSON for plots."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.soak.counts import Check
from tests.soak.flatness import Flatness, Series, windows
from tests.soak.plan import Plan

BEGIN: Final = "<!-- The result: written by `make soak`. -->"
END: Final = "<!-- The end of the result. -->"
POINTS: Final = 120
"""Points of a series that are kept: the medians of as many stretches."""


@dataclass(slots=True)
class Report:
    """Grows with the steps of a soak."""

    plan: Plan
    steps: list[tuple[str, float, float]] = field(default_factory=list)
    """Name, begin and end of each step, seconds since the first sample."""
    load: dict[str, int] = field(default_factory=dict)
    """What was done how often."""
    series: Mapping[str, Series] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)
    """Series that this machine could not give, and why."""
    flat: list[Flatness] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)

    @property
    def failures(self) -> list[str]:
        """What does not hold, in words."""
        return [
            *(
                f"{each.name} grew by {each.growth:g}, from {each.first:g} to {each.last:g};"
                f" {each.bound:g} are allowed"
                for each in self.flat
                if not each.is_flat
            ),
            *(f"{check.what}: {check.detail}" for check in self.checks if not check.holds),
        ]

    def table(self) -> str:
        """As Markdown."""
        lines = ["| under load | middle third | last third | growth | allowed | highest | |"]
        lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
        lines += [
            f"| {each.name} | {each.first:,.0f} | {each.last:,.0f} | {each.growth:+,.1f} | {each.bound:,.0f} "
            f"| {each.highest:,.0f} | {_mark(each.is_flat)} |"
            for each in self.flat
        ]
        lines += ["", "| must hold | | |", "| --- | --- | --- |"]
        lines += [f"| {check.what} | {_cell(check.detail)} | {_mark(check.holds)} |" for check in self.checks]
        lines += ["", "| load | times |", "| --- | --- |"]
        lines += [f"| {name} | {times:,} |" for name, times in sorted(self.load.items())]
        return "\n".join(lines)

    def to_json(self) -> str:
        """Everything, one point of a series a line, and nothing that names a place on this machine."""
        head: dict[str, Any] = {
            "machine": {"kernel": platform.release(), "python": platform.python_version()},
            "plan": asdict(self.plan),
            "steps": [dict(zip(("name", "from_s", "to_s"), step, strict=True)) for step in self.steps],
            "unread": dict(self.unread),
            "load": self.load,
            "flat": [asdict(each) | {"is_flat": each.is_flat} for each in self.flat],
            "checks": [asdict(check) for check in self.checks],
        }
        points = [
            json.dumps({"time": round(at_s, 1), "name": name, "value": value})
            for name, series in sorted(self.series.items())
            for at_s, value in _few(series)
        ]
        text = json.dumps(head, indent=1).removesuffix("\n}")
        return text + ',\n "series": [\n  ' + ",\n  ".join(points) + "\n ]\n}\n"

    def write(self, path: Path) -> None:
        """To a file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.to_json(), encoding="utf-8")

    def write_into(self, document: Path) -> None:
        """The table, in the place of what stands between the two comments of a document. Raises ValueError
        when it lacks one of them."""
        text = document.read_text(encoding="utf-8")
        before, begin, rest = text.partition(BEGIN)
        _, end, after = rest.partition(END)
        if not (begin and end):
            raise ValueError(f"{document} lacks the line {BEGIN if not begin else END}")
        lasted_s = next(to_s - from_s for name, from_s, to_s in self.steps if name == "load")
        said = f"{lasted_s / 60:.0f} minutes under load, Python {platform.python_version()}."
        document.write_text(f"{before}{begin}\n\n{said}\n\n{self.table()}\n\n{end}{after}", encoding="utf-8")


def _few(series: Series) -> Sequence[tuple[float, float]]:
    """A series that never moves is two points; another one its medians."""
    if len({value for _, value in series}) == 1:
        return [series[0], series[-1]]
    return windows(series, POINTS)


def _mark(holds: bool) -> str:
    return "held" if holds else "**broken**"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
