"""Tests of the store: commit, publish, and what a slow, full, read-only or broken disk does to that."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from daemon import journal
from daemon.commits import JournalState
from daemon.event import Event, Item, Severity
from daemon.journal import Change, Journal
from daemon.journal_file import FILE_NAME
from daemon.page import Missed
from daemon.retention import Retention
from daemon.store import NO_CHANGE, StateChange, Store
from probes.errors import UserError
from probes.line import ResumePoint
from tests.daemon.stored import event, in_loop, revised, until
from tests.support.following import follow

ROOT = Path(__file__).parents[2]
OUTSIDE_S = 120.0


async def items_of(store: Store) -> list[Item]:
    return list((await store.stream.page(0, 1000)).items)


async def published(store: Store, count: int) -> list[Item]:
    """The items, once there are this many."""
    while len(found := await items_of(store)) < count:
        await store.stream.wait_beyond(store.stream.newest)
    return found


def kept_numbers(state_dir: Path) -> list[str]:
    with journal.read_only(state_dir) as reader:
        return [one.event.id for one in reader.page(0, 1000).items]


# -- a disk that works -----------------------------------------------------------------------------


def test_a_put_is_stored_then_published(tmp_path: Path) -> None:
    async def main() -> None:
        store = Store.open(tmp_path)
        before_ms = time.time_ns() // 1_000_000
        store.put([event(1), event(2, severity=Severity.FATAL)])
        items = await published(store, 2)
        assert [one.event.id for one in items] == ["ev_1", "ev_2"]
        assert all(one.stored for one in items)
        assert json.loads(items[0].json)["stored"] is True
        assert json.loads(items[0].json)["cursor"] == items[0].cursor
        assert before_ms - 1000 <= items[0].cursor < items[1].cursor
        assert kept_numbers(tmp_path) == ["ev_1", "ev_2"]
        assert store.health().to_dict()["state"] == "ok"
        await store.close()

    in_loop(main)


def test_a_start_goes_on_where_the_last_run_ended(tmp_path: Path) -> None:
    async def first() -> int:
        store = Store.open(tmp_path)
        assert (store.resume, store.faults, store.context) == (None, {}, None)
        store.put([event(1)], StateChange({"a": "1", "b": "2"}, (), '{"c": 1}'), ResumePoint("boot", 7))
        store.put([], StateChange(dropped=["a"]))
        store.put([revised(event(1))], NO_CHANGE, ResumePoint("boot", 9))
        await store.close()
        return store.stream.newest

    async def second(newest: int) -> None:
        store = Store.open(tmp_path)
        assert (store.resume, store.faults, store.context) == (ResumePoint("boot", 9), {"b": "2"}, '{"c": 1}')
        assert [(one.event.revision, one.cursor) for one in await items_of(store)] == [(2, newest)]
        assert store.stream.newest == newest
        store.put([event(2)])
        assert (await published(store, 2))[1].cursor > newest
        await store.close()

    newest = in_loop(first)
    in_loop(lambda: second(newest))


def test_cursors_grow_although_the_clock_went_back_and_the_journal_was_lost(tmp_path: Path) -> None:
    future = int(time.time() * 1000) + 10**9
    with closing(Journal.open(tmp_path)) as opened:
        opened.commit(Change([Item.of(future, event(1), stored=True)]))

    async def next_cursor() -> int:
        store = Store.open(tmp_path)
        store.put([event(2)])
        await store.stream.wait_beyond(future if (tmp_path / FILE_NAME).stat().st_size > 4096 else 0)
        await store.close()
        return store.stream.newest

    assert in_loop(next_cursor) == future + 1

    async def fresh() -> int:
        store = Store.open(tmp_path / "lost")
        store.put([event(2)])
        await published(store, 1)
        await store.close()
        return store.stream.newest

    before_ms = time.time_ns() // 1_000_000
    assert in_loop(fresh) >= before_ms


def test_many_puts_come_out_in_order_and_compacted(tmp_path: Path) -> None:
    async def main() -> None:
        store = Store.open(tmp_path, ring_size=100)
        cursors: list[int] = []

        async def read() -> None:
            async for one in follow(store.stream, 0):
                assert isinstance(one, Item)
                cursors.append(one.cursor)

        reading = asyncio.create_task(read())
        for turn in range(200):
            store.put([event(number, revision=turn + 1) for number in range(turn % 7, turn % 7 + 5)])
            if turn % 10 == 0:
                await asyncio.sleep(0)
        await until(lambda: cursors and cursors[-1] == store.stream.newest and store.health().unstored == 0)
        assert cursors == sorted(set(cursors))
        assert len(await items_of(store)) == 11
        await store.close()
        await reading
        with journal.read_only(tmp_path) as reader:
            assert len(reader.page(0, 1000).items) == 11

    in_loop(main)


def test_more_events_in_one_put_than_the_ring_holds_are_all_kept(tmp_path: Path) -> None:
    async def main() -> None:
        store = Store.open(tmp_path, ring_size=10)
        store.put([event(number) for number in range(6000)])
        await until(lambda: store.health().unstored == 0)
        count = 0
        since = 0
        while (page := await store.stream.page(since, 1000)).items:
            count += len(page.items)
            since = page.next_cursor
        assert count == 6000
        assert store.health().lost == 0
        await store.close()

    in_loop(main)


def test_retention_reaches_memory_too(tmp_path: Path) -> None:
    async def main() -> None:
        store = Store.open(tmp_path, retention=Retention(age_s=1))
        store.put([event(1), event(2)])
        first = (await published(store, 2))[0].cursor
        await until(lambda: store.stream.oldest == 0)
        page = await store.stream.page(first - 1)
        assert page.items == []
        assert page.missed == Missed(first, first + 1)
        assert page.newest_cursor == first + 1
        await store.close()

    in_loop(main)


def test_without_a_journal_events_are_in_memory_only() -> None:
    async def main() -> None:
        store = Store.in_memory(ring_size=40)
        store.put([event(number) for number in range(100)])
        items = await items_of(store)
        assert len(items) == 40
        assert not items[0].stored
        assert (await store.stream.page(items[0].cursor - 10)).missed == Missed(
            items[0].cursor - 9, items[0].cursor - 1
        )
        assert store.health().state is JournalState.OFF
        await store.close()

    in_loop(main)


# -- a disk that does not --------------------------------------------------------------------------


def test_a_hanging_commit_does_not_hold_back_the_push(tmp_path: Path) -> None:
    async def main() -> None:
        store = Store.open(tmp_path)
        store.put([event(0)])
        await published(store, 1)
        with closing(sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")  # the writer waits for this lock as it would for a disk
            store.put([event(1)])
            items = await published(store, 2)
            assert [one.stored for one in items] == [True, False]
            assert json.loads(items[1].json)["stored"] is False
            health = store.health()
            assert (health.state, health.unstored, health.late) == (JournalState.SLOW, 1, 1)
            assert health.reason
            store.put([event(2)])  # while it is slow, nothing waits
            assert [one.event.id for one in await items_of(store)] == ["ev_0", "ev_1", "ev_2"]
            assert kept_numbers(tmp_path) == ["ev_0"]
        await until(lambda: store.health().unstored == 0)
        now = await items_of(store)
        assert [one.cursor for one in now[:2]] == [one.cursor for one in items]
        assert [one.event.revision for one in now] == [1, 1, 1]
        assert all(one.stored for one in now)
        assert kept_numbers(tmp_path) == ["ev_0", "ev_1", "ev_2"]
        assert store.health().state is JournalState.OK
        await store.close()

    in_loop(main)


def test_closing_gives_a_disk_up_that_hangs_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(Journal, "commit", lambda self, change: release.wait())
    monkeypatch.setattr("daemon.commits.CLOSE_S", 0.05)

    async def main() -> None:
        store = Store.open(tmp_path)
        store.put([event(1)])
        await published(store, 1)
        await store.close()
        assert store.stream.closed

    in_loop(main)
    release.set()


@contextmanager
def small_disk(path: Path, kib: int) -> Iterator[Path]:
    """A file system of its own, of this size."""
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"cannot mount a small file system: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill(disk: Path) -> Path:
    """Take all the space that is left."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(b"\0" * 4096):
                pass
        except OSError:
            return filler
    raise AssertionError("the disk never became full")


