"""A made-up run of benchmarks, for tests of what is done with one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.figure import Absent, Figure
from benchmarks.outcome import Outcome
from benchmarks.result import FIGURES, SAMPLES, Result
from benchmarks.samples import Samples
from benchmarks.series import Growth, Order, Point, Series

MACHINE = {
    "cpu": "Abacus, 2 of 2 cores",
    "memory": "1.0 GiB",
    "kernel": "Linux 6.18 x86_64, HZ=250",
    "python": "CPython 3.11.7",
    "code": "xidwatch 0.1.0 at a1b2c3d",
    "load": "0.10 0.10 0.10",
}


def readers() -> Series:
    """A cost by size, beside a baseline."""
    sizes = (1, 10, 100, 1_000)
    ours = [Point(size, 1 + size / 1_000, 2 + size / 500) for size in sizes]
    theirs = [Point(size, float(size)) for size in sizes]
    growth = {"xidwatch": Growth.of(ours, Order.LINEAR), "plain server": Growth.of(theirs, None)}
    lines = {"xidwatch": ours, "plain server": theirs}
    return Series(
        "readers", "One event to many", "subscribers", "delay, ms", lines, growth, "Each takes its turn."
    )


def memory() -> Series:
    """A course in time."""
    course = [Point(second, 80 + second / 100) for second in range(60)]
    return Series(
        "storm-memory",
        "Memory in a storm",
        "time, s",
        "resident memory, MB",
        {"xidwatch": course},
        {},
        "It does not grow.",
        log_x=False,
        log_y=False,
    )


def latency() -> Samples:
    """A distribution of two ways, beside two baselines."""
    return Samples(
        "latency",
        "From a line to a client",
        "delay, ms",
        {"kmsg": [3.0, 4.0, 5.5], "eBPF": [1.0, 2.0]},
        {"bare C loop": [1.5, 2.5], "bare Python loop": [2.0, 3.0]},
    )


def result(
    figures: Sequence[Figure] = (Figure("line → client", 1.4, "x", must=1.5, beside="bare loop: 2 ms"),),
) -> Result:
    """One run."""
    rows = [
        Outcome(
            "latency", "a line", figures, [latency()], absent=[Absent("bpftrace", "not installed")], runs=1
        ),
        Outcome("scaling", "sizes", series=[readers(), memory()], runs=1),
        Outcome("gpus", "reading GPUs", skipped="no compiler"),
    ]
    return Result(MACHINE, "full", 120.0, rows)


def written(directory: Path, run: Result | None = None) -> Path:
    """The same on disk; its figures."""
    run = run or result()
    directory.mkdir(parents=True, exist_ok=True)
    run.write(directory / FIGURES)
    run.write_samples(directory / SAMPLES)
    return directory / FIGURES
