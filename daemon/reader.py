"""Reading the journal: items by cursor, through a connection that cannot write.

Every read sees one snapshot of the file, whatever a daemon writes meanwhile. The conditions of a
filter are answered by one narrow index, so that a filter that matches rarely does not read the whole
file; for what is severe, and for what is no Xid, by one that holds nothing else. A row that does not hold an
event is skipped, counted and logged.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from daemon.event import Item, Kind, Severity, from_dict
from daemon.filter import EVERYTHING, EventFilter
from daemon.page import DEFAULT_LIMIT, Marks, Page, Slice, clamp_limit, going_on_from, missed_since
from probes.errors import UserError
from probes.line import ResumePoint

NO_LIMIT = 2**63 - 1
"""Above every cursor: the largest integer SQLite stores."""

INDICES_OF_FEW = 2
"""Schema that has indices of few items. A reader meets an older one where no daemon has raised it yet."""

_COMMON = frozenset({Kind.XID, Kind.SXID})

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Saved:
    """What a start goes on from."""

    resume: ResumePoint | None
    faults: dict[str, str]
    context: str | None
    first_cursor: int = 0
    """First cursor of the last run, which may have given out more than the journal holds; 0: not known."""


class Reader:
    """Reads the items of an open journal. For one thread at a time; a context manager that closes."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        self._has_indices_of_few = version >= INDICES_OF_FEW
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

    def saved(self) -> Saved:
        """What the last commit left for the next start."""
        meta = dict(self._db.execute("SELECT key, value FROM meta").fetchall())
        resume = meta.get("resume")
        return Saved(
            resume=ResumePoint(*json.loads(resume)) if resume is not None else None,
            faults=dict(self._db.execute("SELECT key, state FROM faults").fetchall()),
            context=meta.get("context"),
            first_cursor=int(meta.get("first_cursor", 0)),
        )

    def after(
        self, since: int, limit: int, match: EventFilter = EVERYTHING, *, upto: int = NO_LIMIT
    ) -> Slice:
        """The first `limit` items with `since` < cursor <= `upto`, oldest first."""
        with self._snapshot():
            items, full = self._items("cursor > ? AND cursor <= ?", (since, upto), "ASC", limit, match)
            marks = self._marks()
        if full is None:
            full = marks.newest if upto == NO_LIMIT else upto
        return Slice(items, max(since, full), marks.gone_through)

    def last(self, limit: int, match: EventFilter = EVERYTHING, *, upto: int = NO_LIMIT) -> Slice:
        """The last `limit` items with cursor <= `upto`, oldest first; `examined` is the end of the look."""
        with self._snapshot():
            items, _ = self._items("cursor <= ?", (upto,), "DESC", limit, match)
            marks = self._marks()
        return Slice(items[::-1], min(upto, marks.newest), marks.gone_through)

    def page(
        self, since: int | None = None, limit: int = DEFAULT_LIMIT, match: EventFilter = EVERYTHING
    ) -> Page:
        """A page as the daemon would give it, for a reader without a daemon. Raises UserError when
        `since` is ahead of the newest cursor."""
        limit = clamp_limit(limit)
        marks = self.marks()
        if since is None:
            part = self.last(limit, match)
        elif 0 <= since <= max(marks.newest, marks.gone_through):
            part = self.after(since, limit, match)
        else:
            raise ahead_of_newest(since, marks.newest)
        missed = missed_since(since, part.gone_through)
        # What was written since the marks were taken counts; a `since` beyond all items does not.
        newest = max(marks.newest, part.examined if part.examined != since else 0)
        examined = going_on_from(since, part.examined, newest, missed)
        return Page(part.items, examined, marks.oldest, newest, missed)

    def event(self, event_id: str) -> Item | None:
        """The item of an event's newest revision; None when it is not kept."""
        row = self._db.execute("SELECT cursor, json FROM items WHERE id = ?", (event_id,)).fetchone()
        return None if row is None else self._item(*row)

    def cursor_before(self, time_us: int) -> int:
        """A cursor to pass as `since` for what was written at `time_us` (µs since the Unix epoch) or
        later: where such items were deleted, whoever passes it has missed them. An event that was learned
        late may have happened earlier: compare its own times, too."""
        with self._snapshot():
            marks = self._marks()
            first, before, deleted_ms = self._db.execute(
                "SELECT (SELECT min(cursor) FROM items INDEXED BY items_look WHERE kept_ms >= :ms),"
                " (SELECT max(cursor) FROM items INDEXED BY items_look WHERE kept_ms < :ms),"
                " (SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'deleted_kept_ms')",
                {"ms": time_us // 1000},
            ).fetchone()
        since = int(first) - 1 if first is not None else marks.newest
        if deleted_ms is not None and deleted_ms >= time_us // 1000:
            # Some of what is gone belongs to the time asked for: it lies beyond the last older item that
            # is kept. (0 would ask for what is kept, and miss nothing.)
            since = min(since, max(before or 0, 1))
        return since

    def _marks(self) -> Marks:
        oldest, newest, deleted, born = self._db.execute(
            "SELECT (SELECT min(cursor) FROM items), (SELECT max(cursor) FROM items),"
            " (SELECT value FROM meta WHERE key = 'deleted_through'),"
            " (SELECT value FROM meta WHERE key = 'born')"
        ).fetchone()
        gone = int(deleted or 0)
        return Marks(oldest or 0, max(newest or 0, gone), gone, int(born or 0))

    def _items(
        self, where: str, values: tuple[int, ...], order: str, limit: int, match: EventFilter
    ) -> tuple[list[Item], int | None]:
        """Items in the order asked for, and the cursor of the last row looked at if there may be more."""
        conditions, more = _conditions(match)
        index, limits = _index(match) if self._has_indices_of_few else ("items_look", "")
        # The cursors come from a narrow index alone; only the rows that match are then opened.
        query = (
            f"SELECT cursor, json FROM items WHERE cursor IN (SELECT cursor FROM items INDEXED BY {index}"  # noqa: S608
            f" WHERE {limits}{where}{conditions} ORDER BY cursor {order} LIMIT ?) ORDER BY cursor {order}"
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
    # A client may send any number, and Python refuses to print one of more than 4,300 digits.
    shown = f"cursor {since}" if since < 10**19 else "a cursor of more than 19 digits"
    if not newest:
        return UserError(
            f"{shown} is ahead of the newest, 0: there has been no event yet",
            hint="use 0 for every event that comes",
        )
    return UserError(
        f"{shown} is ahead of the newest, {newest}",
        hint=f"use {newest} for only new events, 0 for all",
    )


def _index(match: EventFilter) -> tuple[str, str]:
    """The index that holds the fewest items among which are all that match, and the condition it stands
    under: SQLite uses such an index only where the query repeats it."""
    if match.kinds and not match.kinds & _COMMON:
        return "items_uncommon", "kind NOT IN ('xid', 'sxid') AND "
    if match.min_severity.rank >= Severity.CRITICAL.rank:
        return "items_severe", "severity >= 2 AND "
    return "items_look", ""


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
