"""What was refused, counted and told: so that somebody who tries doors is seen and floods nothing.

Every refusal is counted by its reason. The first one of a client for a reason is a line in the log, later
ones at most one a minute, which says how many there were since; over all clients there is a line a second
at most. Nothing is timed: what is not told yet is told with the next refusal.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final

from daemon.access import Rate
from mcp_server.identity import Scope
from mcp_server.rate import RateLimit
from probes.errors import UserError

log = logging.getLogger(__name__)

TOLD_AGAIN_S: Final = 60.0
"""A client that is refused for one reason again and again is one line a minute, with how often."""
MOST_REMEMBERED: Final = 1_024
"""Clients and reasons; the oldest is forgotten first, and then told anew."""
_LINES: Final = Rate(60, 60)


class Reason(StrEnum):
    """Why a request was refused: label values of `xidwatch_refused_requests_total`."""

    NO_TOKEN = "no_token"  # noqa: S105  # a reason, no secret
    WRONG_TOKEN = "wrong_token"  # noqa: S105  # a reason, no secret
    EXPIRED_TOKEN = "expired_token"  # noqa: S105  # a reason, no secret
    REVOKED_TOKEN = "revoked_token"  # noqa: S105  # a reason, no secret
    """It was taken out of the file while a stream was open."""
    SCOPE = "scope"
    """The client may not do this."""
    SESSION = "session"
    """The session belongs to somebody else."""
    RATE = "rate"
    TOO_MANY_FAILURES = "too_many_failures"
    ISSUER = "issuer"
    """The keys of the OAuth issuer cannot be had."""
    HOST = "host"
    ORIGIN = "origin"


class RefusedError(Exception):
    """A request is not let in."""

    def __init__(
        self, status: int, reason: Reason, message: str, hint: str | None, *, needs: Scope = Scope.READ
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.needs = needs
        """The scope that would let it in, where that is the reason."""
        self.error = UserError(message, hint=hint)
        """What the client is told; nothing secret."""


class Refusals:
    """The counts, and who was told of. Belongs to the event loop."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._counts = dict.fromkeys(Reason, 0)
        self._told: OrderedDict[tuple[str, Reason], tuple[float, int]] = OrderedDict()
        """When it was last told, and how many came since."""
        self._lines = RateLimit(_LINES, now=now)
        self._untold = 0

    def counts(self) -> Mapping[Reason, int]:
        """Refusals since start; every reason is a key."""
        return dict(self._counts)

    def total(self) -> int:
        """All of them."""
        return sum(self._counts.values())

    def note(self, reason: Reason, client: str, what: str) -> None:
        """One request of this client was refused; `what` is a clause without anything secret."""
        self._counts[reason] += 1
        key, now = (client, reason), self._now()
        told_at, since = self._told.get(key, (None, 0))
        if told_at is not None and now - told_at < TOLD_AGAIN_S:
            self._told[key] = (told_at, since + 1)
            return
        if self._lines.take("") is not None:
            self._untold += 1
            return
        self._told[key] = (now, 0)
        self._told.move_to_end(key)
        while len(self._told) > MOST_REMEMBERED:
            self._told.popitem(last=False)
        more = f"; {since} more of this client since it was last told" if since else ""
        others = f"; {self._untold} of others were not told" if self._untold else ""
        self._untold = 0
        log.warning("refused %s (%s): %s%s%s", client or "a client", reason.value, what, more, others)
