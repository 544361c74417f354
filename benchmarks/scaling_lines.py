"""What it costs to hear much: lines a second against lines handled and lost, and memory in a storm.

Lines are written at a steady rate, in slices of a few ms, into a FIFO that stands in for the kernel log and
into the real /dev/kmsg. The FIFO makes its writer wait, so there the written rate is what the daemon takes;
/dev/kmsg overwrites what was not read in time, and the daemon counts it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import kernel_log, process
from benchmarks.clients import status
from benchmarks.figure import Plan, Unavailable
from benchmarks.process import cpu_s
from benchmarks.scaling_filling import GPUS, announce
from benchmarks.series import Lines, Order, Point, Series
from tests.support.daemon import Daemon
from tests.support.kernel_log import FakeKernelLog
from tests.support.waiting import wait_for

RATES = (1_000, 3_000, 10_000, 30_000, 100_000, 1_000_000)
"""Lines a second that are tried; the last is more than can be written, so it is full speed."""
QUICK_RATES = (1_000, 4_000)
SECONDS = 4.0
SLICE_S = 0.005
"""The writer sleeps for so long, and then writes what is due: short beside what is measured, seconds."""
STORM_LINES = 100_000
WARM_UP_LINES = 5_000
LOOKS = 100
FLAGS = ("--ebpf", "off", "--gpu", "off", "--probes", "kmsg")
CODES = (31, 43, 94)
PIDS = 50

NOISE = "mlx5_core 0000:41:00.1: Port module event: module 1, Cable unplugged".ljust(109, ".")
FIFO_NOISE = "FIFO, lines of another driver"
FIFO_XIDS = "FIFO, every line an Xid"
DEVICE = "/dev/kmsg, lines of another driver"
WRITTEN = "/dev/kmsg, written"
MEMORY = "daemon"

Write = Callable[[int], None]
"""Writes the nth line."""


@dataclass(frozen=True, slots=True)
class _Heard:
    """What came of writing at one rate."""

    written: int
    writing_s: float
    """Seconds until the last line was written."""
    seconds: float
    """Seconds until the daemon had handled or missed it."""
    handled: int
    lost: int
    cpu_s: float


def measure(plan: Plan) -> Sequence[Series]:
    """The series over the line rate, and a storm's course."""
    sources = dict.fromkeys((FIFO_NOISE, FIFO_XIDS, DEVICE))
    handled, lost = Lines({**sources, WRITTEN: None}), Lines(sources)
    cpu = Lines(dict.fromkeys(sources, Order.LINEAR))
    missing: dict[str, str] = {}
    for name, opened in ((FIFO_NOISE, _fifo_noise), (FIFO_XIDS, _fifo_xids), (DEVICE, _device_noise)):
        try:
            with opened(plan) as (daemon, write):
                for rate in QUICK_RATES if plan.quick else RATES:
                    heard = _at_rate(daemon, write, rate, plan.samples(4, 1) * SECONDS / 4)
                    handled.add(name, rate, heard.handled / heard.seconds)
                    if name == DEVICE:
                        handled.add(WRITTEN, rate, heard.written / heard.writing_s)
                    lost.add(name, rate, 100 * heard.lost / heard.written)
                    cpu.add(name, rate, 100 * heard.cpu_s / heard.seconds)
        except Unavailable as reason:
            missing[name] = str(reason)
    return [
        *_rate_series(handled, lost, cpu, missing, judged=not plan.quick),
        _storm(plan),
    ]


def _at_rate(daemon: Daemon, write: Write, rate: int, seconds: float) -> _Heard:
    """Write at this rate for so long, and wait until the daemon has handled or missed all of it."""
    before, cpu = _counters(daemon), cpu_s(daemon.pid)
    began = time.monotonic()
    written = 0
    while (passed := time.monotonic() - began) < seconds:
        due = min(int(passed * rate), written + max(int(rate * SLICE_S), 1))
        while written < due:
            write(written)
            written += 1
        if due >= int((time.monotonic() - began) * rate):
            time.sleep(SLICE_S)

    writing_s = time.monotonic() - began

    def heard() -> int:
        now = _counters(daemon)
        return sum(now[name] - before[name] for name in ("records", "lost", "malformed"))

    wait_for(lambda: heard() >= written, "the daemon to have heard or missed every line", pause_s=0.02)
    took = time.monotonic() - began
    used, now = cpu_s(daemon.pid) - cpu, _counters(daemon)
    handled, lost = (now[name] - before[name] for name in ("records", "lost"))
    return _Heard(written, writing_s, took, handled, lost, used)


def _counters(daemon: Daemon) -> Mapping[str, int]:
    probes = status(daemon.socket)["probes"]
    counters: Mapping[str, int] = next(probe["counters"] for probe in probes if probe["name"] == "kmsg")
    return counters


