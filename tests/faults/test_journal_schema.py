"""Journals of earlier versions are read on, and those of newer ones are left alone.

`journals/` holds what earlier versions of the daemon have written, as SQL: the schema's number comes first in
the name of a file. Each was heard from the same records: an Xid 13 of three lines, three times an Xid 31, an
SXid of three lines, an Xid 79 of two.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from daemon.journal_file import FILE_NAME, SCHEMA_VERSION
from tests.support.command import xidwatch
from tests.support.daemon import Daemon, free_port
from tests.support.fault_lab import Happened, fault
from tests.support.kernel_log import FakeKernelLog
from tests.support.readers import everything_kept
from tests.support.status import status
from tests.support.waiting import wait_for

JOURNALS = sorted((Path(__file__).parent / "journals").glob("*.sql"))
HEARD = {("xid", 13): 1, ("xid", 31): 3, ("sxid", 12028): 1, ("xid", 79): 1}
BEFORE_ROWIDS = (
    "CREATE TABLE faults (key TEXT PRIMARY KEY, state TEXT NOT NULL)",
    "CREATE TABLE faults (key TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID",
)
"""The first form of schema 1, which was never given a number of its own."""


def made(state_dir: Path, sql: str) -> Path:
    """The journal that this SQL describes."""
    state_dir.mkdir()
    path = state_dir / FILE_NAME
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL").fetchall()
        db.executescript(sql)
    return path


def without_rowids(sql: str) -> str:
    """The same journal in the first form."""
    assert BEFORE_ROWIDS[0] in sql
    return sql.replace(*BEFORE_ROWIDS)


def rows(path: Path) -> dict[str, tuple[int, int]]:
    """Cursor and revision of each event."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        found = db.execute("SELECT id, cursor, json_extract(json, '$.revision') FROM items")
        return {event_id: (cursor, revision) for event_id, cursor, revision in found}


def schema_of(path: Path) -> int:
    """Its number."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        version: int = db.execute("PRAGMA user_version").fetchone()[0]
        return version


@pytest.fixture
def daemon(tmp_path: Path, kernel_log: FakeKernelLog) -> Iterator[Daemon]:
    """A daemon of this version, not yet started."""
    daemon = Daemon(tmp_path, kmsg=kernel_log.path, flags=["--gpu", "off", "--ebpf", "off"])
    try:
        yield daemon
    finally:
        daemon.stop()
    assert "Traceback" not in daemon.log.read_text()


@pytest.mark.parametrize("is_first_form", [False, True], ids=["", "first form"])
@pytest.mark.parametrize("sql", JOURNALS, ids=lambda path: path.stem)
@fault(
    "an upgrade: the journal was written by an earlier version",
    promise=1,
    promised="every event is there as it was, at its cursor; new ones come behind them",
)
def test_a_journal_of_an_earlier_version_is_read_on(
    daemon: Daemon, kernel_log: FakeKernelLog, sql: Path, is_first_form: bool, happened: Happened
) -> None:
    text = sql.read_text()
    path = made(daemon.state_dir, without_rowids(text) if is_first_form else text)
    written = rows(path)
    daemon.start()
    kept = everything_kept(daemon)
    told = status(daemon)["journal"]
    assert (told["state"], told["notes"]) == ("ok", [])
    counts: Counter[tuple[str, int]] = Counter()
    for item in kept:
        counts[item["kind"], item["code"]] += item["count"]
        cursor, revision = written.pop(item["id"])
        assert (item["cursor"], item["revision"]) >= (cursor, revision)
    assert not written
    assert all(counts[what] == count for what, count in HEARD.items())
    kernel_log.write("NVRM: Xid (PCI:0000:91:00): 43, pid=4194309, name=python3, Ch 00000008")
    wait_for(lambda: any(item["code"] == 43 for item in everything_kept(daemon)), "the next fault")
    assert all(before["cursor"] < after["cursor"] for before, after in pairwise(everything_kept(daemon)))
    daemon.stop()
    assert schema_of(path) == SCHEMA_VERSION
    happened(f"{len(kept)} events of schema {sql.stem.partition('-')[0]}: all there, each at its cursor")


@fault(
    "a downgrade: the journal was written by a newer version",
    promise=1,
    promised="refused in one sentence, and the file is left as it is, byte for byte",
)
def test_a_journal_of_a_newer_version_is_refused_and_left_as_it_is(
    tmp_path: Path, kernel_log: FakeKernelLog, happened: Happened
) -> None:
    newer = SCHEMA_VERSION + 1
    sql = f"{JOURNALS[-1].read_text()}\nCREATE TABLE added (x);\nPRAGMA user_version = {newer};"
    path = made(tmp_path / "state", sql)
    before = path.read_bytes()
    refused = xidwatch(
        *("serve", "--listen", f"127.0.0.1:{free_port()}", "--socket", str(tmp_path / "s")),
        *("--state-dir", str(path.parent), "--kmsg", str(kernel_log.path)),
    )
    read = xidwatch("tail", "--json", "--state-dir", str(path.parent), "--since", "0")
    for result in (refused, read):
        assert result.code == 2
        assert "Traceback" not in result.err
        [sentence] = [line for line in result.err.splitlines() if line.startswith("xidwatch: ")]
        assert f"newer xidwatch (schema {newer}; this one knows {SCHEMA_VERSION})" in sentence
        assert result.err.splitlines()[-1].startswith("hint: ")
    assert path.read_bytes() == before
    # A reader of WAL files makes these two; they are to hold nothing.
    beside = {FILE_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}-shm", "lock"}
    assert {found.name for found in path.parent.iterdir()} <= beside
    wal = Path(f"{path}-wal")
    assert not wal.exists() or not wal.stat().st_size
    happened(f"“{sentence.removeprefix('xidwatch: ').replace(str(path), 'journal')}”; the file is unchanged")
