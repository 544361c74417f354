"""MCP tools: what one is, and the box that lists and calls them.

A tool is a value: names, models that give its schemas, and a coroutine. What the caller can mend
(an argument that makes no sense, a `UserError`) comes back as a tool error with one sentence, so
that the model sees it and corrects itself. An unknown tool is a protocol error. A bug is logged
with its traceback here, the one place where everything is caught, and answered without details.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from pydantic import BaseModel, ValidationError

from daemon.text import clean
from mcp_server.client import CLIENT
from mcp_server.query import quoted
from mcp_server.refusals import check_list_cursor
from mcp_server.schemas import output_schema
from mcp_server.sentences import validation_sentence
from mcp_server.wire import Arguments
from probes.errors import UserError

log = logging.getLogger(__name__)

Context = ServerRequestContext[dict[str, Any], Any]
ArgumentsT = TypeVar("ArgumentsT", bound=Arguments)


def read_only() -> types.ToolAnnotations:
    """Annotations of a tool that changes nothing and talks to this node alone."""
    return types.ToolAnnotations(
        read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
    )


class Gate(Protocol):
    """Decides who may use a tool."""

    def lets_in(self) -> bool:
        """Whether the client that is served may; to others the tool is not listed."""

    def refuse(self, asked_by: str | None) -> UserError:
        """What to tell a client that may not. `asked_by`: what it says of itself."""


class Caller:
    """The other end of one call."""

    def __init__(self, context: Context, params: types.CallToolRequestParams) -> None:
        self.context = context
        """The SDK's view of the call."""
        self.params = params
        """The call as it came, with replies to what an earlier answer asked for."""
        self.wants_progress = context.meta is not None and "progress_token" in context.meta
        """Whether the client asked to be told how far the call is."""

    async def report_progress(self, done: float, total: float, message: str) -> None:
        """Tell the client how far the call is. `done` has to grow from one report to the next."""
        await self.context.session.report_progress(done, total, message)


def asked_by(caller: Caller) -> str | None:
    """Who calls, as far as known: what the client calls itself, and where it is."""
    params = caller.context.session.client_params
    info = params.client_info if params is not None else None
    name = clean(f"{info.name} {info.version}".strip(), 120) if info is not None else None
    place = CLIENT.get()
    if not place:
        return name
    return f"{name} at {place}" if name else place


@dataclass(frozen=True, slots=True)
class Answer:
    """What a tool gives back."""

    text: str
    """Short, for people and assistants to quote."""
    data: Mapping[str, object]
    """The structured content, as the tool's output schema says."""


@dataclass(frozen=True, slots=True)
class Tool(Generic[ArgumentsT]):
    """One tool."""

    name: str
    title: str
    description: str
    arguments: type[ArgumentsT]
    result: type[BaseModel]
    run: Callable[[ArgumentsT, Caller], Awaitable[Answer | types.InputRequiredResult]]
    """Raises UserError. `InputRequiredResult` asks for something first; clients of 2026-07-28 know it."""
    annotations: types.ToolAnnotations = field(default_factory=read_only)
    gate: Gate | None = None
    """None: for everybody who was let in."""

    def listed(self) -> types.Tool:
        """As tools/list shows it."""
        return types.Tool(
            name=self.name,
            title=self.title,
            description=self.description,
            input_schema=input_schema(self.arguments),
            output_schema=output_schema(self.result),
            annotations=self.annotations,
        )

    async def call(
        self, arguments: Mapping[str, object], caller: Caller
    ) -> Answer | types.InputRequiredResult:
        """Check the arguments and run. Raises UserError."""
        try:
            checked = self.arguments.model_validate(arguments)
        except ValidationError as error:
            known = ", ".join(self.arguments.model_fields)
            raise UserError(validation_sentence(error), hint=f"arguments of {self.name}: {known}") from None
        return await self.run(checked, caller)


class Toolbox:
    """The tools of a server."""

    def __init__(self, tools: Iterable[Tool[Any]]) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._listed = {tool.name: tool.listed() for tool in self._tools.values()}

    async def list(
        self, context: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        """Handler of tools/list."""
        check_list_cursor(params)
        return types.ListToolsResult(
            tools=[
                self._listed[name]
                for name, tool in self._tools.items()
                if tool.gate is None or tool.gate.lets_in()
            ]
        )

    def gate_of(self, name: object) -> Gate | None:
        """Who decides who may use this tool; None for one that everybody may, or that there is not."""
        tool = self._tools.get(name) if isinstance(name, str) else None
        return tool.gate if tool is not None else None

    def input_schema(self, name: str) -> Mapping[str, Any] | None:
        """JSON schema of a tool's arguments; None for an unknown tool."""
        listed = self._listed.get(name)
        return listed.input_schema if listed is not None else None

    async def call(
        self, context: Context, params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult:
        """Handler of tools/call."""
        tool = self._tools.get(params.name)
        if tool is None:
            raise MCPError(code=types.INVALID_PARAMS, message=f"Unknown tool {quoted(params.name)}")
        caller = Caller(context, params)
        try:
            if tool.gate is not None and not tool.gate.lets_in():
                raise tool.gate.refuse(asked_by(caller))
            answer = await tool.call(params.arguments or {}, caller)
        except UserError as error:
            return _failed(f"{error.message}. {error.hint}." if error.hint else f"{error.message}.")
        except Exception:  # the boundary: a bug in one tool must not end the session
            log.exception("tool %s failed", tool.name)
            return _failed("Internal error in xidwatch; its log has the details.")
        if isinstance(answer, types.InputRequiredResult):
            return answer
        return types.CallToolResult(
            content=[types.TextContent(type="text", text=answer.text)], structured_content=dict(answer.data)
        )


def input_schema(arguments: type[Arguments]) -> dict[str, Any]:
    """The JSON schema of a tool's arguments, without the class's docstring and generated titles."""
    schema = arguments.model_json_schema()
    schema.pop("title", None)
    schema.pop("description", None)
    for each in schema["properties"].values():
        each.pop("title", None)
    return schema


def _failed(text: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)], is_error=True)
