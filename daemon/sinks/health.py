"""How a sink does, for `status`, `/metrics` and assistants."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from daemon.event import rfc3339
from daemon.outlet import OutletHealth


class SinkState(StrEnum):
    """In one word."""

    OK = "ok"
    """Nothing waits, or it is on its way for the first time."""
    RETRYING = "retrying"
    """The last try failed; `reason` says how."""
    STARTING = "starting"


@dataclass(slots=True)
class SinkHealth:
    """One sink. Counts since start."""

    name: str
    type: str
    target: str
    """Where it sends: host and port, or the program."""
    state: SinkState = SinkState.STARTING
    reason: str | None = None
    """Why the last try failed; None while it did not."""
    cursor: int = 0
    """Up to here everything was sent, or did not have to be."""
    delivered: int = 0
    """Events that the receiver took."""
    deliveries: int = 0
    """Tries that worked."""
    failures: int = 0
    """Tries that did not."""
    skipped: int = 0
    """Events given up because the receiver would not take them."""
    missed: int = 0
    """Stretches of the stream that were deleted before this sink came for them."""
    internal_errors: int = 0
    last_delivery_us: int | None = None
    """Wall clock of the last try that worked, µs since the Unix epoch; None: none yet."""
    oldest_waiting_us: int | None = None
    """Time of the oldest event that waits; None: nothing waits."""
    last_skipped: str | None = None
    """Id of the event that was given up last, and why."""
    trouble: str | None = None
    """What else people should know: the cursor cannot be saved. None: nothing."""

    def note_bug(self) -> None:
        """It failed by itself: until something is taken again nobody may believe that it works."""
        self.internal_errors += 1
        self.state, self.reason = SinkState.RETRYING, "an error of its own, see the log"

    def as_outlet(self) -> OutletHealth:
        """The same as of every other outward path."""
        return OutletHealth(
            f"sink {self.name}",
            up=self.state is not SinkState.RETRYING,
            reason=self.reason,
            delivered=self.deliveries,
            failures=self.failures,
            dropped=self.skipped,
            cursor=self.cursor,
        )

    def lag_s(self, now_us: int) -> float:
        """How old the oldest event is that waits; 0 when nothing waits."""
        return (
            max(0.0, (now_us - self.oldest_waiting_us) / 1e6) if self.oldest_waiting_us is not None else 0.0
        )

    def to_dict(self, now_us: int) -> dict[str, Any]:
        """As JSON for `status`."""
        data = asdict(self)
        del data["oldest_waiting_us"], data["last_delivery_us"]
        last = self.last_delivery_us
        return {
            **data,
            "state": self.state.value,
            "last_delivery": None if last is None else rfc3339(last),
            "lag_s": round(self.lag_s(now_us), 3),
        }
