"""Tests of the journal on real files: what is kept, read, set aside, refused, and deleted."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from daemon import journal
from daemon.event import Item, Kind, Severity
from daemon.filter import EVERYTHING, EventFilter
from daemon.journal import Change, Journal
from daemon.journal_file import FILE_NAME
from daemon.page import Missed
from daemon.reader import Reader
from daemon.retention import Retention
from daemon.ring import by_device
from daemon.writer import Writer
from probes.errors import UserError
from probes.line import ResumePoint
from tests.daemon.stored import event, item

ROOT = Path(__file__).parents[2]
FOREVER = 1e12


def cursors_of(state_dir: Path) -> list[int]:
    with journal.read_only(state_dir) as reader:
        return [one.cursor for one in reader.page(0, 1000).items]


def keep(state_dir: Path, change: Change) -> None:
    with closing(Journal.open(state_dir)) as opened:
        opened.commit(change)


def test_a_new_journal_is_empty(tmp_path: Path) -> None:
    with closing(Journal.open(tmp_path)) as opened:
        assert opened.saved() == journal.Saved(None, {}, None)
        marks = opened.marks()
        assert (marks.oldest, marks.newest, marks.deleted_through) == (0, 0, 0)
        assert opened.note is None


def test_everything_of_a_change_is_there_after_a_restart(tmp_path: Path) -> None:
    first = item(10, severity=Severity.FATAL)
    change = Change((first, item(11)), {"a": "1", "b": "2"}, '{"map": {}}', ResumePoint("boot", 360))
    keep(tmp_path, change)
    keep(tmp_path, Change(faults={"a": None, "c": "3"}))
    with closing(Journal.open(tmp_path)) as opened:
        assert opened.saved() == journal.Saved(ResumePoint("boot", 360), {"b": "2", "c": "3"}, '{"map": {}}')
        assert opened.newest_items(10) == [first, item(11)]
        assert opened.newest_items(10)[0].json == first.json


def test_an_event_has_one_row_at_its_newest_cursor(tmp_path: Path) -> None:
    keep(tmp_path, Change((item(10, 7), item(11, 8))))
    keep(tmp_path, Change((item(12, 7, revision=2),)))
    assert cursors_of(tmp_path) == [11, 12]


def test_a_change_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with closing(Journal.open(tmp_path)) as opened:
        opened.db.execute("CREATE TRIGGER no BEFORE INSERT ON faults BEGIN SELECT RAISE(ABORT, 'no'); END")
        with pytest.raises(sqlite3.IntegrityError):
            opened.commit(Change((item(10),), {"key": "state"}))
        opened.commit(Change((item(11),)))
    assert cursors_of(tmp_path) == [11]


def test_the_wal_is_synced_on_demand(tmp_path: Path) -> None:
    with closing(Journal.open(tmp_path)) as opened:
        opened.commit(Change((item(10, severity=Severity.CRITICAL),)))
        opened.sync()
        assert Change((item(10, severity=Severity.CRITICAL),)).is_severe
        assert not Change((item(10, severity=Severity.WARNING),)).is_severe


def test_the_wal_is_folded_into_the_file_as_it_grows(tmp_path: Path) -> None:
    with closing(Journal.open(tmp_path)) as opened:
        for cursor in range(1, 2001):
            opened.commit(Change((item(cursor, cursor % 50),)))
            opened.checkpoint_if_due()
        assert (tmp_path / f"{FILE_NAME}-wal").stat().st_size < 4 * journal.CHECKPOINT_BYTES


# -- what cannot be opened -----------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"not a database at all" * 500, b"SQLite format 3\0" + b"\xff" * 8000])
def test_a_file_that_is_no_database_is_set_aside(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with closing(Journal.open(tmp_path)) as opened:
        assert opened.note is not None
        (kept,) = tmp_path.glob(f"{FILE_NAME}.broken-*")
        assert kept.name in opened.note
        assert kept.read_bytes() == content
        opened.commit(Change((item(int(time.time() * 1000) + 10_000),)))
    with closing(Journal.open(tmp_path)) as opened:
        assert opened.note is None


def test_a_damaged_page_is_found_at_open_and_the_wal_is_set_aside_too(tmp_path: Path) -> None:
    keep(tmp_path, Change(tuple(item(cursor) for cursor in range(1, 500))))
    path = tmp_path / FILE_NAME
    content = bytearray(path.read_bytes())
    for page in range(5, len(content) // 4096 - 1):
        content[page * 4096 : page * 4096 + 64] = b"\xa5" * 64
    path.write_bytes(content)
    Path(f"{path}-wal").write_bytes(b"")
    with closing(Journal.open(tmp_path)) as opened:
        assert opened.note is not None
        assert opened.marks().oldest == 0
    assert len(list(tmp_path.glob(f"{FILE_NAME}.broken-*"))) >= 1


def test_a_reader_is_told_that_what_a_broken_journal_held_is_gone(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"x" * 5000)
    before_ms = time.time_ns() // 1_000_000
    with closing(Journal.open(tmp_path)) as opened:
        assert opened.marks().deleted_through >= before_ms
    with journal.read_only(tmp_path) as reader:
        missed = reader.page(before_ms - 1000).missed
        assert missed is not None
        assert missed.first == before_ms - 999


def test_two_broken_files_in_one_second_are_both_kept(tmp_path: Path) -> None:
    for content in (b"first" * 2000, b"second" * 2000):
        (tmp_path / FILE_NAME).write_bytes(content)
        Journal.open(tmp_path).close()
    assert len(list(tmp_path.glob(f"{FILE_NAME}.broken-*"))) == 2


def test_another_programs_database_is_set_aside(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as other:
        other.execute("CREATE TABLE theirs (x)")
    with closing(Journal.open(tmp_path)) as opened:
        assert opened.note is not None


def test_a_file_whose_making_was_cut_short_is_made_whole(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as db:
        db.execute("PRAGMA journal_mode = WAL").fetchall()
    assert (tmp_path / FILE_NAME).stat().st_size > 0
    with closing(Journal.open(tmp_path)) as opened:
        assert opened.note is None
        assert opened.marks().deleted_through == 0


def test_a_newer_schema_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    keep(tmp_path, Change((item(10),)))
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as newer:
        newer.execute("PRAGMA user_version = 99")
    content = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(UserError, match="schema 99") as refused:
        Journal.open(tmp_path)
    assert refused.value.hint
    assert (tmp_path / FILE_NAME).read_bytes() == content
    with pytest.raises(UserError, match="schema 99"):
        journal.read_only(tmp_path)


def test_a_state_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="not a directory"):
        Journal.open(tmp_path / "file")


def test_a_journal_that_is_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(UserError, match="not a file"):
        Journal.open(tmp_path)


def test_a_path_with_odd_characters_works(tmp_path: Path) -> None:
    odd = tmp_path / "a?mode=ro#b %20 ü"
    keep(odd, Change((item(10),)))
    assert cursors_of(odd) == [10]


# -- reading without a daemon ----------------------------------------------------------------------


def test_reading_creates_no_files(tmp_path: Path) -> None:
    keep(tmp_path, Change((item(10),)))
    before = sorted(tmp_path.iterdir())
    assert cursors_of(tmp_path) == [10]
    assert sorted(tmp_path.iterdir()) == before


def test_reading_works_while_another_process_writes(tmp_path: Path) -> None:
    with closing(Journal.open(tmp_path)) as opened:
        opened.commit(Change((item(10),)))
        assert read_elsewhere(tmp_path) == "[10]"
        opened.commit(Change((item(11),)))
        assert read_elsewhere(tmp_path) == "[10, 11]"


def read_elsewhere(state_dir: Path) -> str:
    code = (
        "import sys; from pathlib import Path; from daemon import journal\n"
        "with journal.read_only(Path(sys.argv[1])) as reader:\n"
        "    print([item.cursor for item in reader.page(0).items])\n"
    )
    command = [sys.executable, "-c", code, str(state_dir)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def test_reading_sees_what_a_killed_daemon_left_in_the_wal(tmp_path: Path) -> None:
    opened = Journal.open(tmp_path / "live")
    opened.commit(Change((item(10),)))
    shutil.copytree(tmp_path / "live", tmp_path / "killed")
    opened.close()
    assert cursors_of(tmp_path / "killed") == [10]


def test_a_missing_journal_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no journal"):
        journal.read_only(tmp_path)


def test_a_broken_journal_is_read_as_an_error_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"x" * 5000)
    with pytest.raises(UserError, match="cannot read the journal"):
        journal.read_only(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_pages_without_a_daemon_follow_the_contract(tmp_path: Path) -> None:
    keep(tmp_path, Change(tuple(item(cursor) for cursor in range(1, 21))))
    with journal.read_only(tmp_path) as reader:
        page = reader.page(5, 3)
        assert [one.cursor for one in page.items] == [6, 7, 8]
        assert (page.next_cursor, page.oldest_cursor, page.newest_cursor, page.missed) == (8, 1, 20, None)
        assert [one.cursor for one in reader.page(None, 3).items] == [18, 19, 20]
        assert reader.page(20).next_cursor == 20
        with pytest.raises(UserError, match="newest, 20"):
            reader.page(21)
        with pytest.raises(UserError, match="negative"):
            reader.page(-1)


def test_a_row_that_holds_no_event_is_skipped_and_counted(tmp_path: Path) -> None:
    keep(tmp_path, Change((item(10), item(11), item(12))))
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as db, db:
        db.execute("UPDATE items SET json = '{\"id\": 3}' WHERE cursor = 11")
    with journal.read_only(tmp_path) as reader:
        assert [one.cursor for one in reader.page(0).items] == [10, 12]
        assert reader.unreadable == 1


def test_a_time_is_found_as_a_cursor(tmp_path: Path) -> None:
    before_us = time.time_ns() // 1000
    keep(tmp_path, Change((item(10), item(11))))
    with journal.read_only(tmp_path) as reader:
        assert reader.cursor_before(before_us) == 9
        assert reader.cursor_before(before_us + 3_600_000_000) == 11


FILTERS = [
    EVERYTHING,
    EventFilter.parse("critical"),
    EventFilter.parse(code=["79,13"]),
    EventFilter.parse(kind=["gap"]),
    EventFilter.parse(gpu=["2"]),
    EventFilter.parse(gpu=["0000:01:00.0", "2"]),
    EventFilter.parse(gpu=["GPU-00000003"]),
    EventFilter.parse("warning", ["31"], ["xid"], ["0", "1"]),
    EventFilter.parse("critical", kind=["gap"], gpu=["2"]),
    EventFilter.parse("fatal", kind=["gap", "xid"]),
]


@pytest.mark.parametrize("match", FILTERS)
def test_the_journal_filters_exactly_as_memory_does(tmp_path: Path, match: EventFilter) -> None:
    events = [
        replace(event(number, device=(None, 1, 2, 3)[number % 4], severity=severity, code=code), kind=kind)
        for number, (severity, code, kind) in enumerate(
            (severity, code, kind)
            for severity in Severity
            for code in (13, 31, 79)
            for kind in (Kind.XID, Kind.GAP)
        )
    ]
    items = [replace(item(number + 1), event=one) for number, one in enumerate(events)]
    items = [type(one).of(one.cursor, one.event, stored=True) for one in items]
    keep(tmp_path, Change(items))
    with journal.read_only(tmp_path) as reader:
        assert reader.page(0, 1000, match).items == [one for one in items if match.matches(one.event)]
        assert reader.page(0, 1000, match).next_cursor == len(items)


def test_a_journal_that_is_moved_away_has_all_that_was_committed(tmp_path: Path) -> None:
    state_dir, elsewhere = tmp_path / "state", tmp_path / "elsewhere"
    opened = Journal.open(state_dir)
    opened.commit(Change((item(1),)))
    elsewhere.mkdir()
    (state_dir / FILE_NAME).rename(elsewhere / FILE_NAME)
    writer = Writer(state_dir, opened, Retention(), by_device, unread=False)
    assert "deleted or replaced" in (writer.write(Change((item(2),))).note or "")
    writer.close()
    assert cursors_of(elsewhere) == [1]


def steps_of(state_dir: Path, match: EventFilter) -> int:
    """What a question costs: instructions of SQLite's machine, in hundreds."""
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    with closing(Journal.open(state_dir)) as opened:
        opened.db.set_progress_handler(count, 100)
        Reader(opened.db).last(10, match)
    return steps


