"""Who may use the operator tools: those with the scope `operate`, and nobody else.

To others the tools are not listed; a call is refused with a sentence, counted, and left on record: the first
of somebody for a tool, then one a minute at most, which says how many there were since.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from daemon.operator.audit import Audit, AuditEntry, OperatorAction, Outcome
from daemon.operator.who import Way, Who
from mcp_server.client import CLIENT
from mcp_server.identity import IDENTITY, Scope
from mcp_server.refused import Reason, Refusals
from probes.errors import UserError

RECORDED_AGAIN_S: Final = 60.0
"""A refused client that tries on writes one record a minute, with how often it tried."""
MOST_REMEMBERED: Final = 256
"""Clients that were refused; the oldest is forgotten first, and then recorded anew."""


class OperatorGate:
    """In front of one tool. Belongs to the event loop."""

    def __init__(
        self,
        action: OperatorAction,
        audit: Audit,
        refusals: Refusals,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._action = action
        self._audit = audit
        self._refusals = refusals
        self._now = now
        self._recorded: OrderedDict[Who, tuple[float, int]] = OrderedDict()
        """When somebody's refusal was put on record, and how many came since."""

    def lets_in(self) -> bool:
        """Whether the client that is served may use the tool."""
        return IDENTITY.get().may(Scope.OPERATE)

    def refuse(self, asked_by: str | None) -> UserError:
        """Take note of a call by somebody who may not; what to tell them. `asked_by` see `AuditEntry`."""
        who = IDENTITY.get().who
        message = f"{_named(who)} may read, and {self._action.value} needs the scope operate"
        self._refusals.note(Reason.SCOPE, CLIENT.get(), f"{who} asked for {self._action.value}")
        somebody = replace(who, pid=None)  # a user has as many processes as they like
        told_at, since = self._recorded.get(somebody, (None, 0))
        now = self._now()
        if told_at is not None and now - told_at < RECORDED_AGAIN_S:
            self._recorded[somebody] = (told_at, since + 1)
        else:
            more = f" {since} more such calls since the last record." if since else ""
            sentence = f"{message}; nothing was done.{more}"
            self._audit(AuditEntry(self._action, Outcome.REFUSED, sentence, asked_by=asked_by))
            self._recorded[somebody] = (now, 0)
            self._recorded.move_to_end(somebody)
            while len(self._recorded) > MOST_REMEMBERED:
                self._recorded.popitem(last=False)
        return UserError(message, hint=_HINTS[who.way])


def _named(who: Who) -> str:
    return "whoever asks over HTTP without a token" if who.way is Way.ANONYMOUS else str(who)


_GET_ONE = "use a token with that scope (xidwatch token NAME --scope operate), or `xidwatch stdio` as root"
_HINTS: Final = {
    Way.ANONYMOUS: f"start the daemon with --token-file and {_GET_ONE}",
    Way.CERTIFICATE: f"start the daemon with --token-file and {_GET_ONE}",
    Way.TOKEN: _GET_ONE,
    Way.OAUTH: "have the scope operate granted where the access token comes from",
    Way.SOCKET: "ask as root or as the daemon's user, or be named in --socket-operators",
}
