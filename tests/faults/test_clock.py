"""A wall clock that steps: back, ahead, by hours, days and decades, live and while the daemon is down.

Only the daemon's own wall clock steps (`tests.support.faulty_disk`). The kernel log has a clock of its own,
which no step touches; a suspended machine looks the same, since that clock stands still meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support.fault_lab import Happened, fault
from tests.support.faulty_node import Node, numbers
from tests.support.kernel_log import FakeKernelLog
from tests.support.readers import Follower, everything_kept
from tests.support.stream_promises import check_read_everything, check_read_in_order
from tests.support.waiting import wait_for

HOUR_S, DAY_S = 3_600.0, 86_400.0
BEFORE_NTP_S = -55 * 365.25 * DAY_S
"""To a year in the seventies, where a machine without a battery begins."""
STEPS_S = (HOUR_S, -DAY_S, 40 * DAY_S, -3 * HOUR_S, BEFORE_NTP_S, 5 * 365 * DAY_S, 0.0)


@pytest.fixture
def node(tmp_path: Path, kernel_log: FakeKernelLog) -> Iterator[Node]:
    """A node whose daemon is not yet started."""
    node = Node(tmp_path, kernel_log)
    try:
        yield node
    finally:
        node.close()


def told(node: Node) -> list[dict[str, Any]]:
    """The faults that are kept, in the order of their cursors."""
    return [item for item in everything_kept(node.daemon) if item["kind"] == "xid"]


def wait_for_all(node: Node) -> list[dict[str, Any]]:
    """The faults that are kept, once all that were written are."""
    return wait_for(
        lambda: found if numbers(found := told(node)) == list(range(1, node.written + 1)) else None,
        "every fault",
    )


def off_by_s(item: dict[str, Any]) -> float:
    """How far the time of an event is ahead of the real one, given that it was heard just now."""
    return datetime.fromisoformat(item["time"]).timestamp() - time.time()


@fault(
    "the wall clock steps back and ahead under a running daemon, by hours to decades; so does a suspend",
    promise=1,
    promised="cursors grow, nothing is deleted; repeats are told by the kernel's clock",
)
def test_a_clock_that_steps_under_a_running_daemon_costs_nothing(node: Node, happened: Happened) -> None:
    node.daemon.start()
    with Follower(node.daemon) as follower:
        for step_s in (0.0, *STEPS_S):
            node.disk.steps_clock(step_s)
            node.write(1)
            newest = wait_for_all(node)[-1]
            assert abs(off_by_s(newest) - step_s) < HOUR_S / 2
            assert newest["time_is_estimate"] is False
            # Again within the quiet gap of 5 s of kernel time, while the wall clock steps by an hour.
            node.disk.steps_clock(step_s + HOUR_S)
            node.write_again(1_000_000)
            wait_for(lambda: told(node)[-1]["count"] == 2, "the repeat")
        kept = everything_kept(node.daemon)
        follower.wait_until(lambda items: items[-1]["cursor"] == kept[-1]["cursor"], "all of them")
        check_read_in_order(follower.items)
        check_read_everything(follower.items, kept)
        assert follower.missed == []
    assert [item["count"] for item in told(node)] == [2] * node.written
    assert all(item["stored"] for item in kept)
    happened(
        f"{2 * len(STEPS_S)} steps: {node.written} faults, each told as one that happened twice;"
        f" {len(follower.items)} items read, cursors growing"
    )


@fault(
    "the wall clock is wrong when the daemon starts: 40 days or 5 years ahead, in the seventies, right again",
    promise=1,
    promised="no cursor is given out twice, retention deletes nothing that is young",
)
def test_a_clock_that_is_wrong_at_a_start_costs_nothing(node: Node, happened: Happened) -> None:
    cursors: list[int] = []
    for step_s in (BEFORE_NTP_S, 0.0, 40 * DAY_S, -DAY_S, 5 * 365 * DAY_S, 0.0):
        node.disk.steps_clock(step_s)
        node.daemon.start()
        node.write(1)
        items = wait_for_all(node)
        node.wait_until_stored()  # else it is lost: a FIFO gives nothing twice
        cursors.append(items[-1]["cursor"])
        node.daemon.kill()
    assert all(before < after for before, after in pairwise(cursors))
    happened(
        f"{len(cursors)} starts: all {node.written} faults are kept, each start's cursors above the last"
    )
