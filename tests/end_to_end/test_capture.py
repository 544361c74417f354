"""Seven deliberate CUDA faults on a real H200, as the kernel printed them: one event for each."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.kernel_log import FakeKernelLog
from tests.support.readers import Follower, Item, PageReader, everything_kept
from tests.support.waiting import wait_for

CAPTURE = Path(__file__).parents[3] / "shared/data/h200_capture.jsonl"
FAULTS = [(31, 446), (13, 452), (43, 458), (43, 464), (13, 470), (13, None), (43, 480), (31, 486)]
"""Code and pid. The driver printed no pid for the sixth: its 43 has it."""


def records() -> list[str]:
    """The records of the kernel log, with their own sequence numbers and times."""
    if not CAPTURE.exists():
        pytest.skip(f"{CAPTURE} is not here")
    lines = [json.loads(line) for line in CAPTURE.read_text().splitlines()]
    return [line["record"] for line in lines if line["witness"] == "kmsg"]


def faults(items: Sequence[Item]) -> list[Item]:
    """The last revision of each fault, in the order of the log; incidents aside."""
    final = {item["id"]: item for item in items if item["kind"] != "incident"}
    return sorted(final.values(), key=lambda item: item["kmsg_seq"])


def test_a_real_capture_gives_one_event_for_each_fault(
    running_daemon: Daemon, kernel_log: FakeKernelLog
) -> None:
    captured = records()
    with Follower(running_daemon) as follower, PageReader(running_daemon) as pages:
        for record in captured:
            kernel_log.write_raw(record.encode())
        last = max(int(record.split(",")[1]) for record in captured)
        wait_for(lambda: any(e["kmsg_seq"] == last for e in running_daemon.events()), "the last fault")
        # The thirteens say their last word when they are complete.
        wait_for(lambda: sum(len(e["lines"]) for e in faults(running_daemon.events())) == 14, "every line")
        for reader in (follower, pages):
            reader.wait_until(
                lambda items: faults(items) == faults(everything_kept(running_daemon)),
                "a reader to have what is kept",
            )
        events = faults(everything_kept(running_daemon))

    assert [(e["code"], e["process"] and e["process"]["pid"]) for e in events] == FAULTS
    for event in events:
        assert event["kind"] == "xid"
        assert event["count"] == 1
        assert event["blame"] == "application"
        assert event["severity"] == "warning"
        assert event["gpu"]["pci"] == "0000:00:06.0"
        assert event["gpu"]["uuid"] == "GPU-11111111-2222-3333-4444-555555555555"
        assert event["gpu"]["serial"] == "1234567890123"
        assert event["process"] is None or event["process"]["name"] == "fault"
        assert event["origin"] == "kernel"
        assert event["drill"] is False
    printed = [text for record in captured if " Xid " in (text := record.rstrip("\n").partition(";")[2])]
    assert Counter(line for event in events for line in event["lines"]) == Counter(printed)
    for reader in (follower, pages):
        assert reader.missed == []
        assert faults(reader.items) == events
