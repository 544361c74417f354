"""The journal: what is kept on disk, in one SQLite file of the state directory.

Contract:

* One transaction writes a whole `Change`: events (one row each, at the cursor of the newest revision),
  open-fault rows, context and resume point. After kill -9 all of it is there or none.
* WAL with synchronous=NORMAL: a commit survives the death of the process, not of the kernel. `sync`
  makes it survive that, too.
* A file that is no journal any more is set aside under another name, with its -wal and -shm, and a new
  one is started. A file of a newer schema is refused and left as it is.
* Items that retention deletes are remembered by one cursor, `Marks.deleted_through`.

A `Journal` belongs to one thread at a time (the writer); readers use `read_only`. Errors of the
disk come out as sqlite3.Error or OSError.
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from daemon.event import Event, Item, Severity
from daemon.filter import uuid_key
from daemon.journal_file import (
    FILE_NAME,
    checked,
    connect,
    is_broken,
    open_writing,
    reading_mode,
    set_aside,
)
from daemon.page import Marks
from daemon.reader import Reader, Saved
from daemon.ring import ReserveKey, by_device
from daemon.state_dir import is_read_only, make_state_dir
from probes.errors import UserError
from probes.line import ResumePoint

__all__ = ["FILE_NAME", "Change", "Journal", "Saved", "open_reader", "read_only"]

CHECKPOINT_BYTES = 4 * 1024 * 1024
"""The WAL is copied into the file when about this much was written, never inside a commit."""

_COLUMNS = 11
_PUT_ITEM = f"INSERT OR REPLACE INTO items VALUES ({', '.join('?' * _COLUMNS)})"  # noqa: S608  (no input)
_PUT_ITEMS = "INSERT OR REPLACE INTO items SELECT {} FROM json_each(?)".format(  # noqa: S608  (no input)
    ", ".join(f"json_extract(value, '$[{column}]')" for column in range(_COLUMNS))
)
_PUT_FAULT = "INSERT INTO faults VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET state = excluded.state"
# Without the WHERE the parser takes ON for the beginning of a join.
_PUT_FAULTS = (
    "INSERT INTO faults SELECT key, value FROM json_each(?) WHERE true"
    " ON CONFLICT (key) DO UPDATE SET state = excluded.state"
)
_DROP_FAULTS = "DELETE FROM faults WHERE key IN (SELECT value FROM json_each(?))"
_PUT_META = "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"


@dataclass(frozen=True, slots=True)
class Change:
    """What one transaction writes."""

    items: Sequence[Item] = ()
    """In cursor order, each event once."""
    faults: Mapping[str, str | None] = field(default_factory=dict)
    """Open-fault rows by key; None deletes the row."""
    context: str | None = None
    """None: unchanged."""
    resume: ResumePoint | None = None
    """None: unchanged."""
    deleted_through: int = 0
    """Newest cursor given out whose item had to be dropped before it was stored."""
    first_cursor: int = 0
    """First cursor of the run, told once; 0: unchanged."""

    @property
    def is_severe(self) -> bool:
        """True when it holds news that has to survive the death of the kernel."""
        return any(item.event.severity.rank >= Severity.CRITICAL.rank for item in self.items)


class Journal:
    """The writing side; see the module's docstring. Made by `Journal.open`."""

    def __init__(
        self, connection: sqlite3.Connection, path: Path, reserve_key: ReserveKey, note: str | None
    ) -> None:
        self.db = connection
        self.path = path
        self.note = note
        """What happened at open that people should know: the old file was set aside. None: nothing."""
        self._reserve_key = reserve_key
        self._reader = Reader(connection)
        self._wal: int | None = None
        self.written_bytes = 0
        """About how much was written to the WAL since open."""
        self._checkpoint_at = 0

    @classmethod
    def open(cls, state_dir: Path, *, reserve_key: ReserveKey = by_device) -> Self:
        """Open the journal of a state directory, creating what is missing.

        Raises UserError for a directory that cannot be used and for a newer schema; sqlite3.Error or
        OSError for what a disk does (full, I/O error).
        """
        make_state_dir(state_dir)
        if is_read_only(state_dir):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(state_dir))
        path = state_dir / FILE_NAME
        if path.is_dir() or (path.exists() and not os.access(path, os.R_OK | os.W_OK)):
            raise UserError(
                f"{path} is not a file that can be read and written",
                hint="mend its mode or remove it, or use another --state-dir",
            )
        try:
            return cls(open_writing(path), path, reserve_key, None)
        except sqlite3.Error as error:
            if not is_broken(error, at_open=True):
                raise
            return cls.start_anew(state_dir, str(error), reserve_key=reserve_key)

    @classmethod
    def start_anew(cls, state_dir: Path, reason: str, *, reserve_key: ReserveKey = by_device) -> Self:
        """Set the broken file of a state directory aside and open a new one, with a `note` that says so.
        Raises sqlite3.Error or OSError."""
        path = state_dir / FILE_NAME
        note = set_aside(path, reason)
        journal = cls(open_writing(path), path, reserve_key, note)
        # Cursors grow with time, so all that the broken file held lies below now.
        journal.commit(Change(deleted_through=time.time_ns() // 1_000_000))
        return journal

    def marks(self) -> Marks:
        """How far the kept items reach."""
        return self._reader.marks()

    def newest_items(self, limit: int) -> list[Item]:
        """The newest items, oldest first."""
        return self._reader.last(limit).items

    def saved(self) -> Saved:
        """What the last commit left for the next start."""
        return self._reader.saved()

    def commit(self, change: Change) -> None:
        """Write it all, or nothing and raise.

        Each table takes one statement: every call into SQLite gives the interpreter lock up, and a busy
        event loop keeps it for a whole switch interval. Several rows come as one JSON array; a single
        one, the usual case, is bound directly, which makes the commit a third cheaper.
        """
        now_ms = time.time_ns() // 1_000_000
        rows = [_row(item, self._reserve_key(item.event), now_ms) for item in change.items]
        faults = {key: state for key, state in change.faults.items() if state is not None}
        dropped = [key for key, state in change.faults.items() if state is None]
        resume = change.resume
        with self.transaction() as db:
            if change.first_cursor:
                self._begin_run(change.first_cursor)
            if len(rows) == 1:
                db.execute(_PUT_ITEM, rows[0])
            elif rows:
                db.execute(_PUT_ITEMS, (json.dumps(rows),))
            if len(faults) == 1:
                db.execute(_PUT_FAULT, *faults.items())
            elif faults:
                db.execute(_PUT_FAULTS, (json.dumps(faults),))
            if dropped:
                db.execute(_DROP_FAULTS, (json.dumps(dropped),))
            if change.context is not None:
                db.execute(_PUT_META, ("context", change.context))
            if resume is not None:
                db.execute(_PUT_META, ("resume", json.dumps([resume.boot_id, resume.seq])))
            self.raise_deleted_through(change.deleted_through, kept_ms=now_ms)
        self.written_bytes += 32_768 + sum(len(item.json) for item in change.items)

    def _begin_run(self, first_cursor: int) -> None:
        """Within a transaction: note where the run begins; if nothing is kept, all before it is gone."""
        marks = self.marks()
        self.db.execute(_PUT_META, ("first_cursor", str(first_cursor)))
        if not marks.newest and not marks.born:
            self.db.execute(_PUT_META, ("born", str(first_cursor)))

    def forget_faults(self) -> None:
        """Delete every open-fault row: they belong to a run that another one has overtaken."""
        with self.transaction() as db:
            db.execute("DELETE FROM faults")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction that is committed at the end, or undone when something raises."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield self.db
            self.db.execute("COMMIT")
        except BaseException:
            # After some errors SQLite has rolled back by itself; on a dead disk it cannot.
            with suppress(sqlite3.Error):
                self.db.execute("ROLLBACK")
            raise

    def raise_deleted_through(self, cursor: int, *, kept_ms: int) -> None:
        """Within a transaction: remember that items up to this cursor are gone, and that the newest of them
        was written at `kept_ms`, Unix time in ms."""
        if cursor:
            self.db.executemany(
                "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value ="
                " max(CAST(value AS INTEGER), CAST(excluded.value AS INTEGER))",
                [("deleted_through", str(cursor)), ("deleted_kept_ms", str(kept_ms))],
            )

    def sync(self) -> None:
        """Bring what was committed to the disk itself (fdatasync of the WAL)."""
        if self._wal is None:
            # Not the database file: closing a second descriptor of that would drop SQLite's locks.
            self._wal = os.open(f"{self.path}-wal", os.O_RDONLY | os.O_CLOEXEC)
            _sync_directory(self.path.parent)
        os.fdatasync(self._wal)

    def checkpoint_if_due(self) -> None:
        """Copy the WAL into the file when it has grown; readers and writers are not held up."""
        if self.written_bytes - self._checkpoint_at > CHECKPOINT_BYTES:
            self.db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            self._checkpoint_at = self.written_bytes

    def close(self) -> None:
        """Close the file; the last one to close it folds the WAL into it."""
        if self._wal is not None:
            os.close(self._wal)
            self._wal = None
        self.db.close()


def read_only(state_dir: Path) -> Reader:
    """A reader of a journal that a daemon may be writing; creates no file and takes no lock that could
    hold a daemon up.

    Raises UserError when there is no journal, or none that can be read.
    """
    path = state_dir / FILE_NAME
    try:
        if not path.is_file():
            raise UserError(
                f"there is no journal in {state_dir}", hint="start a daemon, or name its --state-dir"
            )
        return open_reader(state_dir, reading_mode(path))
    except (sqlite3.Error, OSError) as error:
        raise UserError(
            f"cannot read the journal {path}: {error}", hint="read it as root or as the daemon's user"
        ) from None


def open_reader(state_dir: Path, mode: str | None = None) -> Reader:
    """A reader beside the journal that this process has open, or cannot open because its disk is
    read-only. Raises sqlite3.Error, OSError, UserError."""
    path = state_dir / FILE_NAME
    if mode is None:
        mode = reading_mode(path) if is_read_only(state_dir) else "mode=ro"
    return Reader(checked(connect(path, mode), path))


def _row(item: Item, reserve: str, now_ms: int) -> tuple[int | str | None, ...]:
    event: Event = item.event
    gpu = event.gpu
    return (
        item.cursor,
        event.id,
        event.kind,
        event.severity.rank,
        event.code,
        event.device,
        uuid_key(gpu.uuid) if gpu else None,
        gpu.index if gpu else None,
        reserve,
        # A clock that stands in 1970 until NTP sets it must not make the item look old.
        max(now_ms, item.cursor),
        item.json,
    )


def _sync_directory(path: Path) -> None:
    """Make the names of new files last."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
