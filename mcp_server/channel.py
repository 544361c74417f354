"""`notifications/claude/channel`: events put before the model of a host that takes channels.

The host shows `content` to its model, with `meta` as attributes: keys are identifiers, values text.
Each costs the model a turn, so only events of `warning` and worse are sent, each once, and again
when it turns out to be worse than was said: a storm must not talk an assistant to death. How often
a fault is repeated, the cursor tells.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final, Literal, cast

import mcp_types as types
from mcp.server.session import ServerSession

from daemon.event import Item, Severity
from daemon.page import Missed
from mcp_server.quote import event_text

CAPABILITY: Final = "claude/channel"
"""Key of the experimental capability that announces these notifications."""
MIN_SEVERITY: Final = Severity.WARNING
REMEMBERED_EVENTS: Final = 256
"""Events of which a channel knows what it said; an older one would be said again with its next revision."""

INSTRUCTIONS: Final = """\
GPU faults of severity warning and worse arrive by themselves as <channel source="xidwatch" …>, with \
cursor, event_id, kind, code, severity, gpu, node and drill as attributes. A fault is announced once, \
and again only if it turns out to be worse. It is one-way: do not reply to it. Check whether it \
concerns the work at hand; get_xid_events with since=cursor - 1 gives everything known of it and after it. \
drill="true" is a test.\
"""


class Notification(types.Notification[dict[str, Any], Literal["notifications/claude/channel"]]):
    """The notification. Not part of MCP, and so not in the SDK's list of them."""

    method: Literal["notifications/claude/channel"] = "notifications/claude/channel"


class Channel:
    """The channel of one session."""

    def __init__(self, session: ServerSession) -> None:
        self._session = session
        self._said: OrderedDict[str, Severity] = OrderedDict()

    async def send(self, item: Item) -> None:
        """Tell of an event, unless it is too mild or was told of."""
        event = item.event
        before = self._said.get(event.id)
        if event.severity.rank < MIN_SEVERITY.rank:
            return
        if before is not None and before.rank >= event.severity.rank:
            return
        self._said[event.id] = event.severity
        if len(self._said) > REMEMBERED_EVENTS:
            self._said.popitem(last=False)
        # The host puts the text between tags: a process may be called "</channel>". Log text stands in
        # JSON strings only, where this is the same character.
        await self._notify(event_text(item).replace("<", "\\u003c"), attributes(item))

    async def send_missed(self, missed: Missed) -> None:
        """Tell that events could not be told of."""
        text = f"Events with cursors {missed.first} to {missed.last} could not be announced."
        await self._notify(text, {"missed_first": str(missed.first), "missed_last": str(missed.last)})

    async def _notify(self, content: str, meta: dict[str, str]) -> None:
        notification = Notification(params={"content": content, "meta": meta})
        # `send_notification` takes whatever has a method and params, but is typed for MCP's own.
        await self._session.send_notification(cast("types.ServerNotification", notification))


def attributes(item: Item) -> dict[str, str]:
    """What a host shows beside the text; what is not known is left out."""
    event = item.event
    given = {
        "cursor": str(item.cursor),
        "event_id": event.id,
        "revision": str(event.revision),
        "kind": event.kind,
        "code": None if event.code is None else str(event.code),
        "severity": event.severity,
        "blame": event.blame,
        "action": event.action,
        "gpu": None if event.gpu is None else event.gpu.uuid or event.gpu.pci,
        "nvswitch": None if event.nvswitch is None else event.nvswitch.pci,
        "node": event.node,
        "drill": "true" if event.drill else "false",
    }
    return {name: str(value) for name, value in given.items() if value is not None}
