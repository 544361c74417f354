"""`python -m benchmarks [--quick] [--json FILE] [ROW …]`: measure, print one table, and judge.

Exit code 0 when every limit of the rows that could be measured holds, 1 when one is missed, 2 for
a row that does not exist. A row that misses is measured a second time before it is judged.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import (
    decode_rate,
    ebpf,
    fan_out,
    flood,
    gpus,
    idle,
    latency,
    loaders,
    process_ends,
    replay_rate,
    start_up,
    storm,
    tool_calls,
)
from benchmarks.figure import Outcome, Plan, Row, no_limits, run_row
from benchmarks.machine import describe, load
from benchmarks.table import header, table

ROWS = (
    Row("latency", "kernel line to a client on /events", latency.measure),
    Row("flood", "a flood of kernel lines", flood.measure),
    Row("ebpf", "hearing through eBPF", ebpf.measure),
    Row("storm", "a storm of Xids on one GPU", storm.measure),
    Row("idle", "the daemon with nothing to do", idle.measure),
    Row("calls", "tool calls", tool_calls.measure),
    Row("fanout", "one event to 1,000 subscribers", fan_out.measure),
    Row("gpus", "reading GPUs", gpus.measure),
    Row("decode", "lines decoded a second", decode_rate.measure),
    Row("replay", "a saved log replayed", replay_rate.measure),
    Row("start", "start-up", start_up.measure),
    Row("ends", "the end of processes", process_ends.measure),
    Row("loaders", "loading the eBPF program", loaders.measure),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the rows asked for; the exit code."""
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure xidwatch on this machine."
    )
    parser.add_argument(
        "rows", metavar="ROW", nargs="*", help=f"what to measure: {', '.join(names)}; default all"
    )
    parser.add_argument(
        "--quick", action="store_true", help="few samples and no limits: only see that all rows run"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    asked = parser.parse_args(arguments)
    for name in asked.rows:
        if name not in names:
            parser.error(f"there is no row {name!r}; rows: {', '.join(names)}")
    machine = describe()
    print(header(machine), flush=True)
    outcomes = [_run(row, quick=asked.quick) for row in ROWS if not asked.rows or row.name in asked.rows]
    print("\n" + table(outcomes))
    held = all(outcome.held for outcome in outcomes)
    if asked.json is not None:
        result = {"machine": machine, "held": held, "rows": [outcome.to_dict() for outcome in outcomes]}
        asked.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0 if held else 1


def _run(row: Row, *, quick: bool) -> Outcome:
    print(f"measuring {row.name}: {row.title} …", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="xw-", dir="/tmp") as parent:  # a socket path must be short
        numbers = iter(range(2))

        def plan() -> Plan:
            directory = Path(parent, str(next(numbers)))
            directory.mkdir()
            return Plan(directory, quick)

        if not quick:
            return run_row(row, plan, load)
        return run_row(replace(row, measure=lambda each: no_limits(row.measure(each))), plan, load)


if __name__ == "__main__":
    sys.exit(main())
