"""How fast a saved log is replayed, and how much memory it takes: a syslog, one line in 1,000 an Xid.

`python -m benchmarks.replay_rate --megabytes 2000` replays a file of that size; the default is 200 MB. The
peak is shown beside that of a tenth of the file: what grows is the events kept for the report, and those are
bounded. The file is made anew each time and removed. Memory is the peak RSS of the process that runs
`xidwatch replay`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.decode_rate import NOISE, XIDS
from benchmarks.figure import Figure, Plan
from probes.replay.reading import may_matter

MEGABYTES = 200
QUICK_MEGABYTES = 10
LINES_A_XID = 1000
LINES_A_SECOND = 20

RATE_MUST = 25_000
PEAK_MUST_MB = 150.0
"""For a log of any size: some 40 MB of program, as much again of events kept for the report, and room."""

_BATCH = 20_000
_NUMBERS = 10_000
"""So many lines of one kind differ."""
_NOISE = [text for text in NOISE if not may_matter(text.format(n=0))]
"""Lines of others: the driver's own are rare in a log of any length."""


@dataclass(frozen=True, slots=True)
class Run:
    """One replay."""

    lines: int
    seconds: float
    """CPU time, of user and system."""
    peak_mb: float
    """Peak RSS."""


def write_log(path: Path, megabytes: int) -> int:
    """Write a log of that size; how many lines it has."""
    moment, lines = datetime(2026, 1, 1, tzinfo=UTC), 0
    with path.open("w", encoding="utf-8") as file:
        while file.tell() < megabytes * 1_000_000:
            batch = []
            for number in range(lines, lines + _BATCH):
                at = moment + timedelta(seconds=number // LINES_A_SECOND)
                is_xid = number % LINES_A_XID == 0
                template = XIDS[number // LINES_A_XID % len(XIDS)] if is_xid else _NOISE[number % len(_NOISE)]
                text = template.format(n=number % _NUMBERS)
                batch.append(f"{at:%b %e %H:%M:%S} gpu-17 kernel: {text}\n")
            file.write("".join(batch))
            lines += _BATCH
    return lines


def replay(path: Path, lines: int) -> Run:
    """Replay it in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "xidwatch", "replay", str(path), "--format", "json"], stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"xidwatch replay ended with {process.returncode}")
    return Run(lines, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000)


def run(directory: Path, megabytes: int) -> tuple[Run, Run]:
    """Replays of a tenth of the size and of the whole."""
    runs = []
    for size in (max(megabytes // 10, 1), megabytes):
        path = directory / "messages"
        lines = write_log(path, size)
        runs.append(replay(path, lines))
        path.unlink()
    return runs[0], runs[1]


def figures(small: Run, large: Run, megabytes: int) -> list[Figure]:
    """What the two replays say."""
    return [
        Figure(
            "replay: lines of a saved log",
            large.lines / large.seconds,
            "/s",
            must=RATE_MUST,
            at_least=True,
            beside=f"{megabytes:,} MB of syslog, {large.lines:,} lines in {large.seconds:.1f} s of CPU time",
        ),
        Figure(
            "replay: peak memory",
            large.peak_mb,
            "MB",
            must=PEAK_MUST_MB,
            beside=f"{small.peak_mb:.0f} MB for a tenth of the file",
        ),
    ]


def measure(plan: Plan) -> Sequence[Figure]:
    """Lines a second and peak memory."""
    megabytes = plan.samples(MEGABYTES, QUICK_MEGABYTES)
    return figures(*run(plan.directory, megabytes), megabytes)


def main() -> int:
    """Measure a log of any size, and print it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.replay_rate", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--megabytes", type=int, default=MEGABYTES, metavar="MB", help="size of the log")
    megabytes = parser.parse_args().megabytes
    with tempfile.TemporaryDirectory(prefix="xw-") as directory:
        began = time.monotonic()
        for figure in figures(*run(Path(directory), megabytes), megabytes):
            print(f"{figure.what}: {figure.value:,.2f} {figure.unit} ({figure.beside})")
        print(f"took {time.monotonic() - began:.0f} s, making the logs included")
    return 0


if __name__ == "__main__":
    sys.exit(main())
