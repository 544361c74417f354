"""Errors of the MCP protocol that more than one handler answers with.

What a tool's caller can mend is a tool error instead (see `tools`).
"""

from __future__ import annotations

from typing import Final

import mcp_types as types
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from mcp_server.query import quoted
from probes.errors import UserError

RESOURCE_NOT_FOUND: Final = -32002
"""Of the protocol up to 2025-11-25; 2026-07-28 has "invalid params" in its place."""


def no_resource(uri: str, protocol_version: str) -> MCPError:
    """There is no such resource."""
    code = types.INVALID_PARAMS if protocol_version in MODERN_PROTOCOL_VERSIONS else RESOURCE_NOT_FOUND
    return MCPError(code=code, message=f"Unknown resource {quoted(uri)}", data={"uri": uri[:200]})


def bad_params(error: UserError) -> MCPError:
    """The client asked for something that makes no sense."""
    return MCPError(code=types.INVALID_PARAMS, message=_sentences(error))


def cannot_now(error: UserError) -> MCPError:
    """The question was sound, and cannot be answered: the journal is unreadable, the daemon is stopping."""
    return MCPError(code=types.INTERNAL_ERROR, message=_sentences(error))


def check_list_cursor(params: types.PaginatedRequestParams | None) -> None:
    """Refuse a cursor of a list: every list of this server is one page, so none was ever given out."""
    if params is not None and params.cursor is not None:
        raise MCPError(code=types.INVALID_PARAMS, message=f"Invalid cursor {quoted(params.cursor)}")


def _sentences(error: UserError) -> str:
    return f"{error.message}. {error.hint}." if error.hint else f"{error.message}."
