"""How long and how much the journal keeps.

Runs in the writer thread, in slices of one short transaction, so that commits go in between. Items
older than the age limit go first; then, while the file is too large, the oldest ones, but none of the
last `RESERVE` items of any reserve key: a storm on one GPU cannot push out another's last events.
An age is believed only while the wall clock is steady (`SteadyClock`): a step ahead deletes nothing young.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import islice

from daemon.journal import Journal
from daemon.ring import RESERVE

SLICE_ITEMS = 256
"""Items deleted in one transaction: a few ms."""
_SLICE_PAGES = 256
_LONGEST_CHECK_S = 3600.0
_STEP_S = 60.0
"""More than NTP slews in an hour (500 ppm: 1.8 s); a smaller step makes nothing look old."""


class ReservesExceedLimitError(Exception):
    """The file is too large, and holds nothing that may be deleted; the message is for people."""


class SteadyClock:
    """Tells whether the wall clock has gone on evenly between looks, by the clock that counts since boot."""

    def __init__(self, for_s: float) -> None:
        """`for_s`: how long it must have been steady to be believed."""
        self._for_s = for_s
        self._began_s: float | None = None
        self._since_s = 0.0

    def look(self) -> bool:
        """True when it has been steady for long enough by now. The first look begins the wait."""
        now_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        began_s = time.time() - now_s
        if self._began_s is None or abs(began_s - self._began_s) > _STEP_S:
            self._began_s, self._since_s = began_s, now_s
        return now_s - self._since_s >= self._for_s


@dataclass(frozen=True, slots=True)
class Retention:
    """The limits, and what enforces them."""

    age_s: float = 30 * 86_400.0
    """Seconds an item is kept after its newest revision was written."""
    size_bytes: int = 512 * 1024 * 1024
    """Bytes in use in the file; its WAL comes on top, usually up to 4 MiB."""
    reserve: int = RESERVE

    @property
    def check_bytes(self) -> int:
        """Bytes written between two looks at the size of the file."""
        return min(1024 * 1024, self.size_bytes // 16)

    @property
    def check_s(self) -> float:
        """Seconds between two looks for aged items while nothing is written."""
        return min(_LONGEST_CHECK_S, max(1.0, self.age_s / 10))

    def delete_aged(self, journal: Journal) -> Sequence[int]:
        """Delete items beyond the age limit, at most one slice; returns their cursors."""
        before_ms = int((time.time() - self.age_s) * 1000)
        rows = journal.db.execute(
            "SELECT cursor FROM items INDEXED BY items_kept WHERE kept_ms < ? ORDER BY kept_ms LIMIT ?",
            (before_ms, SLICE_ITEMS),
        ).fetchall()
        return _delete(journal, [cursor for (cursor,) in rows])

    def delete_excess(self, journal: Journal) -> Sequence[int]:
        """Delete the oldest items while the file is too large, at most one slice; returns their cursors.

        Raises ReservesExceedLimitError when nothing that is left may be deleted.
        """
        pages, free, page_bytes = journal.db.execute(
            "SELECT page_count, freelist_count, page_size"
            " FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
        ).fetchone()
        if free > _SLICE_PAGES and free > pages // 8:
            # execute() stops after the first page (Python 3.11); executescript() steps to the end.
            journal.db.executescript(f"PRAGMA incremental_vacuum({_SLICE_PAGES})")
        if (pages - free) * page_bytes <= self.size_bytes:
            return ()
        excess = self._oldest_beyond_reserve(journal)
        if not excess:
            raise ReservesExceedLimitError(
                f"the last {self.reserve} events of each device take more than the retention size"
                f" of {self.size_bytes} bytes; they are kept all the same"
            )
        return _delete(journal, excess)

    def _oldest_beyond_reserve(self, journal: Journal) -> list[int]:
        """Asks the index of each key that has more than its reserve, and reads no more than it takes."""
        query = "SELECT cursor FROM items WHERE reserve = ? AND cursor < ? ORDER BY cursor"
        candidates = [journal.db.execute(query, pair) for pair in self._floors(journal).items()]
        found = [cursor for (cursor,) in islice(merge(*candidates), SLICE_ITEMS)]
        for rows in candidates:
            rows.close()
        return found

    def _floors(self, journal: Journal) -> dict[str, int]:
        """For each reserve key that has more than its reserve: the oldest cursor of that reserve."""
        floors: dict[str, int] = {}
        key = journal.db.execute("SELECT min(reserve) FROM items").fetchone()[0]
        while key is not None:
            row = journal.db.execute(
                "SELECT cursor FROM items WHERE reserve = ? ORDER BY cursor DESC LIMIT 1 OFFSET ?",
                (key, self.reserve - 1),
            ).fetchone()
            if row is not None:
                floors[key] = row[0]
            key = journal.db.execute("SELECT min(reserve) FROM items WHERE reserve > ?", (key,)).fetchone()[0]
        return floors


def _delete(journal: Journal, cursors: Sequence[int]) -> Sequence[int]:
    if cursors:
        newest = max(cursors)
        with journal.transaction() as db:
            (kept_ms,) = db.execute("SELECT kept_ms FROM items WHERE cursor = ?", (newest,)).fetchone()
            db.executemany("DELETE FROM items WHERE cursor = ?", [(cursor,) for cursor in cursors])
            journal.raise_deleted_through(newest, kept_ms=kept_ms)
    return cursors
