"""Who a request is served for, and what they may do.

`IDENTITY` is set where a client comes in: by `door` for HTTP, by `unix_socket` from what the kernel says.
What runs on behalf of the client (the SDK's session tasks too) inherits it.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from daemon.operator.who import Way, Who


class Scope(StrEnum):
    """What somebody may do, as token files and access tokens spell it."""

    READ = "read"
    """See everything and change nothing."""
    OPERATE = "operate"
    """Act on the node with the operator tools, where `--mode operator` is on; includes `read`."""


READING: Final = frozenset({Scope.READ})
OPERATING: Final = frozenset({Scope.READ, Scope.OPERATE})
NOTHING: Final[frozenset[Scope]] = frozenset()


def scopes_of(scope: Scope) -> frozenset[Scope]:
    """A scope with those that it includes."""
    return OPERATING if scope is Scope.OPERATE else READING


@dataclass(frozen=True, slots=True)
class Identity:
    """One client as it was let in; a value."""

    who: Who
    scopes: frozenset[Scope]
    key: str = ""
    """Whose sessions are whose: requests with different keys never share one. Another scope is another key,
    so that nobody acts through a session that somebody else opened with more rights."""
    expires: float | None = None
    """Until when it is let in, in seconds since the Unix epoch; None: without end."""

    def may(self, scope: Scope) -> bool:
        """Whether this is within what it may do."""
        return scope in self.scopes


ANONYMOUS: Final = Identity(Who(Way.ANONYMOUS), READING)
"""Everybody, where no door is configured: reading only."""

IDENTITY: Final[ContextVar[Identity]] = ContextVar("IDENTITY", default=ANONYMOUS)
"""Whom the running task serves."""
