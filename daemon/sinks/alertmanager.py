"""An Alertmanager: what fires, posted to `/api/v2/alerts` (see `alerts`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from daemon.sinks.alerts import AlertBook
from daemon.sinks.batch import Batch
from daemon.sinks.http_post import Poster
from daemon.sinks.news import Memory
from daemon.sinks.outcome import Fate, Outcome
from daemon.sinks.targets import AlertmanagerTarget
from daemon.thread import DiskThread


class Alertmanager:
    """One Alertmanager. Belongs to the event loop."""

    takes_many = True

    def __init__(self, target: AlertmanagerTarget, *, drills: bool, agent: str, disk: DiskThread) -> None:
        """Raises UserError for a secret that cannot be read."""
        self._book = AlertBook(target.labels, hold_us=target.hold_us, drills=drills)
        self._resend_s = target.resend_us / 1e6
        self._disk = disk
        self._poster = Poster(target.http, agent=agent)

    @property
    def memory(self) -> Memory:
        """What fires."""
        return self._book

    @property
    def refresh_s(self) -> float | None:
        """While anything fires."""
        return self._resend_s if self._book.firing else None

    @property
    def standing(self) -> list[str]:
        """Ids of the incidents that fire, oldest first."""
        return list(self._book.firing)

    async def send(self, batch: Batch) -> Outcome:
        """Post what the batch changes."""
        return await self._post(self._book.alerts(batch))

    async def refresh(self, now_us: int) -> Outcome:
        """Post everything that fires once more."""
        return await self._post(self._book.refreshed(now_us))

    def drop(self, event_id: str) -> None:
        """See `AlertBook.drop`."""
        self._book.drop(event_id)

    async def close(self) -> None:
        """Close the connection."""
        await self._poster.close()

    async def _post(self, alerts: Sequence[dict[str, Any]]) -> Outcome:
        if not alerts:
            return Outcome(Fate.DELIVERED, "nothing to tell")
        outcome = await self._poster.post(json.dumps(alerts).encode("ascii"))
        if outcome.fate in (Fate.CLOSED, Fate.REFUSED):
            await self._disk.call(self._poster.read_again)
        return outcome