def test_a_full_disk_is_a_state_and_ends_when_there_is_room(tmp_path: Path) -> None:
    async def main(disk: Path) -> None:
        store = Store.open(disk)
        store.put([event(0)], NO_CHANGE, ResumePoint("boot", 1))
        await published(store, 1)
        filler = fill(disk)
        for number in range(1, 101):
            store.put([event(number)], StateChange({"fault": str(number)}), ResumePoint("boot", number))
            await asyncio.sleep(0)
        items = await published(store, 101)
        await until(lambda: store.health().state is JournalState.FAILING)
        health = store.health()
        assert "full" in str(health.reason)
        assert health.unstored > 0
        assert not items[-1].stored
        filler.unlink()
        await until(lambda: store.health().unstored == 0)
        assert all(one.stored for one in await items_of(store))
        assert store.health().state is JournalState.OK
        assert store.health().last_error is not None
        await store.close()
        assert len(kept_numbers(disk)) == 101
        again = Store.open(disk)
        assert (again.resume, again.faults) == (ResumePoint("boot", 100), {"fault": "100"})
        await again.close()

    with small_disk(tmp_path / "disk", 4096) as disk:
        in_loop(lambda: main(disk))


def test_a_start_on_a_full_disk_pushes_and_stores_later(tmp_path: Path) -> None:
    async def main(disk: Path) -> None:
        store = Store.open(disk)
        store.put([event(0)], StateChange({"old": "1"}))
        await store.close()
        filler = fill(disk)
        store = Store.open(disk)
        assert store.health().state is JournalState.FAILING
        store.put([event(1)], StateChange({"new": "1"}))
        assert [one.stored for one in await items_of(store)] == [False]
        filler.unlink()
        await until(lambda: store.health().state is JournalState.OK)
        assert [one.event.id for one in await items_of(store)] == ["ev_0", "ev_1"]
        await store.close()
        store = Store.open(disk)
        assert store.faults == {"new": "1"}
        await store.close()

    with small_disk(tmp_path / "disk", 1024) as disk:
        in_loop(lambda: main(disk))


