"""A storm on one GPU, with faults on others in its midst: all there, counted exactly, memory flat."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import pytest

from daemon.event import parse_rfc3339
from tests.support.daemon import Daemon
from tests.support.fault_lab import Happened, fault
from tests.support.kernel_log import FakeKernelLog
from tests.support.memory import reset_highest_rss, rss_kib
from tests.support.readers import Follower, Item, everything_kept
from tests.support.waiting import DEADLINE_S, wait_for

STORM = "0000:1b:00"
OTHERS = tuple(f"0000:{bus:02x}:00" for bus in (0x43, 0x52, 0x9D, 0xC3, 0xD1))
LINES = 100_000
RARE = range(LINES // 20, LINES, LINES // 10)
"""Where in the storm another GPU has a fault: ten times."""
RSS_GROWTH_KIB = 30 * 1024


@pytest.fixture
def daemon(tmp_path: Path, kernel_log: FakeKernelLog) -> Iterator[Daemon]:
    """A daemon that knows the GPUs."""
    running = Daemon(tmp_path, kmsg=kernel_log.path)
    for number, gpu in enumerate((STORM, *OTHERS)):
        kernel_log.write(f"NVRM: GPU at PCI:{gpu}: GPU-11111111-2222-3333-4444-{number:012d}")
    try:
        yield running.start()
    finally:
        running.stop()


class Storm(threading.Thread):
    """Writes LINES lines about one GPU, and the faults of the others, as fast as they are read."""

    def __init__(self, log: FakeKernelLog, pids: int) -> None:
        super().__init__(name="storm")
        self.written_at: list[float] = []
        """When each fault of another GPU was written (CLOCK_MONOTONIC, s); its index is its pid."""
        self._log = log
        self._pids = pids

    def run(self) -> None:
        rare = count()
        for n in range(LINES):
            pid = 1000 + n % self._pids
            self._log.write(f"NVRM: Xid (PCI:{STORM}): 31, pid={pid}, name=python3, Ch 00000008, line {n}")
            if n in RARE:
                number = next(rare)
                gpu = OTHERS[number % len(OTHERS)]
                self._log.write(f"NVRM: Xid (PCI:{gpu}): 48, pid={number}, name=other, DBE")
                self.written_at.append(time.monotonic())


class Arrivals:
    """Notes when the faults of the other GPUs were read, until every line is in a count."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self._looked_at = 0
        self._counts: dict[str, int] = {}
        self.seen_at: dict[int, float] = {}
        """When each fault of another GPU was read (CLOCK_MONOTONIC, s), by its pid."""

    def complete(self) -> bool:
        items = self._follower.items
        while self._looked_at < len(items):
            item = items[self._looked_at]
            self._looked_at += 1
            if item["kind"] == "incident":
                continue
            self._counts[item["id"]] = item["count"]
            if item["code"] == 48:
                self.seen_at.setdefault(item["process"]["pid"], time.monotonic())
        return sum(self._counts.values()) == LINES + len(RARE)


@pytest.mark.slow
@pytest.mark.parametrize("pids", [1, 500], ids=["one-process", "500-processes"])
@fault("A storm of Xids on one GPU", promise=3, promised="counted exactly; faults of other GPUs come through")
def test_a_storm_is_counted_exactly_and_hides_no_fault_of_another_gpu(
    daemon: Daemon, kernel_log: FakeKernelLog, pids: int, happened: Happened
) -> None:
    storm = Storm(kernel_log, pids)
    with Follower(daemon) as follower:
        follower.wait_until(lambda _: follower.connections, "the reader to be connected")
        reset_highest_rss(daemon)
        before_kib = rss_kib(daemon)
        storm.start()
        arrivals = Arrivals(follower)
        wait_for(arrivals.complete, "every line to be counted", deadline_s=4 * DEADLINE_S)
        storm.join(DEADLINE_S)
        growth_kib = rss_kib(daemon, "VmHWM") - before_kib
    slowest_s = max(arrivals.seen_at[number] - at for number, at in enumerate(storm.written_at))
    logging.getLogger(__name__).warning(
        "memory grew by %d KiB, the slowest of the others' faults took %.3f s", growth_kib, slowest_s
    )
    check_events([event for event in everything_kept(daemon) if event["kind"] != "incident"], pids)
    check_order(follower.items)
    assert growth_kib <= RSS_GROWTH_KIB
    happened(
        f"{LINES:,} lines of {pids} processes: all counted; all {len(RARE)} others' faults told during it"
    )


def check_events(kept: Sequence[Item], pids: int) -> None:
    """Nothing is missing and nothing counted twice; a FIFO loses nothing, so there is no gap either."""
    storm = [event for event in kept if event["gpu"]["pci"] == f"{STORM}.0"]
    others = [event for event in kept if event["gpu"]["pci"] != f"{STORM}.0"]
    assert sum(event["count"] for event in storm) == LINES
    assert Counter((event["gpu"]["pci"], event["process"]["pid"], event["count"]) for event in others) == {
        (f"{OTHERS[number % len(OTHERS)]}.0", number, 1): 1 for number in range(len(RARE))
    }
    overflows = [event for event in storm if event["kind"] == "overflow"]
    if pids == 1:
        assert (len(storm), overflows) == (1, [])
    else:
        [overflow] = overflows
        assert len(storm) == 21  # 20 new events in 10 s
        assert overflow["detail"]["distinct_pids"] == pids - 20
        assert overflow["detail"]["lines"] == overflow["count"]
    # At most one revision a second of each event, beside the first and the one that completes it.
    for event in storm:
        lasted_s = (parse_rfc3339(event["last_time"]) - parse_rfc3339(event["time"])) / 1e6
        assert event["revision"] <= math.ceil(lasted_s) + 2


def check_order(read: Sequence[Item]) -> None:
    """The others' faults were read in their order, and before the storm had said its last word."""
    faults = [item for item in read if item["kind"] != "incident"]
    first = {item["id"]: place for place, item in reversed([*enumerate(faults)]) if item["code"] == 48}
    others = sorted(first.values())
    assert [faults[place]["process"]["pid"] for place in others] == list(range(len(RARE)))
    assert others[-1] < max(place for place, item in enumerate(faults) if item["code"] == 31)
