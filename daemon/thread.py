"""One thread for calls that may block on a disk, so that the event loop never does.

Calls run one after the other, in the order in which they were asked for. The thread is a daemon
thread: a disk that hangs for ever does not keep the process from ending. It sleeps when idle.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")

_log = logging.getLogger(__name__)


class ClosedError(Exception):
    """The thread was closed before the call was done."""


class DiskThread:
    """See the module's docstring. All methods but `tell` are for the event loop it was made in."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._outstanding: set[asyncio.Future[None]] = set()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], None]) -> None:
        """Run `job` in the thread, after those already submitted; from any thread. What it raises is a
        bug and logged."""
        self._jobs.put(job)

    async def call(self, function: Callable[[], T]) -> T:
        """The result of `function`, run in the thread. Raises what it raises, or ClosedError."""
        if self._closed:
            raise ClosedError
        done: asyncio.Future[None] = self._loop.create_future()
        results: list[T] = []
        errors: list[BaseException] = []

        def job() -> None:
            if done.cancelled():
                return
            try:
                results.append(function())
            except BaseException as error:  # carried to the caller, whatever it is
                errors.append(error)
            self.tell(_finish, done)

        self._outstanding.add(done)
        try:
            self.submit(job)
            await done
        finally:
            self._outstanding.discard(done)
        if errors:
            raise errors[0]
        return results[0]

    def tell(self, function: Callable[..., None], *arguments: object) -> None:
        """From the thread: call `function` in the event loop; nothing happens when that has ended."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

    def close(self) -> None:
        """End the thread after the jobs already submitted; callers still waiting get ClosedError at once."""
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        for done in self._outstanding:
            if not done.done():
                done.set_exception(ClosedError())

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:  # the thread's boundary: one bug must not end all writing
                _log.exception("a job of the thread %s failed", self._thread.name)


def _finish(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