def test_a_disk_that_becomes_read_only_is_a_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[sqlite3.Connection] = []
    opening = Journal.__init__

    def remember(self: Journal, connection: sqlite3.Connection, *rest: object) -> None:
        prepared.append(connection)
        opening(self, connection, *rest)  # type: ignore[arg-type]  # passed through

    monkeypatch.setattr(Journal, "__init__", remember)

    async def main() -> None:
        store = Store.open(tmp_path)
        store.put([event(0)])
        await published(store, 1)
        # The kernel refuses to remount a disk that is being written; SQLite gives the same answer then.
        prepared[0].execute("PRAGMA query_only = ON")
        store.put([event(1)])
        await until(lambda: store.health().state is JournalState.FAILING)
        assert [one.stored for one in await items_of(store)] == [True, False]
        assert "readonly" in str(store.health().reason)
        prepared[0].execute("PRAGMA query_only = OFF")
        await until(lambda: store.health().state is JournalState.OK)
        assert all(one.stored for one in await items_of(store))
        await store.close()

    in_loop(main)


def test_a_disk_that_is_only_slow_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.store.UNSTORED_ITEMS", 50)
    monkeypatch.setattr("daemon.commits.LATE_S", 0)

    async def main() -> None:
        store = Store.open(tmp_path, ring_size=50)
        for number in range(500):
            store.put([event(number)])
            await asyncio.sleep(0)
        await until(lambda: store.health().unstored == 0)
        health = store.health()
        assert health.late > 0
        assert health.lost == 0
        page = await store.stream.page(0, 1000)
        assert [one.event.id for one in page.items] == [f"ev_{number}" for number in range(500)]
        assert all(one.stored for one in page.items)
        await store.close()

    in_loop(main)


