"""Looks into the kernel log through syslog(2), to tell who printed the lines that wait to be confirmed.

One look is under way at a time, in another thread; it tells of all lines that wait. Where /dev/kmsg is
heard, that mostly brings the line first, and no look is needed. Looking takes at most a tenth of one
CPU over time, and half a second of it in a row: in a storm most lines are confirmed by the other probes. A
log that may not be read is left alone for a minute.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection

from probes.klog import Look, look_for

log = logging.getLogger(__name__)

AFTER_S = 0.004
"""How long /dev/kmsg has to bring a line by itself; of the 20 ms that a line waits, a look takes 2 to 4."""
_SHARE_OF_CPU = 0.1
_IN_A_ROW_S = 0.5
_REFUSED_FOR_S = 60.0

LookFor = Callable[[Collection[str]], Look]
"""One look at the log for lines of these texts. Raises OSError."""


class OriginLook:
    """Belongs to the event loop's thread."""

    def __init__(
        self,
        waiting: Callable[[], Collection[str]],
        seen: Callable[[Look], None],
        *,
        kmsg_hears: Callable[[], bool],
        look_for: LookFor = look_for,
    ) -> None:
        """`waiting` gives the texts that wait, `seen` takes what a look showed."""
        self.looks = 0
        """Looks since start."""
        self.refused: str | None = None
        """Why the last look was not possible; None when it was."""
        self._waiting = waiting
        self._seen = seen
        self._kmsg_hears = kmsg_hears
        self._look_for = look_for
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._not_before = 0.0
        self._left_s = _IN_A_ROW_S
        self._left_at = 0.0

    def consider(self) -> None:
        """Look soon, if lines wait. Call it after every batch."""
        if self._timer is not None or self._task is not None or not self._waiting():
            return
        loop = asyncio.get_running_loop()
        soon = loop.time() + (AFTER_S if self._kmsg_hears() else 0)
        self._timer = loop.call_at(max(soon, self._not_before), self._begin)

    def close(self) -> None:
        """No look begins after this, and of the one under way nothing is taken."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        self._timer = self._task = None

    def _begin(self) -> None:
        self._timer = None
        texts = self._waiting()
        if texts:
            self._task = asyncio.get_running_loop().create_task(self._look(texts), name="origin look")

    async def _look(self, texts: Collection[str]) -> None:
        loop = asyncio.get_running_loop()
        try:
            look, cost_s = await asyncio.to_thread(self._timed_look, texts)
        except OSError as error:
            if self.refused is None:
                log.info("lines heard by eBPF cannot be confirmed through syslog(2): %s", error.strerror)
            self.refused = error.strerror or str(error)
            self._not_before = loop.time() + _REFUSED_FOR_S
            self._task = None
            return
        self.looks += 1
        self.refused = None
        self._not_before = self._pay(cost_s, loop.time())
        self._task = None
        self._seen(look)
        self.consider()

    def _timed_look(self, texts: Collection[str]) -> tuple[Look, float]:
        """A look, and the CPU time it took; runs in another thread."""
        before = time.thread_time()
        return self._look_for(texts), time.thread_time() - before

    def _pay(self, cost_s: float, now: float) -> float:
        """Take CPU time from what may be used; when the next look may begin."""
        earned_s = (now - self._left_at) * _SHARE_OF_CPU
        self._left_s = min(self._left_s + earned_s, _IN_A_ROW_S) - cost_s
        self._left_at = now
        return now - min(self._left_s, 0) / _SHARE_OF_CPU
