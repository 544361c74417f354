"""Keeping alive what lasts: alerts are sent again while their incidents are open.

Before that each incident is looked up: one that ended unseen (the journal was lost, the sink missed it)
is resolved, and one that nobody knows any more is let go without a word that it is over.
"""

from __future__ import annotations

import asyncio

from daemon.event import Item
from daemon.sinks import wording
from daemon.sinks.batch import Batch, Node
from daemon.sinks.courier import Courier, Standing
from daemon.sinks.outcome import Outcome
from daemon.sinks.pace import Backoff
from daemon.stream import EventStream
from probes.errors import UserError


class Upkeep:
    """For one courier. Belongs to the event loop; sets no timer while nothing lasts."""

    def __init__(
        self, name: str, courier: Courier, standing: Standing, stream: EventStream, node: Node
    ) -> None:
        self._name = name
        self._courier = courier
        self._standing = standing
        self._stream = stream
        self._node = node
        self._backoff = Backoff()
        self._due: float | None = None
        self._is_first = True

    def wait_s(self) -> float | None:
        """Seconds until `run` is due, 0 when it is; None while nothing lasts. What an earlier process left
        is due at once."""
        every_s = self._standing.refresh_s
        now = asyncio.get_running_loop().time()
        if every_s is None:
            self._due = None
        elif self._due is None:
            self._due = now if self._is_first else now + every_s
        self._is_first = False
        return None if self._due is None else max(0.0, self._due - now)

    async def run(self, cursor: int) -> Outcome:
        """Send everything that lasts once more. `cursor`: how far the sink has read."""
        ended = await self._ended(cursor)
        if ended:
            outcome = await self._courier.send(
                Batch(self._name, self._node.name, self._node.wall_us(), ended)
            )
            if outcome.is_delivered:
                self._courier.memory.note(ended)
        outcome = await self._standing.refresh(self._node.wall_us())
        every_s = self._standing.refresh_s or 0.0
        if outcome.is_delivered:
            self._backoff.reset()
            wait_s = every_s
        else:
            wait_s = min(every_s, self._backoff.next_wait_s(outcome.retry_after_s))
        self._due = asyncio.get_running_loop().time() + wait_s
        return outcome

    async def _ended(self, cursor: int) -> list[Item]:
        """Incidents that are over although they still fire; the sink has read past their end."""
        ended: list[Item] = []
        for event_id in self._standing.standing:
            try:
                item = await self._stream.event(event_id)
            except UserError:
                continue  # the journal cannot be read: nothing is known, nothing changes
            if item is None:
                self._standing.drop(event_id)
            elif item.cursor <= cursor and wording.state(item.event) != wording.OPEN:
                ended.append(item)
        return ended
