"""A client made with version 1 of the Python SDK; see `sdk` for what it is told and tells."""

# mypy: ignore-errors
# Reason: what mypy finds installed is version 2.

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from typing import Any

from mcp import ClientSession, StdioServerParameters, stdio_client, types
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

EVENTS = "xid://events"


def tell(**what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def on_message(message: object) -> None:
    inner = message.root if isinstance(message, types.ServerNotification) else None
    if isinstance(inner, types.ResourceUpdatedNotification):
        meta = inner.params.meta.model_dump() if inner.params.meta else {}
        tell(pushed=meta.get("xidwatch/event"), via="resources/updated", uri=str(inner.params.uri))
    elif isinstance(inner, types.LoggingMessageNotification):
        tell(pushed=inner.params.data, via="message")


def transport_for(spec: dict[str, Any]) -> Any:
    if spec["transport"] == "stdio":
        command, *arguments = spec["command"]
        return stdio_client(
            StdioServerParameters(command=command, args=arguments, env=spec["env"], cwd=spec["cwd"])
        )
    return (sse_client if spec["transport"] == "sse" else streamable_http_client)(spec["url"])


async def read_on(session: ClientSession, since: int) -> list[Any]:
    """Everything beyond `since`."""
    events: list[Any] = []
    while True:
        result = await session.call_tool("get_xid_events", {"since": since, "limit": 2})
        page = result.structuredContent
        assert page is not None, result.content
        events += page["events"]
        if page["next_cursor"] == page["newest_cursor"]:
            return events
        since = page["next_cursor"]


async def main(spec: dict[str, Any]) -> None:
    async with contextlib.AsyncExitStack() as stack:
        read, write, *_ = await stack.enter_async_context(transport_for(spec))
        session = await stack.enter_async_context(ClientSession(read, write, message_handler=on_message))
        tell(connected=(await session.initialize()).protocolVersion)
        if spec["since"] is not None:
            tell(read=await read_on(session, spec["since"]))
            return
        result = await session.call_tool("get_xid_events", {"limit": 1})
        tell(called=result.structuredContent)
        await session.subscribe_resource(types.AnyUrl(EVENTS))
        tell(subscribed=EVENTS)
        await asyncio.to_thread(sys.stdin.read)


asyncio.run(main(json.loads(sys.argv[1])))