@pytest.mark.parametrize("match", [EventFilter.parse("critical"), EventFilter.parse(kind=["incident"])])
def test_a_question_for_few_items_does_not_read_the_others(tmp_path: Path, match: EventFilter) -> None:
    few = event(1, severity=Severity.FATAL), replace(event(2), kind=Kind.INCIDENT)
    keep(tmp_path, Change([Item.of(each, of, stored=True) for each, of in enumerate(few, 1)]))
    before = steps_of(tmp_path, match)
    keep(tmp_path, Change([item(cursor) for cursor in range(3, 2_003)]))
    assert steps_of(tmp_path, match) <= before + 1
    assert steps_of(tmp_path, EventFilter.parse(code=["1"])) > before + 20  # the measure does measure


def test_looking_for_aged_items_does_not_read_the_others(tmp_path: Path) -> None:
    with closing(Journal.open(tmp_path)) as opened:
        opened.commit(Change([item(cursor) for cursor in range(1, 2_001)]))
        steps: list[None] = []
        opened.db.set_progress_handler(lambda: steps.append(None), 100)
        assert Retention(age_s=3600).delete_aged(opened) == []
    assert len(steps) <= 1


def test_an_item_kept_while_the_clock_stood_in_1970_does_not_look_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cursor = time.time_ns() // 1_000_000
    with closing(Journal.open(tmp_path)) as opened:
        monkeypatch.setattr(time, "time_ns", lambda: 0)
        opened.commit(Change((item(cursor),)))
        monkeypatch.undo()
        assert Retention(age_s=3600).delete_aged(opened) == []


