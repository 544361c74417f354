"""`python -m benchmarks.scaling [--quick] [--json FILE] [--document FILE] [NAME …]`: how costs grow.

Each scale measures some costs at ever larger sizes and fits their growth. Exit code 0 when nothing grows
faster than it should, 1 when something does, 2 for a scale that does not exist. With `--quick` the sizes are
too small to judge by, and nothing is judged.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import (
    scaling_gpus,
    scaling_incidents,
    scaling_journal,
    scaling_lines,
    scaling_readers,
)
from benchmarks.figure import Plan, Unavailable
from benchmarks.machine import describe
from benchmarks.series import Growth, Point, Series

BEGIN = "<!-- The growth: written by `python -m benchmarks.scaling --document`. -->"
END = "<!-- The end of the growth. -->"


@dataclass(frozen=True, slots=True)
class Scale:
    """Costs that are measured together."""

    name: str
    """For the command line."""
    title: str
    measure: Callable[[Plan], Sequence[Series]]
    """Raises Unavailable."""


SCALES = (
    Scale("journal", "events kept, 1,000 to a million", scaling_journal.measure),
    Scale("readers", "subscribers, 1 to 5,000, and MCP sessions", scaling_readers.measure),
    Scale("gpus", "GPUs, 1 to 64", scaling_gpus.measure),
    Scale("lines", "lines a second, 1,000 to full speed, and a storm", scaling_lines.measure),
    Scale("incidents", "open incidents, their events, open faults, devices", scaling_incidents.measure),
)


def measure(scale: Scale, *, quick: bool) -> Sequence[Series]:
    """One scale in a directory of its own, which is gone afterwards. Raises Unavailable."""
    with tempfile.TemporaryDirectory(prefix="xw-", dir="/tmp") as directory:  # a socket path must be short
        return scale.measure(Plan(Path(directory), quick))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the scales asked for; the exit code."""
    names = [scale.name for scale in SCALES]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description="Measure how costs grow."
    )
    parser.add_argument("names", metavar="NAME", nargs="*", help=f"{', '.join(names)}; default all")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes: only see that all of it runs, judge nothing"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the series there")
    parser.add_argument(
        "--document", type=Path, metavar="FILE", help="also write the growth into the table of this document"
    )
    asked = parser.parse_args(arguments)
    for name in asked.names:
        if name not in names:
            parser.error(f"there is no scale {name!r}; scales: {', '.join(names)}")
    machine = describe()
    series: list[Series] = []
    skipped: dict[str, str] = {}
    for scale in SCALES:
        if asked.names and scale.name not in asked.names:
            continue
        print(f"measuring {scale.name}: {scale.title} …", file=sys.stderr, flush=True)
        try:
            found = measure(scale, quick=asked.quick)
        except Unavailable as reason:
            skipped[scale.name] = str(reason)
            print(f"not measured: {scale.name}: {reason}")
            continue
        series += found
        print("\n".join(line for each in found for line in told(each)), flush=True)
    held = all(each.held for each in series)
    if asked.json is not None:
        result = {
            "machine": machine,
            "held": held,
            "series": [each.to_dict() for each in series],
            "skipped": skipped,
        }
        asked.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if asked.document is not None:
        write(asked.document, series)
    return 0 if held else 1


def write(document: Path, series: Sequence[Series]) -> None:
    """Replace what stands between the two comments of a document by the growth of these series. Raises
    ValueError for a document without them."""
    before, begin, rest = document.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{document} lacks the line {BEGIN if not begin else END}")
    document.write_text(f"{before}{begin}\n\n{table(series)}\n{end}{after}", encoding="utf-8")


def table(series: Sequence[Series]) -> str:
    """The growth of each line as Markdown."""
    lines = ["| cost | by | from | to | growth | at the end | expected | held |", "| --- " * 8 + "|"]
    for each in series:
        for name, points in each.lines.items():
            growth = each.growth.get(name)
            if growth is not None and growth.exponent is not None:
                sizes = (_number(points[0].x), _number(points[-1].x))
                lines.append(f"| {' | '.join((f'{each.title}: {name}', each.x, *sizes, *_cells(growth)))} |")
    return "\n".join(lines) + "\n"


def _cells(growth: Growth) -> Sequence[str]:
    exponents = [f"n^{each:.2f}" if each is not None else "" for each in (growth.exponent, growth.tail)]
    held = {True: "yes", False: "**no**", None: ""}[growth.held]
    return (*exponents, growth.expected or "a baseline", held)


def told(series: Series) -> Iterator[str]:
    """A series in lines for people: each growth with the values behind it."""
    yield f"\n{series.title} ({series.y}, by {series.x})"
    for name, points in series.lines.items():
        growth = series.growth.get(name)
        yield f"  {name}: {growth.words if growth is not None else 'no growth is fitted'}"
        yield "    " + ", ".join(f"{_number(point.x)}: {_values(point)}" for point in _some(points))
    for name, reason in series.missing.items():
        yield f"  {name}: not measured: {reason}"
    yield f"  {series.explanation}"


_MOST_TOLD = 12
"""Points in one line of text; a course in time has more."""


def _some(points: Sequence[Point]) -> Sequence[Point]:
    step = -(-len(points) // _MOST_TOLD)
    return points[::step]


def _values(point: Point) -> str:
    return _number(point.p50) + (f" (p99 {_number(point.p99)})" if point.p99 is not None else "")


def _number(value: float) -> str:
    digits = 0 if abs(value) >= 100 or value == int(value) else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


if __name__ == "__main__":
    sys.exit(main())
