"""Notifications that an event came: the shapes that every push of this server has.

Each carries the event itself and with it its cursor, under `_meta["xidwatch/event"]` or as data. They
wake up; the path on which nothing is lost is the cursor (`get_xid_events`, `wait_for_xid`, `/events`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import mcp_types as types

from daemon.event import Item, Severity, to_dict
from daemon.page import Missed

EVENT_KEY: Final = "xidwatch/event"
"""Key in `_meta` of `resources/updated`: the event, see DESIGN "Event as JSON"."""
MISSED_KEY: Final = "xidwatch/missed"
"""Key in `_meta` of `resources/updated`: `{"first", "last"}`, cursors that could not be delivered."""
CURSOR_KEY: Final = "xidwatch/cursor"
"""Key in `_meta` of a listen stream's acknowledgement: the cursor from which on it delivers."""
SINCE_KEY: Final = "xidwatch/since"
"""Key in `_meta` of a `subscriptions/listen` request: deliver what lies beyond this cursor, too."""

LOG_LEVELS: Final[Mapping[Severity, types.LoggingLevel]] = {
    Severity.FATAL: "critical",
    Severity.CRITICAL: "error",
    Severity.WARNING: "warning",
    Severity.INFO: "info",
}
"""How severe an event is on the scale of `notifications/message`."""
MISSED_LEVEL: Final[types.LoggingLevel] = "warning"
LOGGER: Final = "xidwatch"


def event_object(item: Item) -> dict[str, Any]:
    """The event in its public form."""
    return to_dict(item.event, item.cursor, stored=item.stored)


def missed_object(missed: Missed) -> dict[str, int]:
    """A stretch of cursors in its public form."""
    return {"first": missed.first, "last": missed.last}


def resource_updated(uri: str, meta: Mapping[str, Any]) -> types.ResourceUpdatedNotification:
    """The resource behind `uri` is another now; `meta` says why."""
    return types.ResourceUpdatedNotification(
        params=types.ResourceUpdatedNotificationParams(uri=uri, _meta=dict(meta))
    )


def log_message(level: types.LoggingLevel, data: Mapping[str, Any]) -> types.LoggingMessageNotification:
    """A log message of the protocol up to 2025-11-25."""
    return types.LoggingMessageNotification(
        params=types.LoggingMessageNotificationParams(level=level, logger=LOGGER, data=dict(data))
    )
