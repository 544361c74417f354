"""Calling a tool as an assistant does: the SDK's client over HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

from mcp import Client
from mcp_types import CallToolResult, TextContent
from pydantic import BaseModel

from tests.support.waiting import DEADLINE_S


def call(url: str, tool: str, era: str = "legacy", **arguments: Any) -> CallToolResult:
    """The result, which the client has checked against the tool's schema; it may be an error."""

    async def main() -> Any:
        async with asyncio.timeout(DEADLINE_S), Client(f"{url}/mcp", mode=era) as client:
            await client.list_tools()
            return await client.call_tool(tool, arguments)

    result = asyncio.run(main())
    assert isinstance(result, CallToolResult)
    return result


def answer(
    url: str, tool: str, model: type[BaseModel], era: str = "legacy", **arguments: Any
) -> tuple[dict[str, Any], str]:
    """Structured content, of the shape of `model`, and text of a call that must succeed."""
    result = call(url, tool, era, **arguments)
    assert not result.is_error, result.content
    assert result.structured_content is not None
    model.model_validate(result.structured_content)
    (only,) = result.content
    assert isinstance(only, TextContent)
    return result.structured_content, only.text