# -- retention -------------------------------------------------------------------------------------


def test_aged_items_are_deleted_and_readers_are_told(tmp_path: Path) -> None:
    with closing(Journal.open(tmp_path)) as opened:
        opened.commit(Change(tuple(item(cursor) for cursor in range(1, 601))))
        assert Retention(age_s=3600).delete_aged(opened) == []
        deleted: list[int] = []
        while cursors := Retention(age_s=-10).delete_aged(opened):
            assert len(cursors) <= 256
            deleted += cursors
        assert deleted == list(range(1, 601))
        assert (opened.marks().oldest, opened.marks().newest) == (0, 600)
    with journal.read_only(tmp_path) as reader:
        assert reader.page(10).missed == Missed(11, 600)
        assert reader.page(0).missed is None
        assert reader.page(600).missed is None


def test_a_file_that_is_too_large_loses_its_oldest_items_but_no_devices_last(tmp_path: Path) -> None:
    retention = Retention(size_bytes=1024 * 1024, age_s=FOREVER)
    with closing(Journal.open(tmp_path)) as opened:
        opened.commit(Change(tuple(item(cursor, device=1) for cursor in range(1, 51))))
        for start in range(51, 4051, 100):
            opened.commit(Change(tuple(item(cursor, device=2) for cursor in range(start, start + 100))))
            opened.checkpoint_if_due()
            while retention.delete_excess(opened):
                pass
        assert [one.cursor for one in opened.newest_items(5000)][:32] == list(range(19, 51))
        assert opened.marks().newest == 4050
    assert (tmp_path / FILE_NAME).stat().st_size < 1_500_000


