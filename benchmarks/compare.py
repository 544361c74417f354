"""`python -m benchmarks compare BEFORE.json AFTER.json`: how many times the one the other is.

Only ratios are told, since both runs may have been on other machines; that is said where it is so, and so is
a run that was too short to quote, and a figure that only one of them has.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.figure import Figure
from benchmarks.result import Result, read
from benchmarks.table import number

ALIKE = 0.05
"""Ratios this close to 1 are called alike: two runs of the same code differ by as much."""
_SAME = ("cpu", "memory", "kernel", "python")


def main(arguments: Sequence[str]) -> int:
    """Print the comparison; the exit code. Raises UnreadableError."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks compare", description="Figures of two runs, as ratios."
    )
    parser.add_argument("before", type=Path, metavar="BEFORE.json")
    parser.add_argument("after", type=Path, metavar="AFTER.json")
    asked = parser.parse_args(arguments)
    print(comparison(read(asked.before), read(asked.after)))
    return 0


def comparison(before: Result, after: Result) -> str:
    """The figures that both have, in the order of the later run, and what to bear in mind."""
    old, new = _figures(before), _figures(after)
    rows = [_row(old[what], figure) for what, figure in new.items() if what in old]
    head = ("what", "before", "after", "ratio", "")
    widths = [max(len(cells[i]) for cells in (head, *rows)) for i in range(len(head))]
    lines = ["  ".join(_aligned(cells, widths)).rstrip() for cells in (head, *rows)]
    lines.insert(1, "  ".join("-" * width for width in widths[:-1]))
    return "\n".join((*lines, *_remarks(before, after)))


def _figures(result: Result) -> dict[str, Figure]:
    figures = {figure.what: figure for outcome in result.outcomes for figure in outcome.figures}
    for series in (series for outcome in result.outcomes for series in outcome.series):
        for line, points in series.lines.items():
            if points:
                what = f"{series.name}: {line}, at {points[-1].x:,.0f}"
                figures[what] = Figure(what, points[-1].p50, "")
    return figures


def _row(before: Figure, after: Figure) -> tuple[str, str, str, str, str]:
    numbers = (number(before.value, before.unit), number(after.value, after.unit))
    if before.value == 0:
        return (after.what, *numbers, "", "" if after.value == 0 else "was none")
    ratio = after.value / before.value
    verdict = "" if abs(ratio - 1) <= ALIKE else "better" if (ratio > 1) is after.at_least else "worse"
    return (after.what, *numbers, f"{ratio:.2f} x", verdict)


def _remarks(before: Result, after: Result) -> Iterator[str]:
    for name in _SAME:
        if before.machine.get(name) != after.machine.get(name):
            yield f"not the same {name}: {before.machine.get(name)}; {after.machine.get(name)}"
    for which, result in (("before", before), ("after", after)):
        yield f"{which}: {result.machine.get('code')}, load {result.machine.get('load')}"
        if result.extent == "quick":
            yield f"{which}: a quick run, with too few samples to quote"
    old, new = _figures(before), _figures(after)
    for which, names in (("before", old.keys() - new.keys()), ("after", new.keys() - old.keys())):
        if names:
            yield f"only {which}: {', '.join(sorted(names))}"


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    what, *numbers, verdict = cells
    return [
        f"{what:<{widths[0]}}",
        *(f"{cell:>{width}}" for cell, width in zip(numbers, widths[1:-1], strict=True)),
        verdict,
    ]
