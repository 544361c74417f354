"""eBPF beside /dev/kmsg, and in its place: how soon a client has a line, and what a flood leaves.

The lines are those of `latency` and `flood`, written into the real log as drills. Each way of hearing is
measured by itself, one after the other, with the same client and the same bare loop beside it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks import flood, kernel_log, latency, process
from benchmarks.clients import status
from benchmarks.figure import Absent, Figure, Plan, Unavailable, median, percentile, spread
from benchmarks.outcome import Part
from probes.bpf import availability
from probes.health import Verdict
from tests.support.cpu_limit import NoCpuLimit, cpu_limit
from tests.support.daemon import Daemon

WAYS: Mapping[str, Sequence[str]] = {
    "kmsg alone": ("--ebpf", "off"),
    "eBPF beside kmsg": ("--ebpf", "required"),
    "eBPF and syslog(2)": ("--probes", "bpf,klog"),
}
"""How the log is heard, and the flags that make it so. The last is what a pod without /dev/kmsg has."""
SHARE = 0.05
SETTLE_S = 30.0
QUIET_S = 1.0
"""Without a new Xid for so long, none is on its way any more."""
REVISED_S = 1.5
"""Between two looks at what gap events tell: longer than the second between two revisions of one."""


@dataclass(frozen=True, slots=True)
class _Flood:
    """What came of the floods of one way of hearing."""

    written: int
    """Xids."""
    heard: int
    lost_to_kmsg: int
    recovered: int
    untold: int
    """Lost lines that no gap event tells."""
    cpu_s: float
    rss_mb: float


def measure(plan: Plan) -> Sequence[Part]:
    """Delays. Raises Unavailable where eBPF or the log cannot be had."""
    _require()
    return list(_latencies(plan))


def measure_floods(plan: Plan) -> Sequence[Part]:
    """Losses. Raises Unavailable where eBPF or the log cannot be had."""
    _require()
    return [*_floods(plan), *_limited(plan), *_every_line(plan)]


def _require() -> None:
    kernel_log.require_kmsg()
    found = availability.check()
    if found.verdict is not Verdict.OK:
        raise Unavailable(found.finding)


@contextmanager
def _daemon(plan: Plan, name: str, flags: Sequence[str]) -> Iterator[Daemon]:
    directory = plan.directory / name
    directory.mkdir()
    daemon = Daemon(directory, kmsg=kernel_log.KMSG, flags=flags).start()
    try:
        yield daemon
    finally:
        daemon.stop()


# -- how soon ----------------------------------------------------------------------------------


def _latencies(plan: Plan) -> Iterator[Part]:
    samples = plan.samples(100, 12, 200)
    kmsg_ms = 0.0
    for number, (way, flags) in enumerate(WAYS.items()):
        with _daemon(plan, f"l{number}", [*latency.FLAGS, *flags]) as daemon:
            found = latency.delays(daemon, samples)
        beside = f"ms: {spread(found.ours)}; bare loop on /dev/kmsg: {spread(found.bare)}"
        if way == "kmsg alone":
            kmsg_ms = median(found.ours)
            yield Figure(f"line → client: {way}", kmsg_ms, "ms", beside=beside)
            continue
        yield latency.chart(f"xidwatch, {way}", found.ours)
        beside += f"; {kmsg_ms / median(found.ours):.1f} times as fast as kmsg alone in this run"
        yield Figure(f"line → client: {way}", median(found.ours), "ms", must=2, reach=0.5, beside=beside)
        yield Figure(f"line → client, p99: {way}", percentile(found.ours, 0.99), "ms", must=15, reach=5)


# -- floods ------------------------------------------------------------------------------------


def _floods(plan: Plan) -> Iterator[Figure]:
    for number, (way, flags) in enumerate(WAYS.items()):
        yield from _loss(plan, f"f{number}", way, flags, share=None)


def _limited(plan: Plan) -> Iterator[Part]:
    for number, (way, flags) in enumerate(WAYS.items()):
        what = f"{way}, {SHARE:.0%} of a CPU"
        try:
            yield from _loss(plan, f"s{number}", what, flags, share=SHARE)
        except NoCpuLimit as reason:
            yield Absent(f"floods: {what}", str(reason))


def _loss(plan: Plan, name: str, way: str, flags: Sequence[str], share: float | None) -> Iterator[Figure]:
    runs, lines = plan.samples(3, 1, 5), plan.samples(200_000, 20_000)
    with kernel_log.unlimited(), _daemon(plan, name, ["--allow-drills", *flags]) as daemon:
        found = _flooded(daemon, runs, lines, share)
    yield Figure(
        f"floods: Xids lost, {way}",
        max(0, found.written - found.heard),
        "",
        must=None if way.startswith("kmsg alone") else 0,
        beside=f"of {found.written} in {runs} floods of {lines:,} lines; kmsg lost {found.lost_to_kmsg:,}, "
        f"{found.recovered} of them Xids that eBPF heard; {found.cpu_s / runs:.2f} s of CPU a flood, "
        f"{found.rss_mb:.0f} MB",
    )
    yield Figure(f"floods: Xids counted twice, {way}", max(0, found.heard - found.written), "", must=0)
    yield Figure(f"floods: lost lines that no gap event tells, {way}", found.untold, "", must=0)


def _flooded(daemon: Daemon, runs: int, lines: int, share: float | None) -> _Flood:
    before, in_the_log = process.cpu_s(daemon.pid), _heard(daemon)
    with contextlib.ExitStack() as stack:
        if share is not None:
            stack.enter_context(cpu_limit(daemon.pid, share))
        for run in range(runs):
            flood.flood(lines, flood.EVERY, kernel_log.drill_line(31, _pid(run)))
            _settle(daemon, in_the_log + (run + 1) * (lines // flood.EVERY))
    _wait_until_told(daemon)
    cpu_s = process.cpu_s(daemon.pid) - before
    probes, events = _probes(daemon), daemon.events()
    return _Flood(
        written=runs * (lines // flood.EVERY),
        heard=_heard(daemon) - in_the_log,
        lost_to_kmsg=probes.get("kmsg", {}).get("lost", 0),
        recovered=sum(
            event["detail"].get(key, 0)
            for event in events
            if event["kind"] == "gap"
            for key in ("recovered", "recovered_unproved")  # the flood's Xids are drills: nobody proves them
        ),
        untold=abs(_lost(daemon) - _told(daemon)),
        cpu_s=cpu_s,
        rss_mb=process.rss_mb(daemon.pid),
    )


def _every_line(plan: Plan) -> Iterator[Figure]:
    lines = plan.samples(200_000, 20_000)
    with kernel_log.unlimited(), _daemon(plan, "x", ["--allow-drills", "--probes", "bpf,klog"]) as daemon:
        flood.flood(lines, 1, kernel_log.drill_line(31, _pid(0)))
        _wait_until_told(daemon)
        bpf = _probes(daemon)["bpf"]
        untold = bpf["lost"] - _told(daemon, "bpf")
    yield Figure(
        "every line an Xid: matched, not delivered and not counted as dropped",
        bpf["matched"] - bpf["records"] - bpf["dropped"],
        "",
        must=0,
        beside=f"{bpf['matched']:,} matched, {bpf['records']:,} delivered, {bpf['dropped']:,} dropped",
    )
    yield Figure("every line an Xid: dropped lines that no gap event tells", untold, "", must=0)


def _pid(run: int) -> int:
    """A process id of this benchmark's own for each flood, so that its lines are an event of their own."""
    return os.getpid() * 100 + run


