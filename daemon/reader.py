"""Reading the journal: items by cursor, through a connection that cannot write.

Every read sees one snapshot of the file, whatever a daemon writes meanwhile. The conditions of a
filter are answered by one narrow index, so that a filter that matches rarely does not read the whole
file. A row that does not hold an event is skipped, counted and logged.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from daemon.event import Item, from_dict
from daemon.filter import EVERYTHING, EventFilter
from daemon.page import DEFAULT_LIMIT, Marks, Page, Slice, clamp_limit, missed_since
from probes.errors import UserError

NO_LIMIT = 2**63 - 1
"""Above every cursor: the largest integer SQLite stores."""

_log = logging.getLogger(__name__)


class Reader:
    """Reads the items of an open journal. For one thread at a time; a context manager that closes."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self.unreadable = 0
        """Rows skipped because they hold no event."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def marks(self) -> Marks:
        """How far the kept items reach."""
        return self._marks()

    def after(
        self, since: int, limit: int, match: EventFilter = EVERYTHING, *, upto: int = NO_LIMIT
    ) -> Slice:
        """The first `limit` items with `since` < cursor <= `upto`, oldest first."""
        with self._snapshot():
            items, full = self._items("cursor > ? AND cursor <= ?", (since, upto), "ASC", limit, match)
            marks = self._marks()
        if full is None:
            full = marks.newest if upto == NO_LIMIT else upto
        return Slice(items, max(since, full), marks.deleted_through)

    def last(self, limit: int, match: EventFilter = EVERYTHING, *, upto: int = NO_LIMIT) -> Slice:
        """The last `limit` items with cursor <= `upto`, oldest first; `examined` is the end of the look."""
        with self._snapshot():
            items, _ = self._items("cursor <= ?", (upto,), "DESC", limit, match)
            marks = self._marks()
        return Slice(items[::-1], min(upto, marks.newest), marks.deleted_through)

    def page(
        self, since: int | None = None, limit: int = DEFAULT_LIMIT, match: EventFilter = EVERYTHING
    ) -> Page:
        """A page as the daemon would give it, for a reader without a daemon. Raises UserError when
        `since` is ahead of the newest cursor."""
        limit = clamp_limit(limit)
        marks = self.marks()
        if since is None:
            part = self.last(limit, match)
        elif 0 <= since <= marks.newest or since == 0:
            part = self.after(since, limit, match)
        else:
            raise ahead_of_newest(since, marks.newest)
        missed = missed_since(since, part.deleted_through)
        return Page(part.items, part.examined, marks.oldest, max(marks.newest, part.examined), missed)

    def cursor_before(self, time_us: int) -> int:
        """A cursor to pass as `since` for what was written at `time_us` (µs since the Unix epoch) or
        later. An event that was learned late may have happened earlier: compare its own times, too."""
        query = "SELECT min(cursor) FROM items INDEXED BY items_look WHERE kept_ms >= ?"
        (cursor,) = self._db.execute(query, (time_us // 1000,)).fetchone()
        return int(cursor) - 1 if cursor is not None else self.marks().newest

    def _marks(self) -> Marks:
        oldest, newest, deleted = self._db.execute(
            "SELECT (SELECT min(cursor) FROM items), (SELECT max(cursor) FROM items),"
            " (SELECT value FROM meta WHERE key = 'deleted_through')"
        ).fetchone()
        gone = int(deleted or 0)
        return Marks(oldest or 0, max(newest or 0, gone), gone)

    def _items(
        self, where: str, values: tuple[int, ...], order: str, limit: int, match: EventFilter
    ) -> tuple[list[Item], int | None]:
        """Items in the order asked for, and the cursor of the last row looked at if there may be more."""
        conditions, more = _conditions(match)
        # The cursors come from the narrow index alone; only the rows that match are then opened.
        query = (
            "SELECT cursor, json FROM items WHERE cursor IN (SELECT cursor FROM items INDEXED BY items_look"  # noqa: S608
            f" WHERE {where}{conditions} ORDER BY cursor {order} LIMIT ?) ORDER BY cursor {order}"
        )
        rows = self._db.execute(query, (*values, *more, limit)).fetchall()
        items = [item for row in rows if (item := self._item(*row)) is not None]
        return items, rows[-1][0] if len(rows) == limit else None

    def _item(self, cursor: int, text: str) -> Item | None:
        try:
            return Item(cursor, from_dict(json.loads(text)), stored=True, json=text)
        except (ValueError, TypeError, KeyError):
            self.unreadable += 1
            _log.warning("skipped the journal's row %d: it holds no event", cursor)
            return None

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("ROLLBACK")


def ahead_of_newest(since: int, newest: int) -> UserError:
    """The refusal of a cursor that was never given out."""
    if since < 0:
        return UserError(f"cursor {since} is negative", hint="use 0 for everything that is kept")
    return UserError(
        f"cursor {since} is ahead of the newest, {newest}",
        hint=f"use {newest} for only new events, 0 for all",
    )


def _conditions(match: EventFilter) -> tuple[str, list[int | str]]:
    """SQL that holds exactly for the events for which `match.matches` does, and its values."""
    sql: list[str] = []
    values: list[int | str] = []

    def is_in(column: str, wanted: Iterable[int | str]) -> str:
        wanted = list(wanted)
        values.extend(wanted)
        return f"{column} IN ({', '.join('?' * len(wanted))})"

    if match.min_severity.rank > 0:
        sql.append("severity >= ?")
        values.append(match.min_severity.rank)
    if match.codes:
        sql.append(is_in("code", match.codes))
    if match.kinds:
        sql.append(is_in("kind", match.kinds))
    if match.gpus:
        names = [gpu for gpu in match.gpus if isinstance(gpu, str)]
        indices = [gpu for gpu in match.gpus if isinstance(gpu, int)]
        either = [is_in("device", names), is_in("gpu_uuid", names), is_in("gpu_index", indices)]
        sql.append(f"({' OR '.join(either)})")
    return "".join(f" AND {condition}" for condition in sql), values