def test_deleting_most_of_a_large_file_gives_its_pages_back(tmp_path: Path) -> None:
    with closing(Journal.open(tmp_path)) as opened:
        for start in range(1, 6001, 1000):
            opened.commit(Change(tuple(item(cursor) for cursor in range(start, start + 1000))))
        while Retention(age_s=-10).delete_aged(opened):
            pass
        for _ in range(100):
            Retention(age_s=FOREVER).delete_excess(opened)
    assert (tmp_path / FILE_NAME).stat().st_size < 3_000_000


def test_superseded_revisions_are_not_missed(tmp_path: Path) -> None:
    keep(tmp_path, Change((item(10, 7),)))
    keep(tmp_path, Change((item(12, 7, revision=2),)))
    with journal.read_only(tmp_path) as reader:
        page = reader.page(5)
        assert [one.cursor for one in page.items] == [12]
        assert page.missed is None


# -- kill -9 ---------------------------------------------------------------------------------------

WRITE = """
import sys
from pathlib import Path
from daemon.journal import Change, Journal
from probes.line import ResumePoint
from tests.daemon.stored import item
journal = Journal.open(Path(sys.argv[1]))
cursor = journal.marks().newest
saved = journal.saved()
assert (saved.resume.seq if saved.resume else 0) == cursor, "state and events are of one transaction"
while True:
    cursor += 1
    journal.commit(Change((item(cursor, cursor % 40, revision=cursor),), {"k": str(cursor)}, None,
                          ResumePoint("boot", cursor)))
    journal.checkpoint_if_due()
    print(cursor, flush=True)
"""


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    acknowledged = 0
    for lines in (1, 200, 37, 900):
        with subprocess.Popen(
            [sys.executable, "-c", WRITE, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            for _ in range(lines):
                acknowledged = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            acknowledged = int(([str(acknowledged), *writer.stdout.read().split()])[-1])
        with closing(Journal.open(tmp_path)) as opened:
            newest, saved = opened.marks().newest, opened.saved()
            items = opened.newest_items(1000)
        assert newest >= acknowledged
        assert saved.resume == ResumePoint("boot", newest)
        assert saved.faults == {"k": str(newest)}
        assert [one.cursor for one in items] == list(range(max(1, newest - 39), newest + 1))
        assert len({one.event.id for one in items}) == len(items)


def test_a_time_after_all_that_retention_deleted_misses_nothing(tmp_path: Path) -> None:
    keep(tmp_path, Change((item(10), item(11), item(12))))
    deleted_at_us = time.time_ns() // 1000
    with closing(Journal.open(tmp_path)) as opened:
        Retention(age_s=-1).delete_aged(opened)
        opened.commit(Change((item(13),)))
    with journal.read_only(tmp_path) as reader:
        since = reader.cursor_before(deleted_at_us + 3_600_000_000)
        assert (since, reader.page(since).missed) == (13, None)


def test_a_time_within_what_retention_deleted_misses_it(tmp_path: Path) -> None:
    before_us = time.time_ns() // 1000
    keep(tmp_path, Change((item(10), item(11), item(12))))
    with closing(Journal.open(tmp_path)) as opened:
        Retention(age_s=-1).delete_aged(opened)
        opened.commit(Change((item(13),)))
    with journal.read_only(tmp_path) as reader:
        page = reader.page(reader.cursor_before(before_us))
        assert [one.cursor for one in page.items] == [13]
        assert page.missed is not None
        assert page.missed.last == 12
