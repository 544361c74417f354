"""200,000 lines into /dev/kmsg at full speed, 1 in 1,000 an Xid: what is lost, and is all of it told?

A reader of /dev/kmsg in Python cannot keep up with that; the kernel overwrites what it has not
read. The promise is that every overwritten record is counted, and that gap events say so. The
same flood goes to a bare reader in the same run, to compare what a record costs.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import kernel_log, peers, process
from benchmarks.clients import status
from benchmarks.figure import Figure, Plan, Unavailable
from tests.support.daemon import Daemon

EVERY = 1_000
SETTLE_S = 15.0


@dataclass(frozen=True, slots=True)
class _Sum:
    """The daemon's account of the log, at a moment when it had read everything."""

    newest: int
    """Newest sequence number in the log."""
    read: int
    lost: int
    malformed: int
    cpu_s: float


def measure(plan: Plan) -> Sequence[Figure]:
    """Records unaccounted for, Xids heard, and what a record costs."""
    kernel_log.require_kmsg()
    lines = plan.samples(200_000, 40_000)
    with kernel_log.unlimited():
        flags = ["--allow-drills", "--ebpf", "off"]
        daemon = Daemon(plan.directory, kmsg=kernel_log.KMSG, flags=flags).start()
        try:
            ours = _through_daemon(daemon, lines)
        finally:
            daemon.stop()
        return [*ours[0], _cost(ours[1], _through_bare_reader(lines))]


def _through_daemon(daemon: Daemon, lines: int) -> tuple[list[Figure], float]:
    """Figures, and processor time a record read."""
    pid = os.getpid()
    with kernel_log.Bystander() as log:
        before, told_before, heard_before = _settled(daemon, log), _told(daemon), _heard(daemon)
        rate = flood(lines, EVERY, kernel_log.drill_line(31, pid))
        after = _settled(daemon, log)
    lost = after.lost - before.lost
    told = _wait_until_told(daemon, told_before + lost) - told_before
    counted = after.read + after.malformed + after.lost - before.read - before.malformed - before.lost
    written = after.newest - before.newest
    read = after.read - before.read
    heard = _heard(daemon) - heard_before
    beside = f"{written:,} records at {rate:,}/s: {read:,} read, {lost:,} lost, {told:,} told in gap events"
    figures = [
        Figure("flood: records not accounted for", abs(written - counted), "", must=0, beside=beside),
        Figure("flood: lost records that no gap event tells", abs(lost - told), "", must=0),
        Figure(
            "flood: Xids heard, kmsg alone",
            100 * heard / (lines // EVERY),
            "%",
            beside=f"{heard} of {lines // EVERY}; the others are in the gaps",
        ),
    ]
    return figures, (after.cpu_s - before.cpu_s) / max(read, 1)


def _cost(ours: float, bare: dict[str, Any]) -> Figure:
    theirs = bare["cpu_s"] / bare["read"]
    return Figure(
        "flood: processor time a record, to a bare reader's",
        ours / theirs,
        "x",
        beside=f"{ours * 1e6:.1f} µs, bare {theirs * 1e6:.1f} µs; "
        f"the bare reader read {bare['read']:,} and lost {bare['lost']:,}",
    )


def _through_bare_reader(lines: int) -> dict[str, Any]:
    end = f"bench-end-{os.getpid()}-{time.monotonic_ns()}"
    with peers.peer("bare_flood_reader", str(kernel_log.KMSG), end) as reader:
        peers.first_line(reader)
        flood(lines, EVERY, kernel_log.drill_line(31, os.getpid()))
        kernel_log.write(end)
        account: dict[str, Any] = json.loads(peers.first_line(reader))
    return account


def flood(lines: int, every: int, xid: str) -> int:
    """Write so many lines at full speed, each `every`-th of them `xid`; lines a second."""
    with peers.peer("flood", str(lines), str(every), xid) as writer:
        peers.first_line(writer)
        assert writer.stdin is not None
        writer.stdin.write(b"go\n")
        writer.stdin.flush()
        return int(peers.first_line(writer))


def _settled(daemon: Daemon, log: kernel_log.Bystander) -> _Sum:
    """The account, with nothing written to the log while it was taken."""
    until = time.monotonic() + SETTLE_S
    while time.monotonic() < until:
        newest = log.newest()
        first, second = _counters(daemon), _counters(daemon)
        if first == second and log.newest() == newest:
            return _Sum(
                newest, first["records"], first["lost"], first["malformed"], process.cpu_s(daemon.pid)
            )
        time.sleep(0.1)
    raise Unavailable("other processes write into the kernel log without a pause")


def _counters(daemon: Daemon) -> dict[str, int]:
    probes = status(daemon.socket)["probes"]
    counters: dict[str, int] = next(probe["counters"] for probe in probes if probe["name"] == "kmsg")
    return counters


def _told(daemon: Daemon) -> int:
    gaps = [event for event in daemon.events() if event["kind"] == "gap"]
    return sum(event["detail"]["lost_records"] or 0 for event in gaps)


def _wait_until_told(daemon: Daemon, total: int) -> int:
    """A gap that grows is told once a second."""
    until = time.monotonic() + SETTLE_S
    while (told := _told(daemon)) != total and time.monotonic() < until:
        time.sleep(0.1)
    return told


def _heard(daemon: Daemon) -> int:
    """Xids of ours, those included that an earlier row left in the log."""
    ours = (event for event in daemon.events() if (event["process"] or {}).get("pid") == os.getpid())
    return sum(event["count"] for event in ours)
