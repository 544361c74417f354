"""The journal's file: its schema, opening it to write or to read, and telling when it is broken."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path

from probes.errors import UserError

FILE_NAME = "journal.sqlite3"
SCHEMA_VERSION = 2

QUICK_CHECK_BYTES = 64 * 1024 * 1024
"""Files up to this size are checked whole at open (about 0.2 s); a larger one shows its damage in use."""
BUSY_TIMEOUT_S = 2.0
"""How long a commit waits for a foreign process that holds the write lock."""

WAL_BYTES = 16 * 1024 * 1024
"""The WAL is cut back to this size when it has been folded into the file."""

_SUFFIXES = ("", "-wal", "-shm", "-journal")

_log = logging.getLogger(__name__)

# The same for few of many items: what is asked for when things are bad, and what is no fault itself.
_INDICES_OF_FEW = """
CREATE INDEX items_severe ON items (cursor, severity, kind, code, device, gpu_uuid, gpu_index)
  WHERE severity >= 2;
CREATE INDEX items_uncommon ON items (cursor, severity, kind, code, device, gpu_uuid, gpu_index)
  WHERE kind NOT IN ('xid', 'sxid');
CREATE INDEX items_kept ON items (kept_ms);
"""

# items_look holds every column a filter asks for, in cursor order: a search reads it, not the rows.
_SCHEMA = f"""
CREATE TABLE items (
  cursor INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  kind TEXT NOT NULL,
  severity INTEGER NOT NULL,  -- 0 info .. 3 fatal
  code INTEGER,
  device TEXT,                -- PCI address
  gpu_uuid TEXT,              -- lower case, without GPU-
  gpu_index INTEGER,
  reserve TEXT NOT NULL,      -- whose reserve it counts against
  kept_ms INTEGER NOT NULL,   -- Unix time in ms of writing, never below the cursor
  json TEXT NOT NULL
);
CREATE INDEX items_look ON items (cursor, severity, kind, code, device, gpu_uuid, gpu_index, kept_ms);
CREATE INDEX items_reserve ON items (reserve);
{_INDICES_OF_FEW}
CREATE TABLE faults (key TEXT PRIMARY KEY, state TEXT NOT NULL);
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""

# In schema 1 an incident is one row with all its members, in schema 2 each has a row of its own
# (`daemon.incidents.saved`). What is no incident stays as it is: the pipeline counts and drops what it cannot
# read.
_MEMBERS_APART = """
INSERT OR REPLACE INTO faults
SELECT
  'incidents/member/' || json_extract(state, '$.id') || '/' || json_extract(member.value, '$.event.id'),
  json_set(
    member.value, '$.because',
    json_extract(state, '$.because."' || json_extract(member.value, '$.event.id') || '"')
  )
FROM (SELECT state FROM faults WHERE key LIKE 'incidents/open/%' AND json_valid(state)),
  json_each(state, '$.members') AS member
WHERE member.type = 'object'
  AND json_extract(state, '$.id') || json_extract(member.value, '$.event.id') IS NOT NULL;
UPDATE faults
SET state = json_set(
  json_remove(state, '$.because'), '$.members',
  (SELECT json_group_array(json_extract(value, '$.event.id')) FROM json_each(state, '$.members')
    WHERE type = 'object')
)
WHERE key LIKE 'incidents/open/%' AND json_valid(state) AND json_type(state, '$.members') = 'array';
"""

_MIGRATIONS: Mapping[int, str] = {1: _MEMBERS_APART + _INDICES_OF_FEW}
"""SQL that brings a file of the version that is the key to the next one."""


class NotAJournalError(sqlite3.DatabaseError):
    """The file is sound, but not a journal of ours."""


