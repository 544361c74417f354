"""How fast a sink may send, and how long it waits after a failure. Pure: the caller brings the clock."""

from __future__ import annotations

import random
from typing import Final

FIRST_WAIT_S: Final = 1.0
"""A receiver that restarts is mostly back after that."""
LONGEST_WAIT_S: Final = 300.0
"""Between two tries: a receiver that is back is found within five minutes."""

_BURST_S: Final = 10
"""The share of a minute that may go out at once: the events of one fault come together."""


class Pace:
    """A token bucket: so many a minute, after a burst of the share of ten seconds.

    The first alarm goes out at once, and so do the next few. In a storm what comes meanwhile gathers, and
    goes out together with the next token.
    """

    def __init__(self, per_minute: int) -> None:
        self.burst = max(1, per_minute * _BURST_S // 60)
        """How many may follow one another without a pause."""
        self._per_s = per_minute / 60
        self._tokens = float(self.burst)
        self._at_s: float | None = None

    def wait_s(self, now_s: float) -> float:
        """Seconds until the next may go out; 0 when it may now. `now_s` is a monotonic clock."""
        self._refill(now_s)
        # What a sum of fractions lacks for a whole token is no reason to wake a moment later.
        return 0.0 if self._tokens >= 1 - 1e-6 else (1 - self._tokens) / self._per_s

    def take(self, now_s: float) -> None:
        """One goes out."""
        self._refill(now_s)
        self._tokens = max(0.0, self._tokens - 1)

    def _refill(self, now_s: float) -> None:
        if self._at_s is not None:
            self._tokens = min(float(self.burst), self._tokens + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s


class Backoff:
    """Waits that double from one second to five minutes, each cut by up to half, so that the nodes of a
    cluster do not come back to a mended receiver in the same second."""

    def __init__(self, chance: random.Random | None = None) -> None:
        self.failures = 0
        """In a row."""
        self._chance = chance or random.Random()  # noqa: S311 (spreads load, keeps no secret)

    def next_wait_s(self, asked_s: float | None = None) -> float:
        """How long to wait after one more failure; `asked_s`: the receiver asked for at least that."""
        whole = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(self.failures, 20))
        self.failures += 1
        return max(whole * self._chance.uniform(0.5, 1.0), asked_s or 0.0)

    def reset(self) -> None:
        """It worked."""
        self.failures = 0