@contextmanager
def _fifo_noise(plan: Plan) -> Iterator[tuple[Daemon, Write]]:
    with _fifo(plan.directory / "noise") as (daemon, log):
        yield daemon, lambda _: _write(log, NOISE)


@contextmanager
def _fifo_xids(plan: Plan) -> Iterator[tuple[Daemon, Write]]:
    with _fifo(plan.directory / "xids") as (daemon, log):
        yield daemon, lambda number: _write(log, _xid(number))


@contextmanager
def _fifo(directory: Path) -> Iterator[tuple[Daemon, FakeKernelLog]]:
    directory.mkdir()
    with FakeKernelLog(directory / "kmsg") as log:
        daemon = Daemon(directory, kmsg=log.path, flags=(*FLAGS, "--quiet-gap", "1m")).start()
        try:
            announce(log)
            yield daemon, log
        finally:
            daemon.stop()


@contextmanager
def _device_noise(plan: Plan) -> Iterator[tuple[Daemon, Write]]:
    kernel_log.require_kmsg()
    directory = plan.directory / "device"
    directory.mkdir()
    line = f"<7>{NOISE}\n".encode()
    with kernel_log.unlimited():
        descriptor = os.open(kernel_log.KMSG, os.O_WRONLY | os.O_CLOEXEC)
        daemon = Daemon(directory, kmsg=kernel_log.KMSG, flags=FLAGS).start()
        try:
            yield daemon, lambda _: (os.write(descriptor, line), None)[1]
        finally:
            daemon.stop()
            os.close(descriptor)


def _write(log: FakeKernelLog, text: str) -> None:
    """One record of ASCII text, without the cost of escaping it."""
    log.write_raw(b"4,%d,%d,-;%s\n" % (log.next_seq, log.time_us, text.encode()))
    log.next_seq += 1
    log.time_us += 10


def _xid(number: int) -> str:
    code = CODES[number % len(CODES)]
    pid = 5_000 + number // len(CODES) % PIDS
    return f"NVRM: Xid (PCI:{GPUS[0]}): {code}, pid={pid}, name=python3, Ch {number % 16:08x}"


def _storm(plan: Plan) -> Series:
    """Resident memory from before a storm until after it, against the time since its first line."""
    lines = plan.samples(STORM_LINES, 2_000)
    course: list[Point] = []
    with _fifo(plan.directory / "storm") as (daemon, log):
        for number in range(plan.samples(WARM_UP_LINES, 500)):
            _write(log, _xid(number))
        began = time.monotonic()
        for number in range(1, lines + 1):
            _write(log, _xid(number))
            if number % (lines // LOOKS) == 0:
                course.append(Point(time.monotonic() - began, process.rss_mb(daemon.pid)))
    growth = Lines({MEMORY: Order.CONSTANT})
    for point in course:
        growth.add(MEMORY, point.x, point.p50)
    return Series(
        "storm-memory",
        f"Memory while {lines:,} Xids are printed",
        "time since the first line, s",
        "resident memory, MB",
        growth.points,
        growth.growth(judged=not plan.quick),
        "Faults beyond what a device may cause fold into one event that counts them; memory does not grow "
        "with lines.",
        log_x=False,
        log_y=False,
    )


def _rate_series(
    handled: Lines, lost: Lines, cpu: Lines, missing: Mapping[str, str], *, judged: bool
) -> Sequence[Series]:
    def series(name: str, title: str, y: str, lines: Lines, why: str, *, log_y: bool = True) -> Series:
        growth = lines.growth(judged=judged)
        if lines is not cpu:  # how much is heard has a limit, and no growth that could be too fast
            growth = {name: each for name, each in growth.items() if name == WRITTEN}
        x = "lines a second that are tried"
        return Series(name, title, x, y, lines.points, growth, why, log_y=log_y, missing=missing)

    return [
        series(
            "lines-handled",
            "Lines handled",
            "lines handled a second",
            handled,
            "Every line is read and looked at until one core is busy with it; from there on the rate is that "
            "core's. A line of another driver costs a fraction of an Xid.",
        ),
        series(
            "lines-lost",
            "Lines lost by the kernel log",
            "lost, % of the lines written",
            lost,
            "A FIFO makes the writer wait. /dev/kmsg overwrites its oldest records when its writer is faster "
            "than one core reads; each of these losses is counted and told.",
            log_y=False,
        ),
        series(
            "lines-cpu",
            "Processor time of the daemon",
            "processor time, % of one core",
            cpu,
            "Each line costs the same; at high rates several are read in one turn of the event loop, which "
            "makes each of them cheaper.",
        ),
    ]
