"""The last step: the daemon is killed with SIGKILL again and again while faults are written and read.

The log is a FIFO, which cannot be read twice: what the daemon had read and not stored as it was killed is
gone, and must be in a gap. So each fault has to be told once or lie in a gap, by the number of its record.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from tests.soak.counts import Check, of_step
from tests.soak.faults import Faults
from tests.soak.readers import Seen
from tests.soak.written import Written
from tests.support.daemon import Daemon
from tests.support.kernel_log import FakeKernelLog
from tests.support.readers import Follower, PageReader, Reader
from tests.support.waiting import wait_for

PAUSE_S = 0.1
"""Between two faults: at most 20 new events of a device in 10 s are told one by one."""


@dataclass(frozen=True, slots=True)
class Killed:
    """What came of it."""

    kills: int
    checks: list[Check]


def kill_again_and_again(
    daemon: Daemon, log: FakeKernelLog, *, kills: int, life_s: float, seed: int, first_pid: int
) -> Killed:
    """Kill it, start it again, and see what two readers hold that come back with their cursors."""
    chance = random.Random(seed)
    faults = Faults(log, seed, first_pid=first_pid)
    followers: tuple[Reader, ...] = (Follower(daemon), PageReader(daemon))
    for reader in followers:
        reader.__enter__()
    try:
        faults.introduce()
        # Without anything stored a FIFO's first record is where the daemon begins.
        faults.one_fault()
        wait_for(lambda: any(event["stored"] for event in daemon.events()), "the first fault to be stored")
        for _ in range(kills):
            until = time.monotonic() + life_s * chance.uniform(0.1, 1.9)
            while time.monotonic() < until:
                faults.one_fault()
                time.sleep(PAUSE_S * chance.uniform(0.5, 1.5))
            daemon.kill()
            faults.one_fault()
            daemon.start()
        faults.one_fault()
        last = faults.pid - 1
        for reader in followers:
            reader.wait_until(
                lambda items: any((item["process"] or {}).get("pid") == last for item in reversed(items)),
                "the last fault",
            )
        newest = wait_for(lambda: daemon.events("limit=1"), "the newest event")[-1]["cursor"]
        for reader in followers:
            reader.wait_until(lambda items: items[-1]["cursor"] >= newest, "the newest event")
    finally:
        for reader in followers:
            reader.__exit__(None, None, None)
    checks: list[Check] = []
    for reader in followers:
        checks += told_or_in_a_gap(type(reader).__name__, reader, faults.written)
    return Killed(kills, checks)


def told_or_in_a_gap(name: str, reader: Reader, written: Written) -> Iterable[Check]:
    """Each fault once, or in a gap; cursors grow."""
    last: dict[str, Seen] = {}
    cursors = [item["cursor"] for item in reader.items]
    for item in reader.items:
        last[item["id"]] = Seen.of(item)
    mine = of_step(last, written).values()
    gaps = [stretch for seen in mine if seen.kind == "gap" for stretch in seen.ranges]
    found = dict.fromkeys(written.seqs, 0)
    for seen in mine:
        if seen.kind == "xid" and seen.pid in found:
            found[seen.pid] += seen.times
    doubled = [pid for pid, times in found.items() if times > 1]
    silent = [
        pid
        for pid, times in found.items()
        if not times and not any(first <= written.seqs[pid] <= until for first, until in gaps)
    ]
    told = sum(1 for times in found.values() if times)
    detail = f"{len(found):,} written, {told:,} told, {len(found) - told:,} in {len(gaps)} gaps"
    yield Check(
        f"{name}: each fault is told or in a gap", not silent, f"silent: {silent[:5]}" if silent else detail
    )
    yield Check(f"{name}: none is told twice", not doubled, f"twice: {doubled[:5]}" if doubled else detail)
    grows = all(one < other for one, other in pairwise(cursors))
    yield Check(
        f"{name}: cursors grow over every restart", grows and not reader.missed, f"{len(cursors):,} items"
    )
