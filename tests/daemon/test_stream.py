"""Tests of the stream: pages, following, and the seam between ring and journal."""

from __future__ import annotations

import asyncio
import itertools
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event as ThreadEvent

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.event import Item, Severity
from daemon.filter import EVERYTHING, EventFilter
from daemon.journal import Change, Journal, open_reader
from daemon.page import Marks, Missed, Page
from daemon.reader import Reader
from daemon.ring import Ring
from daemon.stream import EventStream
from probes.errors import UserError
from tests.daemon.stored import in_loop, item, until
from tests.support.following import follow


def in_memory(size: int = 100, *, first_cursor: int = 1000) -> EventStream:
    return EventStream(Ring(size, reserve=0), first_cursor=first_cursor)


def cursors(page: Page) -> list[int]:
    return [one.cursor for one in page.items]


class Kept:
    """A stream with a small ring and a real journal, fed step by step as the store feeds them."""

    def __init__(self, state_dir: Path, size: int) -> None:
        self.journal = Journal.open(state_dir)
        self.stream = EventStream(
            Ring(size, reserve=0), first_cursor=1, open_reader=partial(open_reader, state_dir)
        )

    def put(self, *items: Item) -> None:
        """Commit, then publish."""
        self.journal.commit(Change(items))
        self.stream.journal_reaches(self.journal.marks())
        self.stream.publish(items)

    def put_late(self, one: Item) -> None:
        """Publish what the journal lacks."""
        self.stream.publish([one], pinned=True)

    def store(self, one: Item) -> None:
        """The journal takes it after all."""
        self.journal.commit(Change([one]))
        self.stream.journal_reaches(self.journal.marks())
        self.stream.stored([one])

    def delete(self, *gone: int) -> None:
        """Retention."""
        with self.journal.transaction() as db:
            db.executemany("DELETE FROM items WHERE cursor = ?", [(cursor,) for cursor in gone])
            self.journal.raise_deleted_through(max(gone), kept_ms=time.time_ns() // 1_000_000)
        self.stream.deleted(gone)
        self.stream.journal_reaches(self.journal.marks())


@pytest.fixture
def state_dir(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path


# -- a page --------------------------------------------------------------------------------------


def test_an_empty_stream_has_an_empty_page() -> None:
    async def main() -> None:
        for since in (None, 0):
            page = await in_memory().page(since)
            assert page.to_dict() == {
                "events": [],
                "next_cursor": 0,
                "oldest_cursor": 0,
                "newest_cursor": 0,
                "missed": None,
            }

    in_loop(main)


def test_pages_go_forward_from_a_cursor_without_hole_or_double() -> None:
    async def main() -> None:
        stream = in_memory()
        stream.publish(item(cursor) for cursor in range(1001, 1021))
        assert cursors(await stream.page(None, 3)) == [1018, 1019, 1020]
        seen, since = [], 0
        while (page := await stream.page(since, 7)).items:
            seen += cursors(page)
            since = page.next_cursor
        assert seen == list(range(1001, 1021))
        assert (page.next_cursor, page.oldest_cursor, page.newest_cursor) == (1020, 1001, 1020)

    in_loop(main)


def test_the_json_of_a_page_is_its_dict() -> None:
    async def main() -> None:
        stream = in_memory(5)
        stream.publish(item(cursor) for cursor in range(1001, 1021))
        page = await stream.page(1003)
        assert json.loads(page.to_json()) == json.loads(json.dumps(page.to_dict()))
        assert page.to_dict()["missed"] == {"first": 1004, "last": 1015}
        assert page.to_json().isascii()
        assert "\n" not in page.to_json()

    in_loop(main)


@pytest.mark.parametrize(("limit", "given"), [(-5, 1), (0, 1), (1000, 1000), (10**9, 1000)])
def test_the_limit_is_clamped(limit: int, given: int) -> None:
    async def main() -> None:
        stream = in_memory(2000)
        stream.publish(item(cursor) for cursor in range(1, 1501))
        assert len((await stream.page(0, limit)).items) == given
        assert len((await stream.page(None, limit)).items) == given

    in_loop(main)


def test_filtered_out_items_are_not_looked_at_again() -> None:
    async def main() -> None:
        stream = in_memory(5000)
        stream.publish(item(cursor, code=79 if cursor == 1010 else 31) for cursor in range(1000, 4000))
        match = EventFilter.parse(code=["79"])
        page = await stream.page(0, 10, match)
        assert (cursors(page), page.next_cursor) == ([1010], 3999)
        assert cursors(await stream.page(None, 10, match)) == [1010]
        assert (await stream.page(page.next_cursor, 10, match)).next_cursor == 3999

    in_loop(main)


def test_a_cursor_that_was_never_given_out_is_refused_with_the_newest() -> None:
    async def main() -> None:
        stream = in_memory()
        stream.publish([item(1000)])
        for since in (1001, 2**70):
            with pytest.raises(UserError, match="newest, 1000"):
                await stream.page(since)
            with pytest.raises(UserError, match="newest, 1000"):
                await anext(follow(stream, since))
        with pytest.raises(UserError, match="negative"):
            await stream.page(-1)

    in_loop(main)


def test_a_cursor_of_an_earlier_run_that_was_never_stored_is_good_for_going_on() -> None:
    async def main() -> None:
        stream = EventStream(Ring(10), first_cursor=1000, marks=Marks(0, 500, 0))
        page = await stream.page(700)
        assert (page.items, page.next_cursor) == ([], 700)
        stream.publish([item(1000)])
        assert cursors(await stream.page(700)) == [1000]

    in_loop(main)


# -- following -----------------------------------------------------------------------------------


async def take(follower: object, count: int) -> list[Item | Missed]:
    """The next items of an iterator that `follow` gave."""
    return [await anext(follower) for _ in range(count)]  # type: ignore[call-overload]  # an AsyncIterator


def places(found: list[Item | Missed]) -> list[int | Missed]:
    return [one.cursor if isinstance(one, Item) else one for one in found]


def test_a_follower_without_cursor_gets_only_what_is_new() -> None:
    async def main() -> None:
        stream = in_memory()
        stream.publish([item(1000)])
        follower = follow(stream, None)
        stream.publish([item(1001)])
        assert places(await take(follower, 1)) == [1001]

    in_loop(main)


def test_a_waiting_follower_is_woken_and_closing_ends_it() -> None:
    async def main() -> None:
        stream = in_memory()
        seen: list[int] = []

        async def read() -> None:
            async for one in follow(stream, 0):
                assert isinstance(one, Item)
                seen.append(one.cursor)

        readers = [asyncio.create_task(read()) for _ in range(20)]
        await asyncio.sleep(0)
        stream.publish([item(1000)])
        await until(lambda: len(seen) == 20)
        stream.close()
        await asyncio.gather(*readers)
        assert stream.closed

    in_loop(main)


def test_a_stalled_follower_gets_the_last_revisions_and_is_told_what_left() -> None:
    async def main() -> None:
        stream = in_memory(10)
        follower = follow(stream, 0)
        stream.publish([item(1000, 1)])
        assert places(await take(follower, 1)) == [1000]
        stream.publish(item(cursor, cursor % 50, revision=cursor) for cursor in range(1001, 1501))
        assert places(await take(follower, 11)) == [Missed(1001, 1490), *range(1491, 1501)]

    in_loop(main)


def test_wait_beyond_returns_at_once_when_there_is_something() -> None:
    async def main() -> None:
        stream = in_memory()
        stream.publish([item(1000)])
        await stream.wait_beyond(999)
        waiting = asyncio.create_task(stream.wait_beyond(1000))
        await asyncio.sleep(0)
        assert not waiting.done()
        stream.publish([item(1001)])
        await waiting

    in_loop(main)


def test_a_waiter_that_gives_up_leaves_the_others_waiting() -> None:
    async def main() -> None:
        stream = in_memory()
        first, second = (asyncio.create_task(stream.wait_beyond(0)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        assert not second.done()
        stream.publish([item(1000)])
        await second

    in_loop(main)


# -- behind the ring -----------------------------------------------------------------------------


def test_a_reader_behind_the_ring_is_served_from_the_journal(state_dir: Path) -> None:
    async def main() -> None:
        kept = Kept(state_dir, size=10)
        for start in range(1, 1001, 100):
            kept.put(
                *(item(cursor, severity=list(Severity)[cursor % 4]) for cursor in range(start, start + 100))
            )
        assert places(await take(follow(kept.stream, 0), 1000)) == list(range(1, 1001))
        page = await kept.stream.page(100, 1000)
        assert cursors(page) == list(range(101, 1001))
        assert page.missed is None
        assert page.oldest_cursor == 1
        assert cursors(await kept.stream.page(None, 200)) == list(range(801, 1001))
        fatal = await kept.stream.page(None, 20, EventFilter.parse("fatal"))
        assert cursors(fatal) == list(range(923, 1001, 4))
        kept.stream.close()

    in_loop(main)


def test_an_item_the_journal_lacks_is_not_passed_over(state_dir: Path) -> None:
    async def main() -> None:
        kept = Kept(state_dir, size=2)
        kept.put(item(1), item(2))
        kept.put_late(item(3, stored=False))
        kept.put(*(item(cursor) for cursor in range(4, 10)))
        assert cursors(await kept.stream.page(0)) == list(range(1, 10))
        assert cursors(await kept.stream.page(None, 8)) == list(range(2, 10))
        assert cursors(await kept.stream.page(0, 3)) == [1, 2, 3]
        kept.store(item(3))
        page = await kept.stream.page(0)
        assert cursors(page) == list(range(1, 10))
        assert all(one.stored for one in page.items)
        kept.stream.close()

    in_loop(main)


def test_a_reader_is_told_what_retention_deleted(state_dir: Path) -> None:
    async def main() -> None:
        kept = Kept(state_dir, size=3)
        kept.put(*(item(cursor) for cursor in range(1, 11)))
        kept.delete(1, 2, 4)
        assert (await kept.stream.page(1)).missed == Missed(2, 4)
        assert cursors(await kept.stream.page(1)) == [3, *range(5, 11)]
        assert (await kept.stream.page(4)).missed is None
        assert (await kept.stream.page(0)).missed is None
        assert kept.stream.oldest == 3
        assert places(await take(follow(kept.stream, 2), 3)) == [Missed(3, 4), 3, 5]
        assert places(await take(follow(kept.stream, 0), 2)) == [3, 5]
        kept.stream.close()

    in_loop(main)


def test_a_journal_that_cannot_be_read_is_said_and_memory_still_serves(state_dir: Path) -> None:
    def refuse() -> Reader:
        raise sqlite3.OperationalError("disk I/O error")

    async def main() -> None:
        errors: list[Exception] = []
        stream = EventStream(
            Ring(3, reserve=0), first_cursor=1, open_reader=refuse, on_read_error=errors.append
        )
        stream.publish(item(cursor) for cursor in range(1, 11))
        with pytest.raises(UserError, match="disk I/O error") as refused:
            await stream.page(0)
        assert refused.value.hint is not None
        assert "cursor 7" in refused.value.hint
        assert len(errors) == 1
        assert cursors(await stream.page(7)) == [8, 9, 10]
        stream.close()

    in_loop(main)


def test_closing_ends_readers_that_wait_for_a_hanging_disk() -> None:
    release = ThreadEvent()

    def hang() -> Reader:
        release.wait()
        raise sqlite3.OperationalError("released")

    async def main() -> None:
        stream = EventStream(Ring(1, reserve=0), first_cursor=1, open_reader=hang)
        stream.publish([item(1), item(2)])

        async def read() -> list[Item | Missed]:
            return [one async for one in follow(stream, 0)]

        following, asking = asyncio.create_task(read()), asyncio.create_task(stream.page(0))
        await asyncio.sleep(0)
        await stream.wait_beyond(0)  # the loop is free
        stream.close()
        assert await following == []
        with pytest.raises(UserError, match="shutting down"):
            await asking
        release.set()

    in_loop(main)


# -- any order of things ---------------------------------------------------------------------------

steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 12)),
        st.tuples(st.just("late"), st.integers(0, 12)),
        st.tuples(st.just("store"), st.just(0)),
        st.tuples(st.just("delete"), st.integers(1, 3)),
        st.tuples(st.just("page"), st.integers(1, 5)),
        st.tuples(st.just("follow"), st.integers(1, 5)),
        st.tuples(st.just("last"), st.integers(1, 5)),
    ),
    max_size=60,
)


