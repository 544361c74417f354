"""How sessions end when the daemon stops.

The event stream closes first: tools that wait for an event answer. `LAST_WORDS_S` later the
sessions end, and with them the streams that clients hold open. The connections are then free to
close: a server that waits for them first, as uvicorn does before the end of its lifespan, would
wait for ever.
"""

from __future__ import annotations

from typing import Final

from daemon.stream import EventStream

LAST_WORDS_S: Final = 0.1
"""How long tools may take to answer once the stream is closed."""


async def closed(stream: EventStream) -> None:
    """Return when the stream has been closed."""
    while not stream.closed:
        await stream.wait_beyond(stream.newest)
