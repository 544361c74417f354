"""A client made with version 2 of the Python SDK; see `sdk` for what it is told and tells."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from typing import Any

import mcp_types as types
from mcp import Client, StdioServerParameters
from mcp.client.sse import sse_client

EVENTS = "xid://events"


def tell(**what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def on_message(message: object) -> None:
    if isinstance(message, types.ResourceUpdatedNotification):
        event = (message.params.meta or {}).get("xidwatch/event")
        tell(pushed=event, via="resources/updated", uri=str(message.params.uri))
    elif isinstance(message, types.LoggingMessageNotification):
        tell(pushed=message.params.data, via="message")


def client_for(spec: dict[str, Any]) -> Client:
    server: Any = spec.get("url")
    if spec["transport"] == "stdio":
        command, *arguments = spec["command"]
        server = StdioServerParameters(command=command, args=arguments, env=spec["env"], cwd=spec["cwd"])
    elif spec["transport"] == "sse":
        server = sse_client(spec["url"])
    return Client(server, mode=spec["era"], message_handler=on_message)


async def read_on(client: Client, since: int) -> list[Any]:
    """Everything beyond `since`."""
    events: list[Any] = []
    while True:
        result = await client.call_tool("get_xid_events", {"since": since, "limit": 2})
        page = result.structured_content
        assert page is not None, result.content
        events += page["events"]
        if page["next_cursor"] == page["newest_cursor"]:
            return events
        since = page["next_cursor"]


async def main(spec: dict[str, Any]) -> None:
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(client_for(spec))
        tell(connected=client.protocol_version)
        if spec["since"] is not None:
            tell(read=await read_on(client, spec["since"]))
            return
        result = await client.call_tool("get_xid_events", {"limit": 1})
        tell(called=result.structured_content)
        if client.protocol_version < "2026":
            await client.subscribe_resource(EVENTS)
        else:
            await stack.enter_async_context(client.listen(resource_subscriptions=[EVENTS]))
        tell(subscribed=EVENTS)
        await asyncio.to_thread(sys.stdin.read)


asyncio.run(main(json.loads(sys.argv[1])))
