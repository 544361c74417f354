"""Tests of what readers are told, and of the cursors given out, when a start does not find what was kept."""

from __future__ import annotations

import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from daemon import journal
from daemon.journal import Change, Journal
from daemon.page import Missed
from daemon.store import CURSORS_APART, Store, first_cursor
from probes.errors import UserError
from tests.daemon.stored import event, in_loop, item, until


@asynccontextmanager
async def run_of(state_dir: Path | None) -> AsyncIterator[Store]:
    """One run of a store; in memory without a directory."""
    store = Store.in_memory() if state_dir is None else Store.open(state_dir)
    try:
        yield store
    finally:
        await store.close()


async def cursor_of_a_run(state_dir: Path) -> int:
    """Give out two cursors; the first of them."""
    async with run_of(state_dir) as store:
        store.put([event(1), event(2)])
        await until(lambda: store.stream.newest)
        return store.stream.newest - 1


@pytest.mark.parametrize("kept", [True, False], ids=["journal", "memory"])
def test_a_reader_with_a_cursor_of_a_lost_journal_is_told_once_that_it_missed_something(
    tmp_path: Path, kept: bool
) -> None:
    async def main() -> None:
        old = await cursor_of_a_run(tmp_path / "state")
        shutil.rmtree(tmp_path / "state")
        async with run_of(tmp_path / "state" if kept else None) as store:
            page = await store.stream.page(old)
            assert page.items == []
            assert page.missed is not None
            assert page.missed.first == old + 1
            assert (page.oldest_cursor, page.newest_cursor) == (0, 0)
            again = await store.stream.page(page.next_cursor)
            assert (again.missed, again.next_cursor) == (None, page.next_cursor)
            store.put([event(3)])
            await store.stream.wait_beyond(page.next_cursor)
            after = await store.stream.page(page.next_cursor)
            assert [one.event.id for one in after.items] == ["ev_3"]
            assert after.missed is None
            assert after.items[0].cursor > page.missed.last
            assert (await store.stream.page(old)).missed == page.missed

    in_loop(main)


@pytest.mark.parametrize("kept", [True, False], ids=["journal", "memory"])
def test_a_reader_of_all_that_is_kept_misses_nothing_in_a_new_store(tmp_path: Path, kept: bool) -> None:
    async def main() -> None:
        async with run_of(tmp_path if kept else None) as store:
            for since in (0, None):
                page = await store.stream.page(since)
                assert (page.next_cursor, page.newest_cursor, page.missed) == (0, 0, None)

    in_loop(main)


def test_a_lost_journal_is_remembered_across_restarts_and_without_a_daemon(tmp_path: Path) -> None:
    async def main() -> Missed:
        old = await cursor_of_a_run(tmp_path / "state")
        shutil.rmtree(tmp_path / "state")
        async with run_of(tmp_path / "state") as store:
            missed = (await store.stream.page(old)).missed
            assert missed is not None
        with journal.read_only(tmp_path / "state") as reader:
            page = reader.page(old)
            assert (page.missed, page.next_cursor, page.newest_cursor) == (missed, missed.last, 0)
            assert reader.page(page.next_cursor).missed is None
            assert (reader.page(0).next_cursor, reader.page(0).missed) == (0, None)
        async with run_of(tmp_path / "state") as store:
            assert (await store.stream.page(old)).missed == missed
        return missed

    assert in_loop(main).first > 1


def test_a_start_that_finds_its_journal_tells_nobody_of_missed_events(tmp_path: Path) -> None:
    async def main() -> None:
        first = await cursor_of_a_run(tmp_path)
        async with run_of(tmp_path) as store:
            page = await store.stream.page(first)
            assert ([one.cursor for one in page.items], page.missed) == ([first + 1], None)

    in_loop(main)


def test_a_cursor_ahead_of_an_empty_journal_is_refused_in_a_sentence_that_makes_sense(tmp_path: Path) -> None:
    async def main() -> UserError:
        async with run_of(tmp_path) as store:
            with pytest.raises(UserError) as refused:
                await store.stream.page(2**62)
            return refused.value

    error = in_loop(main)
    assert error.message == f"cursor {2**62} is ahead of the newest, 0: there has been no event yet"
    assert error.hint == "use 0 for every event that comes"


# -- cursors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("behind_ms", [0, 1, 3_600_000])
def test_no_cursor_is_given_out_twice_when_the_last_ones_were_not_stored_and_the_clock_is_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behind_ms: int
) -> None:
    start_ms = time.time_ns() // 1_000_000

    def clock_at(now_ms: int) -> Callable[[], int]:
        return lambda: now_ms * 1_000_000

    async def main() -> None:
        monkeypatch.setattr(time, "time_ns", clock_at(start_ms))
        async with run_of(tmp_path / "live") as store:
            with journal.read_only(tmp_path / "live") as reader:
                await until(lambda: reader.saved().first_cursor)
            shutil.copytree(tmp_path / "live", tmp_path / "killed")  # what kill -9 leaves now
            store.put([event(number) for number in range(100)])
            pushed = store._next
        monkeypatch.setattr(time, "time_ns", clock_at(start_ms - behind_ms))
        async with run_of(tmp_path / "killed") as store:
            store.put([event(1)])
            await until(lambda: store.stream.newest)
            assert store.stream.newest >= pushed

    in_loop(main)


def test_a_run_begins_at_the_time_unless_that_may_have_been_given_out() -> None:
    assert first_cursor(newest=0, last_run=0, now_ms=1000) == 1000
    assert first_cursor(newest=50, last_run=40, now_ms=1000) == 1000
    assert first_cursor(newest=2000, last_run=0, now_ms=1000) == 2001
    assert first_cursor(newest=0, last_run=1000, now_ms=1000) == 1000 + CURSORS_APART
    assert first_cursor(newest=1050, last_run=1000, now_ms=1040) == 1050 + CURSORS_APART


def test_a_journal_without_a_run_keeps_nobody_from_its_items(tmp_path: Path) -> None:
    with closing(Journal.open(tmp_path)) as opened:
        opened.commit(Change((item(10), item(11))))
        opened.commit(Change(first_cursor=5000))
        assert (opened.marks().born, opened.marks().gone_through) == (0, 0)
        assert opened.saved().first_cursor == 5000
