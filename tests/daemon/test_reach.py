"""From when on the journal holds everything: never earlier than it does."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.page import Marks
from daemon.reach import reaches_back_to
from daemon.ring import Ring
from daemon.store import Store
from daemon.stream import EventStream
from tests.daemon.stored import DEADLINE_S, event, in_loop, item, until

BORN_MS = 1_769_079_600_000
BORN_US = BORN_MS * 1000


def reach(*numbers: int, marks: Marks) -> int | None:
    """Of a stream that holds events with these cursors, which happened a second apart."""

    async def main() -> int | None:
        ring = Ring(64)
        ring.newest = marks.newest
        stream = EventStream(ring, first_cursor=BORN_MS, marks=marks)
        for number in numbers:
            at_us = BORN_US + (number - BORN_MS) * 1_000_000
            happened = replace(event(number), time_us=at_us - 500_000, last_time_us=at_us)
            stream.publish([replace(item(number), event=happened)])
        return await reaches_back_to(stream)

    return in_loop(main)


def test_a_journal_reaches_back_to_its_first_run() -> None:
    assert reach(marks=Marks(0, 0, 0, born=BORN_MS)) == BORN_US
    assert reach(BORN_MS + 3, marks=Marks(0, 0, 0, born=BORN_MS)) == BORN_US


def test_what_the_kernel_log_still_held_at_the_first_start_counts_in() -> None:
    async def main() -> int | None:
        stream = EventStream(Ring(64), first_cursor=BORN_MS, marks=Marks(0, 0, 0, born=BORN_MS))
        old = replace(event(1), time_us=BORN_US - 3_600_000_000, last_time_us=BORN_US - 3_600_000_000)
        stream.publish([replace(item(BORN_MS), event=old)])
        return await reaches_back_to(stream)

    assert in_loop(main) == BORN_US - 3_600_000_000


def test_after_retention_it_reaches_back_to_the_first_event_behind_the_deleted_ones() -> None:
    kept = (BORN_MS + 1, BORN_MS + 7)  # the first one is a device's last, which retention spares
    assert reach(*kept, marks=Marks(0, 0, BORN_MS + 5, born=BORN_MS)) == BORN_US + 7_000_000


def test_when_all_was_deleted_it_is_not_known() -> None:
    all_gone = Marks(0, BORN_MS + 5, BORN_MS + 5, born=BORN_MS)
    assert reach(marks=all_gone) is None


def test_without_marks_it_is_the_oldest_event_or_not_known() -> None:
    nothing = Marks(0, 0, 0)
    assert reach(marks=nothing) is None
    assert reach(BORN_MS + 2, marks=nothing) == BORN_US + 1_500_000


def test_a_real_journal_remembers_its_beginning_over_restarts(tmp_path: Path) -> None:
    async def run() -> int | None:
        store = Store.open(tmp_path)
        try:
            await until(lambda: store.health().unstored == 0)
            return await reaches_back_to(store.stream)
        finally:
            await store.close()

    before_us = time.time_ns() // 1000
    first = in_loop(run)
    assert first is not None
    assert first / 1e6 == pytest.approx(before_us / 1e6, abs=DEADLINE_S)
    assert in_loop(run) == first
