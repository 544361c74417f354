"""What a reader of the stream is given: a page, and word of what it can no longer have.

A reader is a cursor. It gets items in cursor order, no revision twice, and of every event the last
revision; revisions that a later one replaced may be skipped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from daemon.event import Item, to_dict

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class Missed:
    """Items with cursors in this range were deleted, or lost with an earlier journal, before the reader
    came for them.

    Some items of the range may still be kept (the last ones of a device outlive the others).
    """

    first: int
    last: int
    """Inclusive; the newest cursor that is gone."""


@dataclass(frozen=True, slots=True)
class Marks:
    """How far the kept items reach. All are cursors, 0 when there is none."""

    oldest: int
    newest: int
    deleted_through: int
    """Newest cursor whose item was deleted; superseded revisions do not count."""
    born: int = 0
    """First cursor of the run that began with an empty store: what earlier runs gave out is not kept."""

    @property
    def gone_through(self) -> int:
        """Newest cursor whose item may have been given out and is not kept; see `Missed`."""
        return max(self.deleted_through, self.born - 1, 0)


NOTHING_KEPT = Marks(0, 0, 0)
"""The marks of a store that never held anything."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Some items in cursor order, and how far was looked for them."""

    items: list[Item]
    examined: int
    """Every item between the start of the look and this cursor was examined; pass it on as `since`."""
    gone_through: int = 0
    """See `Marks`, as it was when the items were read."""


@dataclass(frozen=True, slots=True)
class Page:
    """The answer to one request for items; see `to_dict` for its public form."""

    items: Sequence[Item]
    next_cursor: int
    """Last cursor examined, filtered-out items included: the `since` of the next request."""
    oldest_cursor: int
    """Cursor of the oldest kept item; 0 when nothing is kept."""
    newest_cursor: int
    """Newest cursor given out; 0 when nothing was ever stored."""
    missed: Missed | None

    def to_json(self) -> str:
        """One line of ASCII JSON, made of the JSON each item already has."""
        events = ", ".join(item.json for item in self.items)
        return f'{{"events": [{events}], {json.dumps(self._rest())[1:]}'

    def to_dict(self) -> dict[str, Any]:
        """`{"events": […], "next_cursor", "oldest_cursor", "newest_cursor", "missed"}`."""
        events = [to_dict(item.event, item.cursor, stored=item.stored) for item in self.items]
        return {"events": events, **self._rest()}

    def _rest(self) -> dict[str, Any]:
        missed = self.missed
        return {
            "next_cursor": self.next_cursor,
            "oldest_cursor": self.oldest_cursor,
            "newest_cursor": self.newest_cursor,
            "missed": missed and {"first": missed.first, "last": missed.last},
        }


def clamp_limit(limit: int) -> int:
    """`limit` within 1 to `MAX_LIMIT`."""
    return max(1, min(limit, MAX_LIMIT))


def missed_since(since: int | None, gone_through: int) -> Missed | None:
    """What a reader at `since` has missed; `None` and 0 ask for what is kept, so they miss nothing."""
    if since is not None and 0 < since < gone_through:
        return Missed(since + 1, gone_through)
    return None


def going_on_from(since: int | None, examined: int, newest: int, missed: Missed | None) -> int:
    """The next `since` of a reader that looked through `examined`: a stretch that was missed up to the
    newest item is behind it, and is not told again."""
    if since and missed is not None and examined >= newest:
        return max(examined, missed.last)
    return examined
