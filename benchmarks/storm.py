"""A storm on one GPU, and ten faults on another in its midst.

100,000 Xids of 150 processes go through a FIFO that stands in for the kernel log: it makes the
writer wait, so nothing is lost and the storm runs as fast as the daemon reads. The first twenty
faults become events of their own, the others fold into overflow events; together their counts are
the lines written. A bare loop reads the same lines in the same run.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import peers, process
from benchmarks.clients import Subscriber
from benchmarks.figure import Figure, Plan, median
from tests.support.daemon import Daemon
from tests.support.kernel_log import FakeKernelLog
from tests.support.waiting import wait_for

STORMY, CALM = "0000:91:00", "0000:1b:00"
CODES = (31, 43, 94)
PIDS = range(5000, 5050)
OTHERS = 10
WARM_UP = 5_000
"""Lines before memory is measured: the first storm of a process fills its allocator's arenas."""


@dataclass(frozen=True, slots=True)
class _Heard:
    """What came of one storm."""

    seconds: float
    latencies_ms: Sequence[float]
    """Of the faults on the other GPU, from their write to their arrival."""
    peak_growth_mb: float


def measure(plan: Plan) -> Sequence[Figure]:
    """Delivery of the ten, memory, counts, and lines a second."""
    lines = plan.samples(100_000, 10_000)
    with FakeKernelLog(plan.directory / "kmsg") as log:
        daemon = Daemon(plan.directory, kmsg=log.path, flags=["--quiet-gap", "1m"]).start()
        try:
            for gpu in (STORMY, CALM):
                log.write(
                    f"NVRM: GPU at PCI:{gpu}: GPU-{gpu.replace(':', '')}0000-0000-0000-0000-000000000000"
                )
            _write_storm(log, WARM_UP)
            _wait_for_count(daemon, WARM_UP)
            heard = _storm(daemon, log, lines)
            _wait_for_count(daemon, WARM_UP + lines)
            counted = _counted(daemon)
        finally:
            daemon.stop()
    bare_s = _bare(plan, lines)
    return [
        Figure(
            "storm: a fault on another GPU → client",
            max(heard.latencies_ms) if len(heard.latencies_ms) == OTHERS else float("inf"),
            "ms",
            must=1000,
            beside=f"the slowest of {len(heard.latencies_ms)}; median {median(heard.latencies_ms):.1f} ms",
        ),
        Figure(
            "storm: growth of resident memory",
            heard.peak_growth_mb,
            "MB",
            must=30,
            beside="highest, while it ran",
        ),
        Figure(
            "storm: lines not counted",
            abs(WARM_UP + lines - counted),
            "",
            must=0,
            beside=f"{counted:,} counted of {WARM_UP + lines:,}",
        ),
        Figure(
            "storm: time, to a bare loop's",
            heard.seconds / bare_s,
            "x",
            beside=f"{lines / heard.seconds:,.0f} lines/s, bare {lines / bare_s:,.0f} lines/s",
        ),
    ]


def _text(index: int) -> str:
    code = CODES[index % len(CODES)]
    pid = PIDS[index // len(CODES) % len(PIDS)]
    return f"NVRM: Xid (PCI:{STORMY}): {code}, pid={pid}, name=python3, Ch {index % 16:08x}"


def _write_storm(log: FakeKernelLog, lines: int) -> None:
    for index in range(lines):
        _write(log, _text(index))


def _write(log: FakeKernelLog, text: str) -> None:
    log.write_raw(b"4,%d,%d,-;%s\n" % (log.next_seq, log.time_us, text.encode()))
    log.next_seq += 1
    log.time_us += 10


def _storm(daemon: Daemon, log: FakeKernelLog, lines: int) -> _Heard:
    """Write the storm, and note when each of the others arrives."""
    arrivals: dict[int, float] = {}
    written: dict[int, float] = {}
    subscriber = Subscriber(daemon.port, f"/events?gpu={CALM}&kind=xid")
    subscriber.wait_for_hello()
    listening = threading.Thread(target=_note_arrivals, args=(subscriber, arrivals), daemon=True)
    listening.start()
    before = peak = process.rss_mb(daemon.pid)
    began = time.monotonic()
    for index in range(lines):
        if index % (lines // OTHERS) == lines // OTHERS // 2:
            pid = 100 + len(written)
            written[pid] = time.monotonic()
            _write(log, f"NVRM: Xid (PCI:{CALM}): 43, pid={pid}, name=train, Ch 00000008")
        _write(log, _text(index))
        if index % 1_000 == 0:
            peak = max(peak, process.rss_mb(daemon.pid))
    listening.join(20)
    seconds = time.monotonic() - began
    peak = max(peak, process.rss_mb(daemon.pid))
    subscriber.close()
    latencies = [(arrivals[pid] - at) * 1000 for pid, at in written.items() if pid in arrivals]
    return _Heard(seconds, latencies, peak - before)


def _note_arrivals(subscriber: Subscriber, arrivals: dict[int, float]) -> None:
    while len(arrivals) < OTHERS:
        subscriber.receive()
        now = time.monotonic()
        for event in subscriber.frames():
            arrivals.setdefault(event["process"]["pid"], now)


def _counted(daemon: Daemon) -> int:
    stormy: list[dict[str, Any]] = daemon.events(f"since=0&limit=1000&gpu={STORMY}&kind=xid,overflow")
    return sum(event["count"] for event in stormy)


def _wait_for_count(daemon: Daemon, lines: int) -> None:
    wait_for(lambda: _counted(daemon) >= lines, f"{lines} lines to be counted", pause_s=0.2)


def _bare(plan: Plan, lines: int) -> float:
    """Seconds in which a loop that only reads and looks for a word takes the same lines."""
    path: Path = plan.directory / "bare"
    with FakeKernelLog(path) as log, peers.peer("bare_flood_reader", str(path), "bench-end", "Xid") as reader:
        peers.first_line(reader)
        began = time.monotonic()
        _write_storm(log, lines)
        _write(log, "bench-end")
        json.loads(peers.first_line(reader))
        return time.monotonic() - began
