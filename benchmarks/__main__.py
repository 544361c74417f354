"""`python -m benchmarks …`: measure, print one table, and judge; compare, tell and draw what was measured.

* `[--quick | --full] [--json FILE] [--results DIR] [ROW …]` measures. Exit code 0 when every limit of the
  rows that could be measured holds, 1 when one is missed. A row that misses is measured a second time before
  it is judged.
* `compare A.json B.json`: how many times the one the other is, figure by figure.
* `report [FILE …]`: the figures as a part of docs/benchmarks.md.
* `plot DIR`: the plots of a run anew, from its figures and samples.

Exit code 2 for a row or file that does not exist, or is of another kind.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import compare, drawing, machine, report
from benchmarks.figure import Plan
from benchmarks.outcome import Outcome, Row, run_row
from benchmarks.result import FIGURES, SAMPLES, Result, UnreadableError
from benchmarks.rows import ROWS, SCALING
from benchmarks.table import header, table

RESULTS = Path(__file__).with_name("results")
COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {
    "compare": compare.main,
    "report": report.main,
    "plot": drawing.main,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is asked for; the exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if words and words[0] in COMMANDS:
            return COMMANDS[words[0]](words[1:])
        return _measure(words)
    except UnreadableError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _measure(arguments: Sequence[str]) -> int:
    asked = _parser().parse_args(arguments)
    known = {row.name: row for row in (*ROWS, *SCALING)}
    for name in asked.rows:
        if name not in known:
            _parser().error(f"there is no row {name!r}; rows: {', '.join(known)}")
    rows = [known[name] for name in asked.rows] or [*ROWS, *(SCALING if asked.full else ())]
    is_whole = asked.full and not asked.rows  # some rows must not take the place of all
    results = asked.results or (RESULTS / machine.name() if is_whole else None)
    if results is not None:
        results.mkdir(parents=True, exist_ok=True)
    about, began = machine.describe(), time.monotonic()
    print(header(about), flush=True)
    extent = "quick" if asked.quick else "full" if asked.full else "usual"
    result = Result(about, extent, 0, [])
    for row in rows:
        outcomes = [*result.outcomes, _run(row, quick=asked.quick, full=asked.full)]
        result = replace(result, seconds=time.monotonic() - began, outcomes=outcomes)
        if results is not None:  # after each row: a run that is broken off leaves what it had
            result.write(results / FIGURES)
            result.write_samples(results / SAMPLES)
    print("\n" + table(result.outcomes))
    if asked.json is not None:
        result.write(asked.json)
    if results is not None:
        _draw(results)
    return 0 if result.held else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure xidwatch on this machine.",
        epilog="Also: compare A.json B.json; report [FILE …]; plot DIR.",
    )
    parser.add_argument(
        "rows",
        metavar="ROW",
        nargs="*",
        help=f"what to measure: {', '.join(row.name for row in ROWS)}, which is the default; "
        f"{', '.join(row.name for row in SCALING)}",
    )
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument(
        "--quick", action="store_true", help="few samples and no limits: only see that all rows run"
    )
    extent.add_argument(
        "--full", action="store_true", help="all samples, and how costs grow; the results are kept"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument(
        "--results",
        type=Path,
        metavar="DIR",
        help="keep figures, samples and plots there; the default of a full run of all rows is "
        "benchmarks/results/MACHINE",
    )
    return parser


def _draw(directory: Path) -> None:
    try:
        plots = len(drawing.draw(directory))
    except drawing.UnavailableError as reason:
        print(f"no plots: {reason}", file=sys.stderr)
        plots = 0
    print(f"kept in {directory}: {FIGURES}, {SAMPLES} and {plots} plots")


def _run(row: Row, *, quick: bool, full: bool) -> Outcome:
    print(f"measuring {row.name}: {row.title} …", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="xw-", dir="/tmp") as parent:  # a socket path must be short
        numbers = iter(range(2))

        def plan() -> Plan:
            directory = Path(parent, str(next(numbers)))
            directory.mkdir()
            return Plan(directory, quick, full)

        return run_row(row, plan, machine.load)


if __name__ == "__main__":
    sys.exit(main())
