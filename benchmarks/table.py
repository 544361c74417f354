"""Outcomes as one aligned table for people."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from benchmarks.figure import Figure
from benchmarks.outcome import Outcome
from benchmarks.series import TOLERANCE, Point, Series

_Cells: TypeAlias = tuple[str, str, str, str, str]
_HEAD = ("what", "measured", "must", "reach for", "held")
_HELD = {True: "yes", False: "NO", None: ""}
_WIDTH = 108


def table(outcomes: Sequence[Outcome]) -> str:
    """Each figure and each growth on one line, what it stands on below it."""
    rows = [row for outcome in outcomes for row in _rows(outcome)]
    widths = [
        max(len(cells[i]) for cells in (_HEAD, *(cells for cells, _ in rows))) for i in range(len(_HEAD))
    ]
    lines = [_line(_HEAD, widths), "  ".join("-" * width for width in widths)]
    for cells, beside in rows:
        lines.append(_line(cells, widths))
        if beside:
            lines += textwrap.wrap(beside, _WIDTH, initial_indent="    ", subsequent_indent="    ")
    for outcome in outcomes:
        lines += _remarks(outcome)
    return "\n".join(lines)


def _rows(outcome: Outcome) -> Iterator[tuple[_Cells, str]]:
    for figure in outcome.figures:
        yield _cells(figure), figure.beside
    for series in outcome.series:
        for line, points in series.lines.items():
            yield _growth_cells(series, line), _ends(series, points)


def _remarks(outcome: Outcome) -> Iterator[str]:
    if outcome.skipped is not None:
        yield f"not measured: {outcome.row} ({outcome.title}): {outcome.skipped}"
    if outcome.failed is not None:
        yield f"FAILED: {outcome.row} ({outcome.title}): {outcome.failed}"
    for absent in outcome.absent:
        yield f"not measured: {absent.what}: {absent.reason}"
    for series in outcome.series:
        for what, reason in series.missing.items():
            yield f"not measured: {series.name}: {what}: {reason}"
    if outcome.runs > 1:
        yield f"{outcome.row}: missed a limit at first and was measured twice; the better counts"


def header(machine: Mapping[str, str]) -> str:
    """The machine, one fact a line."""
    room = " " * 10
    return "\n".join(
        line
        for name, value in machine.items()
        for line in textwrap.wrap(value, _WIDTH, initial_indent=f"{name:10}", subsequent_indent=room)
    )


def _cells(figure: Figure) -> _Cells:
    sign = "≥" if figure.at_least else "≤"
    must = "" if figure.must is None else f"{sign} {number(figure.must, figure.unit)}"
    reach = "" if figure.reach is None else number(figure.reach, figure.unit)
    return (figure.what, number(figure.value, figure.unit), must, reach, _HELD[figure.held])


def _growth_cells(series: Series, line: str) -> _Cells:
    what, growth = f"{series.name}: {line}", series.growth.get(line)
    if growth is None or growth.exponent is None:
        return (what, "", "", "", "")
    steepest = max(growth.exponent, growth.exponent if growth.tail is None else growth.tail)
    most = ""
    if growth.expected is not None and growth.held is not None:
        most = f"≤ n^{growth.expected.exponent + TOLERANCE:.1f}"
    return (what, f"n^{steepest:.2f}", most, str(growth.expected or ""), _HELD[growth.held])


def _ends(series: Series, points: Sequence[Point]) -> str:
    """The first and the last of them."""
    first, last = (f"{number(point.p50, '')} at {number(point.x, '')}" for point in (points[0], points[-1]))
    return f"{series.y}: {first} → {last} ({series.x})"


def number(value: float, unit: str) -> str:
    """The value with its unit, in as many digits as one can believe."""
    digits = 0 if abs(value) >= 100 or value == int(value) else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f} {unit}".rstrip()


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    what, *numbers, held = cells
    first, *between, last = widths
    middle = "  ".join(f"{cell:>{width}}" for cell, width in zip(numbers, between, strict=True))
    return f"{what:<{first}}  {middle}  {held:<{last}}".rstrip()
