"""Keeps sse-starlette from polling.

sse-starlette (3.7) starts one task a thread with the first `EventSourceResponse`, which looks
twice a second, for ever, whether uvicorn wants to exit. The MCP SDK's streams are such responses
too, so one MCP client would cost an idle daemon two wake-ups a second from then on. Here every
stream ends by itself when the daemon stops, so the task is kept from starting: its flag for this
thread says that it runs already. The library has no public switch for this (its
`disable_automatic_graceful_drain` polls on); a test watches that the flag still does what it did.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sse_starlette import sse


@contextmanager
def no_watcher() -> Iterator[None]:
    """While the block runs, streams that open in this thread start no watcher."""
    state = sse._get_shutdown_state()
    before, state.watcher_started = state.watcher_started, True
    try:
        yield
    finally:
        state.watcher_started = before
