"""What a session of the 2025 eras has asked for: a log level, and resources to be told about.

A session is known by its handshake. The SDK keeps one `client_params` object for as long as a
session lives, and `one_handshake` sees to it that it stays the same one; when it goes, what is
remembered here goes with it. Belongs to the event loop.

This module holds the only middleware of the server: that interface of the SDK is provisional.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Final, get_args

import mcp_types as types
from mcp.server.context import CallNext, HandlerResult
from mcp.shared.exceptions import MCPError
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from mcp_server.addresses import Address, parse
from mcp_server.refusals import bad_params, cannot_now, no_resource
from mcp_server.resources import Resources
from mcp_server.tools import Context
from probes.errors import UserError

MOST_SUBSCRIPTIONS: Final = 256
"""Resources of one session, or of one listen stream: many times the GPUs of a node."""

_LEVELS: Final[tuple[types.LoggingLevel, ...]] = get_args(types.LoggingLevel)
"""Mildest first."""


@dataclass(slots=True)
class Wishes:
    """What one session wants to be told."""

    level: types.LoggingLevel = _LEVELS[0]
    """The mildest log message to send; all of them until the client says otherwise."""
    resources: dict[str, Address] = field(default_factory=dict)
    """Subscribed resources by URI, exactly as the client wrote it."""
    is_served: bool = False
    """True while a push loop runs for the session."""

    def spelling_of(self, address: Address) -> str | None:
        """The URI by which this resource is subscribed; None when it is not."""
        return next((uri for uri, subscribed in self.resources.items() if subscribed == address), None)

    def wants_message(self, level: types.LoggingLevel) -> bool:
        """Whether a log message of this level is to be sent."""
        return _LEVELS.index(level) >= _LEVELS.index(self.level)


class Sessions:
    """The wishes of every open session, and the requests that change them."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._wishes: dict[int, Wishes] = {}

    def __len__(self) -> int:
        """Sessions that anything is remembered of."""
        return len(self._wishes)

    def of(self, context: Context) -> Wishes | None:
        """What the session of this message wants; None when it has had no handshake."""
        handshake = context.session.client_params
        if handshake is None:
            return None
        key = id(handshake)
        if key not in self._wishes:
            self._wishes[key] = Wishes()
            weakref.finalize(handshake, self._wishes.pop, key, None)
        return self._wishes[key]

    async def set_level(self, context: Context, params: types.SetLevelRequestParams) -> types.EmptyResult:
        """Handler of logging/setLevel."""
        self._must_have(context).level = params.level
        return types.EmptyResult()

    async def subscribe(self, context: Context, params: types.SubscribeRequestParams) -> types.EmptyResult:
        """Handler of resources/subscribe. A URI that names nothing is a protocol error."""
        wishes, uri = self._must_have(context), params.uri
        address = parse(uri)
        try:
            if address is None or not await self._resources.exists(address):
                raise no_resource(uri, context.protocol_version)
        except UserError as error:
            raise cannot_now(error) from None
        if not address.changes:
            raise bad_params(UserError("This resource never changes", hint="read it when you need it"))
        if uri in wishes.resources:
            return types.EmptyResult()
        if (known := wishes.spelling_of(address)) is not None:
            raise bad_params(UserError("The session has subscribed to this resource", hint=f"as {known}"))
        if len(wishes.resources) >= MOST_SUBSCRIPTIONS:
            raise bad_params(
                UserError(
                    f"A session can subscribe to {MOST_SUBSCRIPTIONS} resources at most",
                    hint="subscribe to xid://events for every event",
                )
            )
        wishes.resources[uri] = address
        return types.EmptyResult()

    async def unsubscribe(
        self, context: Context, params: types.UnsubscribeRequestParams
    ) -> types.EmptyResult:
        """Handler of resources/unsubscribe; what was not subscribed to is no error."""
        self._must_have(context).resources.pop(params.uri, None)
        return types.EmptyResult()

    def _must_have(self, context: Context) -> Wishes:
        wishes = self.of(context)
        if wishes is None:
            raise MCPError(code=types.INVALID_REQUEST, message="The session has not been initialized")
        return wishes


async def one_handshake(ctx: Context, call_next: CallNext) -> HandlerResult:
    """Middleware: refuse a second `initialize` of a session. (2026-07-28 has no such method at all, and
    client parameters with every request: the SDK's own answer stands there.)"""
    is_session = ctx.protocol_version in HANDSHAKE_PROTOCOL_VERSIONS
    if ctx.method == "initialize" and is_session and ctx.session.client_params is not None:
        raise MCPError(code=types.INVALID_REQUEST, message="The session has already been initialized")
    return await call_next(ctx)
