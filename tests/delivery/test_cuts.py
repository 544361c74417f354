"""Connections that are cut again and again lose and double nothing, whichever loss-free way is taken.

Every reader begins at cursor 0 before the first fault and goes on from its own cursor after each
cut. In the end it has read the last revision of every event, in cursor order, none twice.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.delivery.cutter import Cutter
from tests.delivery.faults import FIRST_PID, QUIET_GAP, Faults, introduce
from tests.delivery.figures import Figures
from tests.delivery.readers import (
    ListenReader,
    Pages,
    SocketEventsReader,
    SocketToolReader,
    TailReader,
    ToolReader,
)
from tests.support.daemon import Daemon
from tests.support.kernel_log import FakeKernelLog
from tests.support.readers import Follower, Item, Reader, everything_kept
from tests.support.stream_promises import check_read_everything, check_read_in_order
from tests.support.waiting import DEADLINE_S, wait_for

SECONDS = 60.0 if os.environ.get("XIDWATCH_LONG") else 6.0
Items = Sequence[Item]
LEGACY, MODERN = "legacy", "2026-07-28"


def readers_of(cutter: Cutter, directory: Path) -> dict[str, Reader]:
    """One reader of each kind, behind the cutter."""
    return {
        "/events with Last-Event-ID": Follower(cutter),
        "/events.json": Pages(cutter),
        "get_xid_events, legacy": ToolReader(cutter, "get_xid_events", LEGACY),
        "get_xid_events, 2026-07-28": ToolReader(cutter, "get_xid_events", MODERN),
        "wait_for_xid, legacy": ToolReader(cutter, "wait_for_xid", LEGACY),
        "wait_for_xid, 2026-07-28": ToolReader(cutter, "wait_for_xid", MODERN),
        "wait_for_xid on the unix socket": SocketToolReader(cutter.socket, cutter, "wait_for_xid"),
        "subscriptions/listen with since": ListenReader(cutter),
        "events on the unix socket": SocketEventsReader(cutter.socket, cutter),
        "xidwatch tail --follow": TailReader(cutter.socket, cutter, directory / "tail.log"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("per_s", [50, 500])
def test_cut_off_again_and_again_no_reader_loses_or_doubles_an_event(
    tmp_path: Path, kernel_log: FakeKernelLog, figures: Figures, per_s: int
) -> None:
    seed = random.randrange(2**32)
    figures(f"{per_s} events a second, cuts from seed {seed}")
    daemon = Daemon(tmp_path, kmsg=kernel_log.path, flags=["--quiet-gap", QUIET_GAP])
    introduce(kernel_log)
    faults = Faults(kernel_log, per_s=per_s, seconds=SECONDS)
    with ExitStack() as stack:
        stack.callback(daemon.stop)
        daemon.start()
        cutter = stack.enter_context(
            Cutter(random.Random(seed), to_port=daemon.port, to_socket=daemon.socket, socket=tmp_path / "cut")
        )
        readers = readers_of(cutter, tmp_path)
        stack.callback(report, figures, faults, cutter, readers)
        for reader in readers.values():
            stack.enter_context(reader)
        faults.first()
        for name, reader in readers.items():
            reader.wait_until(lambda items: items, f"{name} to read the first fault")
        cutter.begin()
        faults.start()
        faults.join()
        cutter.end()
        kept, read = wait_for(
            lambda: read_to_the_end(daemon, faults, readers),
            "every line to be counted and read",
            pause_s=0.2,
            deadline_s=4 * DEADLINE_S,
        )
    assert {pid(item): item["count"] for item in of_faults(kept)} == dict(faults.lines)
    assert len(of_faults(kept)) == faults.total
    for name, reader in readers.items():
        assert reader.missed == [], name
        check_read_in_order(read[name])
        check_read_everything(read[name], kept)
        assert reader.connections > 1, f"{name} was never cut off"


def pid(item: Item) -> int:
    number = item["process"]["pid"]
    assert isinstance(number, int)
    assert number >= FIRST_PID
    return number


def of_faults(kept: Sequence[Item]) -> list[Item]:
    """Without what the daemon makes of them: incidents, which are items of the stream too."""
    return [item for item in kept if item["kind"] != "incident"]


def read_to_the_end(
    daemon: Daemon, faults: Faults, readers: dict[str, Reader]
) -> tuple[Items, dict[str, Items]] | None:
    """Everything kept, and everything that each reader has read, once every line is in a count and every
    reader has come to the end of what is kept."""
    for reader in readers.values():
        assert reader.failure is None, reader.failure
    kept = everything_kept(daemon)
    if sum(item["count"] for item in of_faults(kept)) != sum(faults.lines.values()):
        return None
    read: dict[str, Items] = {name: tuple(reader.items) for name, reader in readers.items()}
    ends = {items[-1]["cursor"] for items in read.values()}
    return (kept, read) if ends == {kept[-1]["cursor"]} else None


def report(figures: Figures, faults: Faults, cutter: Cutter, readers: dict[str, Reader]) -> None:
    took_s = faults.took_s or math.inf
    figures(
        f"{faults.total} events in {took_s:.1f} s ({faults.total / took_s:.0f}/s), "
        f"{cutter.count} connections cut"
    )
    for name, reader in readers.items():
        figures(f"  {name}: {reader.connections} connections, {len(reader.items)} items")
