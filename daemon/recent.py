"""The events of the last hour, for whoever judges by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from daemon.event import Event
from daemon.page import MAX_LIMIT
from daemon.stream import EventStream

WINDOW_US: Final = 3_600_000_000


async def of_last_hour(stream: EventStream, now_us: int) -> Sequence[Event]:
    """The events that happened in the hour before `now_us` (wall clock, µs since the Unix epoch), oldest
    first; of a storm the newest `MAX_LIMIT`. Raises UserError when the journal is needed and cannot be read.
    """
    page = await stream.page(None, MAX_LIMIT)
    return [item.event for item in page.items if now_us - item.event.last_time_us <= WINDOW_US]
