"""Tests of a journal whose reserves alone are larger than its size limit."""

from __future__ import annotations

from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from daemon.journal import Change, Journal
from daemon.retention import ReservesExceedLimitError, Retention
from daemon.ring import by_device
from daemon.store import Store
from daemon.writer import LONGEST_SIZE_CHECK_BYTES, Writer
from tests.daemon.stored import event, in_loop, item, until

FOREVER = 1e12
DEVICES = 16


def filled(state_dir: Path, *, per_device: int) -> Journal:
    """A journal with this many events of each of sixteen devices, in turn."""
    journal = Journal.open(state_dir)
    journal.commit(
        Change(tuple(item(1 + number, device=number % DEVICES) for number in range(per_device * DEVICES)))
    )
    return journal


def test_the_oldest_of_all_devices_go_first_and_only_what_is_beyond_the_reserves(tmp_path: Path) -> None:
    retention = Retention(size_bytes=1, age_s=FOREVER)
    with closing(filled(tmp_path, per_device=50)) as journal:
        deleted = [*retention.delete_excess(journal)]
        assert deleted == list(range(1, 257))
        deleted += retention.delete_excess(journal)
        assert deleted == list(range(1, 18 * DEVICES + 1))
        with pytest.raises(ReservesExceedLimitError, match="the last 32 events of each device"):
            retention.delete_excess(journal)
        assert len(journal.newest_items(1000)) == 32 * DEVICES


def test_looking_for_what_can_go_does_not_read_the_events(tmp_path: Path) -> None:
    retention = Retention(size_bytes=1, age_s=FOREVER)
    with closing(filled(tmp_path, per_device=50)) as journal:
        asked: list[str] = []
        journal.db.set_trace_callback(asked.append)
        retention.delete_excess(journal)
        journal.db.set_trace_callback(None)
        looks = [query for query in asked if query.startswith("SELECT") and "reserve" in query]
        assert looks
        for query in looks:
            plan = [row[3] for row in journal.db.execute(f"EXPLAIN QUERY PLAN {query}")]
            assert all("USING COVERING INDEX items_reserve" in step for step in plan), (query, plan)


def test_a_journal_that_cannot_shrink_is_looked_at_ever_more_rarely(tmp_path: Path) -> None:
    looks: list[int] = []

    class Watched(Retention):
        def delete_excess(self, journal: Journal) -> list[int]:
            looks.append(journal.written_bytes)
            return list(super().delete_excess(journal))

    journal = filled(tmp_path, per_device=5)
    writer = Writer(tmp_path, journal, Watched(size_bytes=16, age_s=FOREVER), by_device)
    notes = [writer.tidy().note]
    while len(looks) < 30:
        journal.written_bytes += 64 * 1024
        notes.append(writer.tidy().note)
    apart = [later - earlier for earlier, later in pairwise(looks)]
    assert apart == sorted(apart)
    assert apart[-1] == LONGEST_SIZE_CHECK_BYTES
    assert len([note for note in notes if note]) == len(looks)
    writer.close()


def test_health_says_that_the_reserves_are_larger_than_the_limit(tmp_path: Path) -> None:
    async def main() -> None:
        store = Store.open(tmp_path, retention=Retention(size_bytes=16, age_s=FOREVER))
        for number in range(20):
            store.put([event(number)])
            await until(lambda: store.health().unstored == 0)
        await until(lambda: store.health().notes)
        (note,) = store.health().notes
        assert "retention size of 16 bytes" in note
        await store.close()

    in_loop(main)
