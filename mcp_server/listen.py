"""`subscriptions/listen` of 2026-07-28: one request is one stream of updates.

The acknowledgement comes first and names what the stream delivers: of the resources asked for
those that exist and can change, nothing else (the lists of this server never change). Every frame
carries the request's id. An event is one `resources/updated` for each of the resources it concerns,
with the event under `_meta["xidwatch/event"]`.

With `_meta["xidwatch/since"]` in the request everything beyond that cursor is delivered first, in
order and without a seam to what comes later; without it, what comes from now on. What retention
deleted before is told under `_meta["xidwatch/missed"]`. The stream ends with its result when the
daemon stops; the client ends it by cancelling the request or closing the connection. It has a cursor
and no queue: a client that does not read holds up only itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import mcp_types as types
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY

from daemon.filter import EVERYTHING, EventFilter
from daemon.stream import EventStream
from mcp_server.addresses import Address, parse
from mcp_server.client import CLIENT
from mcp_server.quota import OverQuotaError, Quota
from mcp_server.reading import follow_pages, until_closed
from mcp_server.refusals import bad_params, cannot_now
from mcp_server.resources import Resources
from mcp_server.sessions import MOST_SUBSCRIPTIONS
from mcp_server.tools import Context
from mcp_server.updates import (
    CURSOR_KEY,
    EVENT_KEY,
    MISSED_KEY,
    SINCE_KEY,
    event_object,
    missed_object,
    resource_updated,
)
from probes.errors import UserError

MOST_STREAMS: Final = 4_096
"""Room for open listen streams, shared by client (see `client`); one holds about 50 KB."""
STREAMS_ALWAYS: Final = 16


class Listening:
    """The handler, and what its open streams take."""

    def __init__(self, stream: EventStream, resources: Resources) -> None:
        self._by_client = Quota(MOST_STREAMS, always=STREAMS_ALWAYS)
        self._stream = stream
        self._resources = resources

    async def serve(
        self, context: Context, params: types.SubscriptionsListenRequestParams
    ) -> types.SubscriptionsListenResult:
        """One stream, until the client leaves or the daemon stops."""
        if context.request_id is None:
            raise MCPError(code=types.INVALID_REQUEST, message="subscriptions/listen needs a request id")
        try:
            with self._by_client.taken_by(CLIENT.get()):
                return await self._serve(context, context.request_id, params)
        except OverQuotaError:
            hint = "one stream can be about many resources"
            raise cannot_now(UserError("Too many listen streams are open", hint=hint)) from None
        except UserError as error:
            raise cannot_now(error) from None

    async def _serve(
        self, context: Context, request_id: types.RequestId, params: types.SubscriptionsListenRequestParams
    ) -> types.SubscriptionsListenResult:
        stamp = {SUBSCRIPTION_ID_META_KEY: request_id}
        since = await self._start(params)
        honoured = await self._honoured(params.notifications)

        async def send(notification: types.ServerNotification) -> None:
            await context.session.send_notification(notification, related_request_id=request_id)

        await send(_acknowledgement(honoured, {**stamp, CURSOR_KEY: since}))
        if not honoured:
            await until_closed(self._stream)
        else:
            async for page in follow_pages(self._stream, since, _filter(honoured)):
                if page.missed is not None:
                    for uri in honoured:  # the stretch may concern any of them
                        meta = {**stamp, MISSED_KEY: missed_object(page.missed)}
                        await send(resource_updated(uri, meta))
                for item in page.items:
                    meta = {**stamp, EVENT_KEY: event_object(item)}
                    for uri, address in honoured.items():
                        if address.is_concerned_by(item.event):
                            await send(resource_updated(uri, meta))
        return types.SubscriptionsListenResult(_meta=stamp)

    async def _start(self, params: types.SubscriptionsListenRequestParams) -> int:
        """The cursor to begin from. Raises MCPError when the one asked for makes no sense."""
        asked: object = (params.meta or {}).get(SINCE_KEY)
        if asked is None:
            return self._stream.newest
        try:
            if not isinstance(asked, int) or isinstance(asked, bool):
                raise UserError(f"_meta {SINCE_KEY} is not a cursor", hint="give a whole number")
            await self._stream.page(asked, 1, EVERYTHING)  # refuses a cursor from the future
        except UserError as error:
            raise bad_params(error) from None
        return asked

    async def _honoured(self, asked: types.SubscriptionFilter) -> dict[str, Address]:
        """Of the resources asked for, those that exist and can change; each by its first spelling."""
        uris = dict.fromkeys(asked.resource_subscriptions or ())
        if len(uris) > MOST_SUBSCRIPTIONS:
            raise bad_params(
                UserError(
                    f"A stream can be about {MOST_SUBSCRIPTIONS} resources at most",
                    hint="listen to xid://events for every event",
                )
            )
        honoured: dict[str, Address] = {}
        for uri in uris:
            address = parse(uri)
            if address is None or not address.changes or address in honoured.values():
                continue
            if await self._resources.exists(address):
                honoured[uri] = address
        return honoured


def _acknowledgement(
    honoured: Mapping[str, Address], meta: dict[str, Any]
) -> types.SubscriptionsAcknowledgedNotification:
    return types.SubscriptionsAcknowledgedNotification(
        params=types.SubscriptionsAcknowledgedNotificationParams(
            notifications=types.SubscriptionFilter(resource_subscriptions=[*honoured] or None), _meta=meta
        )
    )


def _filter(honoured: Mapping[str, Address]) -> EventFilter:
    """For a single resource its own filter, so that a replay need not look at every event."""
    if len(honoured) == 1:
        (only,) = honoured.values()
        return only.filter()
    return EVERYTHING
