"""The journal's side of the writer thread: commit, replace a broken file, tidy up.

A failed write is an answer, not an exception: the store keeps the change and tries again.
All methods run in the writer thread, but for `__init__`.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from daemon.journal import Change, Journal
from daemon.journal_file import is_broken, leave, set_aside
from daemon.page import Marks
from daemon.retention import SLICE_ITEMS, ReservesExceedLimitError, Retention, SteadyClock
from daemon.ring import ReserveKey
from probes.errors import UserError

REPLACE_AGAIN_S = 600.0
"""A disk that breaks one file after the other is not given a new file more often than this."""

LONGEST_SIZE_CHECK_BYTES = 16 * 1024 * 1024
"""Bytes written between two looks at a file that is too large and holds nothing to delete, at most."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Written:
    """What became of one change."""

    error: str | None = None
    """Why it was not written; None when it was."""
    marks: Marks | None = None
    """How far the journal reaches after the write; None when it was not written."""
    opened: Marks | None = None
    """Set when the journal had to be opened first: how far it reached before the write."""
    note: str | None = None
    """Something people should know: a broken journal was set aside (memory has to be written again)."""
    replaced: bool = False


@dataclass(frozen=True, slots=True)
class Tidied:
    """What one turn of tidying did."""

    deleted: Sequence[int] = ()
    """Cursors of items that retention deleted."""
    marks: Marks | None = None
    """How far the journal reaches now; None when nothing was deleted."""
    error: str | None = None
    again: bool = False
    """True when there is more to delete."""
    note: str | None = None
    """Why the journal was found too large and nothing deleted; None: it was not."""


class Writer:
    """Owns the writing connection; see the module's docstring."""

    def __init__(
        self,
        state_dir: Path,
        journal: Journal | None,
        retention: Retention,
        reserve_key: ReserveKey,
        *,
        unread: bool = False,
    ) -> None:
        """`journal` None: `write` opens it; `unread`: this run does not know what is in it."""
        self._state_dir = state_dir
        self._journal = journal
        self._retention = retention
        self._reserve_key = reserve_key
        self._unread = unread
        self._aged_check_due = 0.0
        # Half the time between two looks: the second one is sure to come late enough.
        self._wall_clock = SteadyClock(retention.check_s / 2)
        self._size_check_due = 0
        self._size_check_bytes = retention.check_bytes
        self._replaced_at: float | None = None

    def write(self, change: Change) -> Written:
        """Commit it, opening the journal first when there is none."""
        opened: Marks | None = None
        note: str | None = None
        try:
            if self._journal is not None and not self._journal.is_in_place():
                note = self._leave(self._journal)
                return Written(error=note, note=note, replaced=True)
            if self._journal is None:
                self._journal = Journal.open(self._state_dir, reserve_key=self._reserve_key)
                opened, note = self._journal.marks(), self._journal.note
                if self._unread:
                    # The run began without this file: what it left open is not what is open now.
                    self._journal.forget_faults()
            self._journal.commit(change)
            return Written(marks=self._journal.reaches, opened=opened, note=note)
        except (sqlite3.Error, OSError) as error:
            aside = self._replace_if_broken(error)
            return Written(error=str(error), opened=opened, note=aside or note, replaced=aside is not None)
        except UserError as error:  # the directory went away under us
            return Written(error=error.message)
        except Exception as error:  # boundary of the thread: a bug in one change must be seen in status
            _log.exception("writing the journal failed")
            return Written(error=f"internal error: {error!r}", opened=opened, note=note)

    def sync(self) -> str | None:
        """Bring what was committed to the disk itself; returns what went wrong."""
        try:
            if self._journal is not None:
                self._journal.sync()
        except OSError as error:
            return f"cannot sync the journal: {error}"
        return None

    def tidy(self, *, look_for_aged: bool = False) -> Tidied:
        """Checkpoint and one slice of retention, as far as they are due."""
        journal, now = self._journal, time.monotonic()
        if journal is None:
            return Tidied()
        note: str | None = None
        try:
            journal.checkpoint_if_due()
            deleted: list[int] = []
            if look_for_aged or now >= self._aged_check_due:
                is_steady = self._wall_clock.look()
                deleted += self._retention.delete_aged(journal) if is_steady else ()
                if len(deleted) < SLICE_ITEMS:
                    self._aged_check_due = now + self._retention.check_s / (1 if is_steady else 2)
            if not deleted and journal.written_bytes >= self._size_check_due:
                excess, note = self._delete_excess(journal)
                deleted += excess
            marks = journal.marks() if deleted else None
            return Tidied(deleted, marks, again=len(deleted) >= SLICE_ITEMS, note=note)
        except (sqlite3.Error, OSError) as error:
            return Tidied(error=f"cannot tidy the journal: {error}")

    def _delete_excess(self, journal: Journal) -> tuple[Sequence[int], str | None]:
        """One slice, and why there is none; in that case the next look comes ever later."""
        deleted: Sequence[int] = ()
        note: str | None = None
        try:
            deleted = self._retention.delete_excess(journal)
            self._size_check_bytes = self._retention.check_bytes
        except ReservesExceedLimitError as error:
            note = str(error)
            self._size_check_bytes = min(2 * self._size_check_bytes, LONGEST_SIZE_CHECK_BYTES)
        if len(deleted) < SLICE_ITEMS:
            self._size_check_due = journal.written_bytes + self._size_check_bytes
        return deleted, note

    def replace(self, error: Exception) -> Written:
        """A reader found the journal broken: set it aside if that is so."""
        note = self._replace_if_broken(error)
        return Written(error=str(error), note=note, replaced=note is not None)

    @property
    def tidy_s(self) -> float:
        """Seconds between two looks for aged items while nothing is written."""
        return self._retention.check_s

    def close(self) -> None:
        """Close the journal; the WAL is folded into the file."""
        if self._journal is not None:
            journal, self._journal = self._journal, None
            try:
                journal.close()
            except (sqlite3.Error, OSError) as error:
                _log.warning("closing the journal: %s", error)

    def _replace_if_broken(self, error: Exception) -> str | None:
        """Set a broken journal aside; the next write opens a new one. None when nothing was done."""
        journal, now = self._journal, time.monotonic()
        recently = self._replaced_at is not None and now - self._replaced_at < REPLACE_AGAIN_S
        if journal is None or recently or not is_broken(error):
            return None
        self._replaced_at = now
        try:
            note = set_aside(journal.path, str(error))
        except OSError as refused:
            _log.error("cannot set the broken journal aside: %s", refused)
            return None
        self._close_left(journal)
        return note

    def _leave(self, journal: Journal) -> str:
        """The open journal was deleted or replaced; the next write opens a new one. Raises OSError."""
        with suppress(sqlite3.Error):  # under another name SQLite no longer does so when it closes the file
            journal.fold()
        note = leave(journal.path)
        self._close_left(journal)
        return note

    def _close_left(self, journal: Journal) -> None:
        """Close it under its old name: what closing still writes must not hit the new file."""
        self._journal, self._size_check_due = None, 0
        with suppress(sqlite3.Error, OSError):
            journal.close()
