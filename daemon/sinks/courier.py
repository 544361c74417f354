"""What carries a batch to its receiver: the one thing in which sinks differ."""

from __future__ import annotations

from typing import Protocol

from daemon.sinks.batch import Batch
from daemon.sinks.news import Memory
from daemon.sinks.outcome import Outcome


class Courier(Protocol):
    """One way out. Belongs to the event loop; `send` never raises for what a receiver does."""

    takes_many: bool
    """True when one delivery may carry many events without a loss to whoever is alarmed."""

    @property
    def memory(self) -> Memory:
        """What of the stream concerns it, and what it told."""

    async def send(self, batch: Batch) -> Outcome:
        """One try, within the deadline of the configuration."""

    async def close(self) -> None:
        """Let go of connections and processes."""


class Standing(Protocol):
    """What a courier of states has beside: they are sent again while they last."""

    @property
    def refresh_s(self) -> float | None:
        """Seconds between two refreshes; None while there is nothing to refresh."""

    @property
    def standing(self) -> list[str]:
        """Ids of the incidents that last, oldest first."""

    async def refresh(self, now_us: int) -> Outcome:
        """Send all of it once more."""

    def drop(self, event_id: str) -> None:
        """Do not send this one again: nobody knows it any more."""
