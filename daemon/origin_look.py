"""Looks into the kernel log through syslog(2), to tell who printed the lines that wait to be confirmed.

One look is under way at a time, in another thread; it tells of all lines that wait. Where /dev/kmsg is
heard, that mostly brings the line first, and no look is needed. Looking takes at most a tenth of one
CPU: in a storm most lines are confirmed by the other probes. A log that may not be read is left alone
for a minute.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from probes.klog import Look, look_for

log = logging.getLogger(__name__)

AFTER_S = 0.004
"""How long /dev/kmsg has to bring a line by itself; of the 20 ms that a line waits, a look takes 2 to 4."""
_SHARE_OF_CPU = 0.1
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
        began = loop.time()
        try:
            look = await asyncio.to_thread(self._look_for, texts)
        except OSError as error:
            if self.refused is None:
                log.info("lines heard by eBPF cannot be confirmed through syslog(2): %s", error.strerror)
            self.refused = error.strerror or str(error)
            self._not_before = loop.time() + _REFUSED_FOR_S
            self._task = None
            return
        self.looks += 1
        self.refused = None
        self._not_before = loop.time() + (loop.time() - began) / _SHARE_OF_CPU
        self._task = None
        self._seen(look)
        self.consider()