def _settle(daemon: Daemon, wanted: int) -> None:
    """Wait for the Xids, or until nothing has come for `QUIET_S`."""
    until = time.monotonic() + SETTLE_S
    before = -1
    while (heard := _heard(daemon)) < wanted and heard != before and time.monotonic() < until:
        before = heard
        time.sleep(QUIET_S)


def _heard(daemon: Daemon) -> int:
    """Xids of ours, those included that the way before has left in the log."""
    ours = (event for event in daemon.events() if _is_ours(event))
    return sum(event["count"] for event in ours)


def _is_ours(event: Mapping[str, Any]) -> bool:
    pid = (event["process"] or {}).get("pid")
    return pid is not None and pid // 100 == os.getpid()


def _probes(daemon: Daemon) -> dict[str, dict[str, int]]:
    return {probe["name"]: probe["counters"] for probe in status(daemon.socket)["probes"]}


def _lost(daemon: Daemon) -> int:
    return sum(counters.get("lost", 0) for counters in _probes(daemon).values())


def _told(daemon: Daemon, probe: str | None = None) -> int:
    gaps = [event for event in daemon.events() if event["kind"] == "gap"]
    wanted = [gap for gap in gaps if probe in (None, gap["witnesses"][0]["probe"])]
    return sum(gap["detail"]["lost_records"] or 0 for gap in wanted)


def _wait_until_told(daemon: Daemon) -> None:
    """A gap that grows is told once a second, and what was recovered of it as well."""
    until = time.monotonic() + SETTLE_S
    before: tuple[int, int] | None = None
    while time.monotonic() < until:
        now = (_lost(daemon), _told(daemon))
        if now == before and now[0] == now[1]:
            return
        before = now
        time.sleep(REVISED_S)
