"""Outcomes as one aligned table for people."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from benchmarks.figure import Figure, Outcome

_HEAD = ("what", "measured", "must", "reach for", "held")
_WIDTH = 108


def table(outcomes: Sequence[Outcome]) -> str:
    """Each figure on one line, what it stands on below it."""
    rows = [(figure, _cells(figure)) for outcome in outcomes for figure in outcome.figures]
    widths = [
        max(len(cells[i]) for cells in (_HEAD, *(cells for _, cells in rows))) for i in range(len(_HEAD))
    ]
    lines = [_line(_HEAD, widths), "  ".join("-" * width for width in widths)]
    for figure, cells in rows:
        lines.append(_line(cells, widths))
        if figure.beside:
            lines += textwrap.wrap(figure.beside, _WIDTH, initial_indent="    ", subsequent_indent="    ")
    for outcome in outcomes:
        if outcome.skipped is not None:
            lines.append(f"not measured: {outcome.row} ({outcome.title}): {outcome.skipped}")
        if outcome.runs > 1:
            lines.append(f"{outcome.row}: missed a limit at first and was measured twice; the better counts")
    return "\n".join(lines)


def header(machine: Mapping[str, str]) -> str:
    """The machine, one fact a line."""
    return "\n".join(f"{name:8}{value}" for name, value in machine.items())


def _cells(figure: Figure) -> tuple[str, str, str, str, str]:
    sign = "≥" if figure.at_least else "≤"
    must = "" if figure.must is None else f"{sign} {_number(figure.must, figure.unit)}"
    reach = "" if figure.reach is None else _number(figure.reach, figure.unit)
    held = {True: "yes", False: "NO", None: ""}[figure.held]
    return (figure.what, _number(figure.value, figure.unit), must, reach, held)


def _number(value: float, unit: str) -> str:
    digits = 0 if abs(value) >= 100 or value == int(value) else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f} {unit}".rstrip()


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    what, *numbers, held = cells
    first, *between, last = widths
    middle = "  ".join(f"{cell:>{width}}" for cell, width in zip(numbers, between, strict=True))
    return f"{what:<{first}}  {middle}  {held:<{last}}".rstrip()
