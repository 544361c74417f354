"""A daemon under a memory limit: a storm fits into a small one, and being killed for memory is a kill -9."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.support.fault_lab import Happened, fault, rounds
from tests.support.faulty_node import Node, numbers
from tests.support.memory_limit import memory_limit
from tests.support.readers import Follower, everything_kept
from tests.support.waiting import wait_for

MIB = 1 << 20
STORM_MIB = 48
"""Beyond what the daemon has at its start. DESIGN allows a storm 30 MiB; the kernel charges the pages of the
journal and of the sockets to the same group."""


def ended_by(pid: int) -> int | None:
    """The signal that has ended this process of ours, which is not yet reaped; None while it lives."""
    state, *_, status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(status) & 0x7F if state == "Z" else None


@fault(
    "a storm of Xid lines under a memory limit of 48 MiB beyond what the idle daemon takes",
    promise=3,
    promised="it lives, and every fault is counted",
)
def test_a_storm_fits_into_a_small_memory_limit(node: Node, happened: Happened) -> None:
    repeats = rounds(short=3_000, long=100_000)
    with memory_limit(node.daemon.pid, STORM_MIB * MIB):
        node.write(1)
        for _ in range(repeats):
            node.write_again(1_000)

        def counted() -> bool:
            items = [item for item in everything_kept(node.daemon) if item["kind"] == "xid"]
            return bool(sum(item["count"] for item in items) == node.written + repeats)

        wait_for(counted, "every fault to be counted", deadline_s=120)
    happened(f"{repeats:,} lines in a row: each counted")


@fault(
    "the kernel kills the daemon because it takes too much memory",
    promise=1,
    promised="as after any kill -9: what was told as stored is there, what was read and not stored is named",
)
def test_killed_for_its_memory_it_loses_nothing_that_it_told(node: Node, happened: Happened) -> None:
    with Follower(node.daemon) as follower:
        node.write(20)
        follower.wait_until(lambda items: len(numbers(items)) >= 21, "the faults before")
        with memory_limit(node.daemon.pid, STORM_MIB * MIB) as limit:
            node.write(5)
            limit.set_to_what_is_used()
            pid = node.daemon.pid

            def after_some_more() -> int | None:
                node.write(20)
                return ended_by(pid)

            signalled = wait_for(after_some_more, "the kernel to kill it", pause_s=0.05)
            assert signalled == signal.SIGKILL
        node.daemon.kill()  # it only waits to be reaped
        told = {item["id"]: item for item in follower.items if item["stored"]}
        node.daemon.start()
        after = node.write(1)
        wait_for(lambda: after[0] in numbers(everything_kept(node.daemon)), "the next fault")
        kept = {item["id"]: item for item in everything_kept(node.daemon)}
        for event_id, item in told.items():
            assert kept[event_id]["revision"] >= item["revision"]
    found = [item for item in kept.values() if item["kind"] == "xid"]
    lost = sum(item["detail"]["lost_records"] for item in kept.values() if item["kind"] == "gap")
    assert sum(item["count"] for item in found) + lost == node.written
    happened(
        f"killed while it read: of {node.written} faults {len(found)} are kept, {lost} that it had read and"
        f" not stored are named; all {len(told)} events told as stored are there"
    )
