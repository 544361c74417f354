"""200,000 lines into /dev/kmsg at full speed, 1 in 1,000 an Xid: what is lost, and is all of it told?

A reader of /dev/kmsg in Python cannot keep up with that; the kernel overwrites what it has not
read. The promise is that every overwritten record is counted, and that gap events say so, also when the
daemon is held to 5 % of a processor. The same flood goes to bare readers in C and in Python, to compare what
a record costs and how many Xids they have, and to what one would type in a terminal; none of these is held.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import kernel_log, listeners, peers, process
from benchmarks.clients import status
from benchmarks.figure import Absent, Figure, Plan, Unavailable
from benchmarks.outcome import Part
from tests.support.cpu_limit import NoCpuLimit, cpu_limit
from tests.support.daemon import Daemon

EVERY = 1_000
SHARE = 0.05
"""Of one processor: a limit of 50m."""
SETTLE_S = 15.0
_LIMITED_PID = 4_194_305
"""Above all real ones (PID_MAX_LIMIT), so that its Xids are an event of their own."""


@dataclass(frozen=True, slots=True)
class _Sum:
    """The daemon's account of the log, at a moment when it had read everything."""

    newest: int
    """Newest sequence number in the log."""
    read: int
    lost: int
    malformed: int
    cpu_s: float


def measure(plan: Plan) -> Sequence[Part]:
    """Records unaccounted for, Xids heard, and what a record costs."""
    kernel_log.require_kmsg()
    lines = plan.samples(200_000, 20_000)
    with kernel_log.unlimited():
        flags = ["--allow-drills", "--ebpf", "off"]
        daemon = Daemon(plan.directory, kmsg=kernel_log.KMSG, flags=flags).start()
        try:
            ours, record_s = _through_daemon(daemon, lines, os.getpid(), "kmsg alone")
            limited = _limited(daemon, lines)
        finally:
            daemon.stop()
        return [*ours, *limited, *_bare(plan, lines, record_s), *_pipelines(plan, lines)]


def _limited(daemon: Daemon, lines: int) -> Sequence[Part]:
    way = f"kmsg alone, {SHARE:.0%} of a CPU"
    try:
        with cpu_limit(daemon.pid, SHARE):
            return _through_daemon(daemon, lines, _LIMITED_PID, way)[0]
    except NoCpuLimit as reason:
        return [Absent(f"flood: {way}", str(reason))]


def _through_daemon(daemon: Daemon, lines: int, pid: int, way: str) -> tuple[list[Figure], float]:
    """Figures, and processor time a record read. `pid` is that of the Xids."""
    with kernel_log.Bystander() as log:
        before, told_before, heard_before = _settled(daemon, log), _told(daemon), _heard(daemon, pid)
        rate = flood(lines, EVERY, kernel_log.drill_line(31, pid))
        after = _settled(daemon, log)
    lost = after.lost - before.lost
    told = _wait_until_told(daemon, told_before + lost) - told_before
    counted = after.read + after.malformed + after.lost - before.read - before.malformed - before.lost
    written = after.newest - before.newest
    read = after.read - before.read
    heard = _heard(daemon, pid) - heard_before
    beside = f"{written:,} records at {rate:,}/s: {read:,} read, {lost:,} lost, {told:,} told in gap events"
    figures = [
        Figure(f"flood: records not accounted for, {way}", abs(written - counted), "", must=0, beside=beside),
        Figure(f"flood: lost records that no gap event tells, {way}", abs(lost - told), "", must=0),
        _heard_share(way, heard, lines, "; the others are in the gaps"),
    ]
    return figures, (after.cpu_s - before.cpu_s) / max(read, 1)


def _heard_share(way: str, heard: int, lines: int, rest: str = "") -> Figure:
    written = lines // EVERY
    return Figure(
        f"flood: Xids heard, {way}",
        100 * heard / written,
        "%",
        at_least=True,
        beside=f"{heard} of {written}{rest}",
    )


def _bare(plan: Plan, lines: int, record_s: float) -> Iterator[Part]:
    """The bare readers; `record_s` is what a record costs the daemon."""
    readers: Mapping[str, Callable[[], Sequence[str]]] = {
        listeners.PYTHON.name: lambda: peers.command("bare_flood_reader"),
        listeners.C.name: lambda: (str(listeners.bare_c(plan.directory)), "flood"),
    }
    for name, command in readers.items():
        try:
            account = _through_bare_reader(command(), lines)
        except Unavailable as reason:
            yield Absent(f"flood: {name}", str(reason))
            continue
        theirs = account["cpu_s"] / account["read"]
        yield Figure(
            f"flood: processor time a record, to a {name}'s",
            record_s / theirs,
            "x",
            beside=f"{record_s * 1e6:.1f} µs, bare {theirs * 1e6:.2f} µs",
        )
        rest = f"; it read {account['read']:,} records and lost {account['lost']:,}"
        yield _heard_share(name, account["matched"], lines, rest)


def _pipelines(plan: Plan, lines: int) -> Iterator[Part]:
    for listener in (listeners.DMESG, listeners.BPFTRACE):
        try:
            heard = listeners.heard_of(listener, plan.directory, lambda line: flood(lines, EVERY, line))
        except Unavailable as reason:
            yield Absent(f"flood: Xids heard, {listener.name}", str(reason))
            continue
        yield _heard_share(listener.name, heard, lines)


def _through_bare_reader(command: Sequence[str], lines: int) -> dict[str, Any]:
    end = f"bench-end-{os.getpid()}-{time.monotonic_ns()}"
    words = (str(kernel_log.KMSG), end, f"pid={os.getpid()}, name=bench")
    with peers.running((*command, *words)) as reader:
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


def _heard(daemon: Daemon, pid: int) -> int:
    """Xids of this process, those included that an earlier row left in the log."""
    ours = (event for event in daemon.events() if (event["process"] or {}).get("pid") == pid)
    return sum(event["count"] for event in ours)