def test_what_waits_too_long_is_dropped_oldest_first_and_readers_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.store.UNSTORED_ITEMS", 50)
    monkeypatch.setattr("daemon.commits.STUCK_S", 0)

    async def main() -> None:
        store = Store.open(tmp_path, ring_size=50)
        with closing(sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            store.put([event(0, device=1)])
            await published(store, 1)
            first = store.stream.newest
            for number in range(1, 201):
                store.put([event(number)])
            health = store.health()
            assert (health.unstored, health.lost) == (50, 151)
            page = await store.stream.page(first, 1000)
            assert len(page.items) == 49, "the last of the other device is kept, too"
            assert page.missed == Missed(first + 1, first + 151)
        await until(lambda: store.health().unstored == 0)
        await store.close()
        with journal.read_only(tmp_path) as reader:
            assert reader.page(first).missed == Missed(first + 1, first + 151)
            assert len(reader.page(0).items) == 50

    in_loop(main)


def test_a_journal_that_breaks_while_running_is_replaced_by_what_memory_holds(tmp_path: Path) -> None:
    async def main() -> None:
        store = Store.open(tmp_path, ring_size=40)
        store.put(
            [event(number) for number in range(100)], StateChange({"key": "state"}), ResumePoint("boot", 5)
        )
        await until(lambda: store.health().unstored == 0)
        gone = store.stream.newest - 40
        break_pages(tmp_path)
        with pytest.raises(UserError, match="cannot be read"):
            await store.stream.page(0)
        await until(lambda: store.health().notes and store.health().unstored == 0)
        assert store.health().state is JournalState.OK
        page = await store.stream.page(gone - 5, 1000)
        assert page.missed == Missed(gone - 4, gone)
        await store.close()
        store = Store.open(tmp_path)
        assert (store.faults, store.resume) == ({"key": "state"}, ResumePoint("boot", 5))
        assert len(await items_of(store)) >= 40
        await store.close()

    def break_pages(state_dir: Path) -> None:
        """Overwrite the pages of the file and of the WAL, as a dying disk would."""
        for name in (FILE_NAME, f"{FILE_NAME}-wal"):
            path = state_dir / name
            size = path.stat().st_size
            with path.open("r+b") as file:
                for offset in range(4096 if name == FILE_NAME else 32, size, 512):
                    file.seek(offset)
                    file.write(b"\xa5" * 256)

    in_loop(main)
    assert list(tmp_path.glob(f"{FILE_NAME}.broken-*"))


def test_a_commit_that_finds_the_journal_broken_goes_into_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = Journal.commit
    broken: list[Journal] = []

    def commit(self: Journal, change: Change) -> None:
        if not broken:
            broken.append(self)
        if self is broken[0]:
            error = sqlite3.DatabaseError("database disk image is malformed")
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error
        sound(self, change)

    async def main() -> None:
        store = Store.open(tmp_path)
        store.put([event(0)], StateChange({"key": "state"}), ResumePoint("boot", 3))
        await published(store, 1)
        await until(lambda: store.health().state is JournalState.OK and store.health().unstored == 0)
        assert [one.stored for one in await items_of(store)] == [True]
        assert len(store.health().notes) == 1
        monkeypatch.undo()
        await store.close()
        assert kept_numbers(tmp_path) == ["ev_0"]

    monkeypatch.setattr(Journal, "commit", commit)
    in_loop(main)


def test_damage_in_a_file_too_large_to_check_is_found_when_the_ring_is_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.journal_file.QUICK_CHECK_BYTES", 0)
    with closing(Journal.open(tmp_path)) as opened:
        opened.commit(Change([Item.of(number, event(number), stored=True) for number in range(1, 2000)]))
    path = tmp_path / FILE_NAME
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xa5" * (size // 2))

    async def main() -> None:
        store = Store.open(tmp_path)
        assert len(store.health().notes) == 1
        assert store.health().state is JournalState.OK
        assert (await store.stream.page(1000)).missed is not None
        store.put([event(1)])
        assert len(await published(store, 1)) == 1
        await store.close()

    in_loop(main)


def test_a_newer_schema_is_the_users_business(tmp_path: Path) -> None:
    Journal.open(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as db:
        db.execute("PRAGMA user_version = 9")

    async def main() -> None:
        with pytest.raises(UserError, match="newer"):
            Store.open(tmp_path)

    in_loop(main)


# -- kill -9 ---------------------------------------------------------------------------------------

RUN = """
import asyncio, sys
from pathlib import Path
from daemon.event import Item
from daemon.store import NO_CHANGE, Store
from probes.line import ResumePoint
from tests.daemon.stored import event

async def main():
    store = Store.open(Path(sys.argv[1]), ring_size=20)
    seq = store.resume.seq if store.resume else 0
    async def put():
        nonlocal seq
        while True:
            for _ in range(seq % 5 + 1):
                seq += 1
                store.put([event(seq % 60, revision=seq)], NO_CHANGE, ResumePoint("boot", seq))
            await asyncio.sleep(0)
    putting = asyncio.create_task(put())
    async for item in follow(store.stream, None):
        print(item.cursor, item.event.id, item.event.revision, item.stored, flush=True)
asyncio.run(main())
"""


def test_whatever_was_pushed_as_stored_survives_kill_9(tmp_path: Path) -> None:
    pushed: list[tuple[int, str, int]] = []
    for lines in (5, 300, 60, 1000):
        with subprocess.Popen(
            [sys.executable, "-c", RUN, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            seen = [process.stdout.readline() for _ in range(lines)]
            os.kill(process.pid, signal.SIGKILL)
            seen += process.stdout.read().splitlines(keepends=True)
        for line in seen:
            if line.endswith("\n"):
                fields = line.split()
                if fields[3] == "True":
                    pushed.append((int(fields[0]), fields[1], int(fields[2])))
        with journal.read_only(tmp_path) as reader:
            rows = reader.page(0, 1000).items
        assert [cursor for cursor, _, _ in pushed] == sorted({cursor for cursor, _, _ in pushed})
        kept: dict[str, Event] = {one.event.id: one.event for one in rows}
        assert len(kept) == len(rows), "no event is doubled"
        for _, event_id, revision in pushed:
            assert kept[event_id].revision >= revision