class Model:
    """What is kept, by the letter: the newest revision of each event; and three readers' views of it."""

    def __init__(self, kept: Kept, match: EventFilter) -> None:
        self.kept = kept
        self.match = match
        self.items: dict[int, Item] = {}  # by event
        self.late: list[Item] = []
        self.deleted_through = 0
        self.next = itertools.count(1)
        self.revision = 0
        self.since = 0
        self.paged: list[Item] = []
        self.followed: list[Item] = []
        self.missed_by_pages = self.missed_by_follower = False
        self.follower = follow(kept.stream, 0, match)

    def new(self, number: int, *, stored: bool) -> Item:
        self.revision += 1
        severity = Severity.FATAL if number % 2 else Severity.INFO
        one = item(next(self.next), number, stored=stored, revision=self.revision, severity=severity)
        self.items[number] = one
        return one

    def store_late(self) -> None:
        """The journal takes, in one go, all it lacks."""
        waiting = [one for one in self.late if one in self.items.values()]
        if waiting:
            self.kept.journal.commit(Change([Item.of(one.cursor, one.event, stored=True) for one in waiting]))
            self.kept.stream.journal_reaches(self.kept.journal.marks())
            self.kept.stream.stored([Item.of(one.cursor, one.event, stored=True) for one in waiting])
        self.late = []

    async def step(self, name: str, number: int) -> None:
        stream = self.kept.stream
        if name == "put":
            self.store_late()
            self.kept.put(self.new(number, stored=True))
        elif name == "late":
            one = self.new(number, stored=False)
            self.late.append(one)
            self.kept.put_late(one)
        elif name == "store":
            self.store_late()
        elif name == "delete":
            self.delete(number)
        elif name == "page":
            page = await stream.page(self.since, number, self.match)
            self.paged += page.items
            self.missed_by_pages |= page.missed is not None
            assert (page.missed is not None) == (0 < self.since < self.deleted_through)
            self.since = page.next_cursor
        elif name == "last":
            page = await stream.page(None, number, self.match)
            assert [one.cursor for one in page.items] == self.kept_cursors()[-number:]
        elif self.followed_through < self.newest_match():
            await self.follow()
        self.check_marks()

    @property
    def followed_through(self) -> int:
        return self.followed[-1].cursor if self.followed else 0

    def kept_cursors(self) -> list[int]:
        return sorted(one.cursor for one in self.items.values() if self.match.matches(one.event))

    def newest_match(self) -> int:
        return max(self.kept_cursors(), default=0)

    def delete(self, count: int) -> None:
        late = {one.cursor for one in self.late}
        gone = sorted(one.cursor for one in self.items.values() if one.cursor not in late)[:count]
        if gone:
            self.items = {number: one for number, one in self.items.items() if one.cursor not in gone}
            self.deleted_through = max(self.deleted_through, *gone)
            self.kept.delete(*gone)

    async def follow(self) -> None:
        """Take one item that is sure to come."""
        one = await anext(self.follower)
        if isinstance(one, Missed):
            self.missed_by_follower = True
            assert one.last <= self.deleted_through
            one = await anext(self.follower)
        assert isinstance(one, Item)
        self.followed.append(one)

    def check_marks(self) -> None:
        if self.late:
            return  # the journal may still hold what an item it lacks has superseded
        everything = sorted(one.cursor for one in self.items.values())
        assert self.kept.stream.oldest == (everything[0] if everything else 0)

    def check_reader(self, seen: list[Item], *, missed: bool) -> None:
        """Cursor order, no revision twice, the last revision of all that is kept; missed only by deletion."""
        assert [one.cursor for one in seen] == sorted({one.cursor for one in seen})
        assert len({(one.event.id, one.event.revision) for one in seen}) == len(seen)
        last = {one.event.id: one.cursor for one in seen}
        for one in self.items.values():
            if self.match.matches(one.event):
                assert last.get(one.event.id) == one.cursor
        assert not missed or self.deleted_through


@settings(max_examples=150, deadline=None)
@given(script=steps, size=st.integers(1, 6), filtered=st.booleans())
def test_readers_get_everything_in_order_whatever_happens_between_their_reads(
    script: list[tuple[str, int]], size: int, filtered: bool
) -> None:
    async def main(state_dir: Path) -> None:
        kept = Kept(state_dir, size)
        with closing(kept.journal):
            model = Model(kept, EventFilter.parse("fatal") if filtered else EVERYTHING)
            for name, number in script:
                await model.step(name, number)
            while (page := await kept.stream.page(model.since, 3, model.match)).next_cursor != model.since:
                model.paged += page.items
                model.since = page.next_cursor
            model.check_reader(model.paged, missed=model.missed_by_pages)
            while model.followed_through < model.newest_match():
                await model.follow()
            model.check_reader(model.followed, missed=model.missed_by_follower)
            kept.stream.close()

    with TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as directory:
        in_loop(lambda: main(Path(directory)))
