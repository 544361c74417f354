"""From when on the journal holds every event that was heard.

What was heard earlier was deleted by retention, or heard by nobody because there was no journal yet:
of that time "no errors" must not be said. Cursors tell it: a run that began with an empty journal gives
out the Unix time in ms first (`daemon.store.first_cursor`), and what is left beyond the newest deleted
cursor was published after it.
"""

from __future__ import annotations

from daemon.event import Kind
from daemon.filter import EventFilter
from daemon.stream import EventStream

_TOLD_AS_THEY_HAPPEN = EventFilter(kinds=frozenset(Kind) - {Kind.INCIDENT})
"""An incident's newest revision may be much later than what was last heard of it."""


async def reaches_back_to(stream: EventStream) -> int | None:
    """Wall clock in µs since the Unix epoch; None when it is not known.

    The log of a running boot may have been read back to before the journal began: it is counted in as far
    as its oldest event. Raises UserError when the journal is needed and cannot be read.
    """
    gone = stream.gone_through
    page = await stream.page(gone, 1, _TOLD_AS_THEY_HAPPEN)
    first = page.items[0].event if page.items else None
    if gone and gone == stream.deleted_through:
        return None if first is None else first.last_time_us
    times = [] if first is None else [first.time_us]
    if gone:
        times.append((gone + 1) * 1000)
    return min(times, default=None)
