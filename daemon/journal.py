"""The journal: what is kept on disk, in one SQLite file of the state directory.

Contract:

* One transaction writes a whole `Change`: events (one row each, at the cursor of the newest revision),
  open-fault rows, context and resume point. After kill -9 all of it is there or none.
* WAL with synchronous=NORMAL: a commit survives the death of the process, not of the kernel. `sync`
  makes it survive that, too.
* A file that is no journal any more is set aside under another name, with what SQLite keeps beside it, and
  a new one is started. A file of a newer schema is refused and left as it is.
* A file that was deleted or replaced while it is open is noticed (`is_in_place`): SQLite would go on
  writing where nobody finds it.
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
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Self

from daemon.event import Event, Item, Severity
from daemon.filter import uuid_key
from daemon.journal_file import (
    FILE_NAME,
    checked,
    connect,
    identity,
    is_broken,
    open_writing,
    reading_mode,
    set_aside,
)
from daemon.page import NOTHING_KEPT, Marks
from daemon.reader import Reader, Saved
from daemon.ring import ReserveKey, by_device
from daemon.state_dir import is_read_only, make_state_dir
from probes.errors import UserError
from probes.line import ResumePoint

__all__ = ["FILE_NAME", "Change", "Journal", "Saved", "open_reader", "read_only"]

CHECKPOINT_BYTES = 4 * 1024 * 1024
"""The WAL is copied into the file when about this much was written, never inside a commit."""

_COLUMNS = 11
_BOUND_ROWS = 8
"""Rows of a table that are bound one by one: more than a line of the log mostly changes."""
_PUT_ITEM_ARRAY = "INSERT OR REPLACE INTO items SELECT {} FROM json_each(?)".format(  # noqa: S608  (no input)
    ", ".join(f"json_extract(value, '$[{column}]')" for column in range(_COLUMNS))
)
_UPDATES_STATE = " ON CONFLICT (key) DO UPDATE SET state = excluded.state"
# Without the WHERE the parser takes ON for the beginning of a join.
_PUT_FAULT_OBJECT = f"INSERT INTO faults SELECT key, value FROM json_each(?) WHERE true{_UPDATES_STATE}"  # noqa: S608  (no input)
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
        self.reaches = NOTHING_KEPT
        """How far the kept items reached with the last commit."""
        self.written_bytes = 0
        """About how much was written to the WAL since open."""
        self._checkpoint_at = 0
        self._identity = identity(path)

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

    def is_in_place(self) -> bool:
        """False when another file, or none, has the name of this one or of its WAL by now. Raises OSError."""
        return identity(self.path) == self._identity

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
        event loop keeps it for a whole switch interval. A few rows, the usual case, are bound directly;
        many come as one JSON text, which SQLite has to take apart again.
        """
        now_ms = time.time_ns() // 1_000_000
        rows = [_row(item, self._reserve_key(item.event), now_ms) for item in change.items]
        faults = {key: state for key, state in change.faults.items() if state is not None}
        dropped = [key for key, state in change.faults.items() if state is None]
        resume = change.resume
        with self.transaction() as db:
            if change.first_cursor:
                self._begin_run(change.first_cursor)
            if rows:
                db.execute(*_put_items(rows))
            if faults:
                db.execute(*_put_faults(faults))
            if dropped:
                db.execute(_DROP_FAULTS, (json.dumps(dropped),))
            if change.context is not None:
                db.execute(_PUT_META, ("context", change.context))
            if resume is not None:
                db.execute(_PUT_META, ("resume", json.dumps([resume.boot_id, resume.seq])))
            self.raise_deleted_through(change.deleted_through, kept_ms=now_ms)
            reaches = self.marks()  # within the transaction: no lock is taken for it
        self.reaches = reaches
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

    def fold(self) -> None:
        """Copy all of the WAL into the file. Waits for readers; raises sqlite3.Error."""
        self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

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


_Row = tuple[int | str | None, ...]


def _put_items(rows: Sequence[_Row]) -> tuple[str, Sequence[object]]:
    """The statement, and what is bound to it."""
    if len(rows) > _BOUND_ROWS:
        return _PUT_ITEM_ARRAY, (json.dumps(rows),)
    return f"INSERT OR REPLACE INTO items VALUES {_places(len(rows), _COLUMNS)}", [*chain(*rows)]  # noqa: S608  (no input)


def _put_faults(faults: Mapping[str, str]) -> tuple[str, Sequence[object]]:
    """The statement, and what is bound to it."""
    if len(faults) > _BOUND_ROWS:
        return _PUT_FAULT_OBJECT, (json.dumps(faults),)
    rows = _places(len(faults), 2)
    return f"INSERT INTO faults VALUES {rows}{_UPDATES_STATE}", [*chain(*faults.items())]  # noqa: S608  (no input)


@lru_cache
def _places(rows: int, columns: int) -> str:
    """`(?, ?), (?, ?)`: few different ones, so that SQLite's statements are prepared once."""
    return ", ".join([f"({', '.join('?' * columns)})"] * rows)


def _row(item: Item, reserve: str, now_ms: int) -> _Row:
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