def is_broken(error: BaseException, *, at_open: bool = False) -> bool:
    """True when an error means that the file is damaged, not that the disk refuses for now."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        # In use it would be a file that another thread is just creating.
        return at_open and isinstance(error, NotAJournalError)
    codes = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}
    # SQLITE_ERROR at open: a table or column is not there.
    return code & 0xFF in (codes | {sqlite3.SQLITE_ERROR} if at_open else codes)


def set_aside(path: Path, reason: str) -> str:
    """Rename a broken journal and what SQLite keeps beside it; returns the sentence that tells people."""
    kept = _rename_all(path)
    note = f"the journal was broken ({reason}); it was set aside as {kept.name} and a new one was started"
    _log.error("%s", note)
    return note


def leave(path: Path) -> str:
    """Make room for a new journal where the open one was deleted or replaced: what stands there is set aside.
    Returns the sentence that tells people."""
    kept = _rename_all(path)
    found = any(Path(f"{kept}{suffix}").exists() for suffix in _SUFFIXES)
    aside = f" (what was found there was set aside as {kept.name})" if found else ""
    note = (
        f"the journal was deleted or replaced while it was in use{aside};"
        " a new one was started with what memory holds"
    )
    _log.error("%s", note)
    return note


def identity(path: Path) -> tuple[tuple[int, int] | None, ...]:
    """Device and inode of the file and of its WAL; None for one that is not there. Raises OSError."""
    return tuple(_inode(f"{path}{suffix}") for suffix in ("", "-wal"))


def _inode(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116  (before every commit: half the time of a Path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _rename_all(path: Path) -> Path:
    """Rename the file and what stands beside it, as far as it is there; the new name of the first."""
    stamp = f"{path.name}.broken-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    kept = path.with_name(stamp)
    count = 1
    while any(Path(f"{kept}{suffix}").exists() for suffix in _SUFFIXES):
        count += 1
        kept = path.with_name(f"{stamp}-{count}")
    for suffix in _SUFFIXES:
        with suppress(FileNotFoundError):
            Path(f"{path}{suffix}").rename(f"{kept}{suffix}")
    return kept


def open_writing(path: Path) -> sqlite3.Connection:
    """A writing connection to the file, which is created if needed, with the schema of this version.

    Raises UserError for a newer schema, which is left as it is; NotAJournalError or another sqlite3.Error
    for a file that is broken or a disk that refuses.
    """
    if path.exists() and path.stat().st_size:
        _undo_half_made(path)
        # Looked at through a connection that cannot write: a newer file must stay as it is.
        with closing(connect(path, "mode=ro")) as looking:
            if not _is_blank(looking):
                checked(looking, path)
            if path.stat().st_size <= QUICK_CHECK_BYTES:
                _check_whole(looking)
    db = connect(path, "mode=rwc")
    try:
        _prepare(db)
    except BaseException:
        db.close()
        raise
    return db


def _undo_half_made(path: Path) -> None:
    """Roll back the step that a kill cut short while the file was made, which is not yet in WAL mode then:
    SQLite does so before it reads anything, but not through a connection that cannot write."""
    if Path(f"{path}-journal").exists():
        with closing(connect(path, "mode=rw")) as db:
            db.execute("SELECT 1 FROM sqlite_master").fetchone()


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """A connection with URI parameters such as `mode=ro`; statements commit by themselves."""
    # as_uri() quotes what a URI gives a meaning to: a path may hold ? and #.
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?{mode}",
        uri=True,
        isolation_level=None,
        timeout=BUSY_TIMEOUT_S,
        check_same_thread=False,
    )


def checked(db: sqlite3.Connection, path: Path) -> sqlite3.Connection:
    """The connection, if the file is a journal of this version or an older one; else closed, and raises."""
    try:
        version = _version(db)
        if version > SCHEMA_VERSION:
            raise UserError(
                f"{path} was written by a newer xidwatch (schema {version}; this one knows {SCHEMA_VERSION})",
                hint="run the newer xidwatch, or use another --state-dir",
            )
        if version == 0:
            raise NotAJournalError("not a journal of xidwatch")
        for table in ("items", "faults", "meta"):
            db.execute(f"SELECT * FROM {table} LIMIT 1").fetchone()  # noqa: S608
    except BaseException:
        db.close()
        raise
    return db


def _check_whole(db: sqlite3.Connection) -> None:
    (finding,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if finding != "ok":
        raise NotAJournalError(str(finding).replace("\n", " "))


def _is_blank(db: sqlite3.Connection) -> bool:
    """True for a file whose making was cut short before it had any table."""
    return _version(db) == 0 and db.execute("SELECT 1 FROM sqlite_master").fetchone() is None


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _prepare(db: sqlite3.Connection) -> None:
    """Set what a writing connection needs, and bring the schema to this version."""
    # Must come before the first table: lets retention give pages back to the file system.
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    db.execute("PRAGMA journal_mode = WAL").fetchall()
    db.execute("PRAGMA synchronous = NORMAL")
    # A checkpoint syncs the disk; left automatic it would do so inside a commit, before the push.
    db.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
    db.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}").fetchall()
    version = _version(db)
    while version < SCHEMA_VERSION:
        script = _SCHEMA if version == 0 else _MIGRATIONS[version]
        version = SCHEMA_VERSION if version == 0 else version + 1
        # executescript commits first, so the whole step is one script with its own transaction.
        db.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {version}; COMMIT;")
        # Nobody counts what this wrote, so nobody else would copy it into the file for a long time.
        db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def reading_mode(path: Path) -> str:
    """How to open without creating files. SQLite makes -wal and -shm for any reader that may (3.40)."""
    if not _size(f"{path}-wal"):
        # The last daemon ended in order and no one writes: the file alone is everything.
        return "mode=ro&immutable=1"
    return "mode=ro&readonly_shm=1" if _size(f"{path}-shm") else "mode=ro"


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except FileNotFoundError:
        return 0
