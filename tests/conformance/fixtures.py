"""What the conformance suite looks up by name, put beside what the product offers.

Only for features that the product's server can carry: tools, resources, templates, prompts and
completion. The product's own handlers stay in place and answer for everything that is not a
fixture, so the suite runs through the product's server, its endpoint and its guard.
"""

from __future__ import annotations

import asyncio
import json
import re
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import mcp_types as types
from mcp.shared.exceptions import MCPError

from mcp_server.server import McpServer
from mcp_server.tools import Context

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
WAV = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA="

Content = list[types.ContentBlock]
Run = Callable[[Context], Awaitable[Content]]


def _text(text: str) -> types.TextContent:
    return types.TextContent(type="text", text=text)


def _embedded(uri: str, mime_type: str, text: str) -> types.EmbeddedResource:
    held = types.TextResourceContents(uri=uri, mime_type=mime_type, text=text)
    return types.EmbeddedResource(type="resource", resource=held)


async def _simple_text(context: Context) -> Content:
    return [_text("This is a simple text response for testing.")]


async def _image(context: Context) -> Content:
    return [types.ImageContent(type="image", data=PNG, mime_type="image/png")]


async def _audio(context: Context) -> Content:
    return [types.AudioContent(type="audio", data=WAV, mime_type="audio/wav")]


async def _embedded_resource(context: Context) -> Content:
    return [_embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")]


async def _mixed(context: Context) -> Content:
    return [
        _text("Multiple content types test:"),
        types.ImageContent(type="image", data=PNG, mime_type="image/png"),
        _embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}'),
    ]


async def _logging(context: Context) -> Content:
    for sentence in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated as of 2026-07-28, which is not asked for here
            send = context.session.send_log_message
            await send("info", sentence, related_request_id=context.request_id)
        await asyncio.sleep(0.05)
    return [_text("logged")]


async def _progress(context: Context) -> Content:
    for done in (0, 50, 100):
        await context.session.report_progress(done, 100)
        await asyncio.sleep(0.05)
    return [_text("done")]


async def _error(context: Context) -> Content:
    raise ValueError("This tool intentionally returns an error for testing")


async def _reconnection(context: Context) -> Content:
    """Ends the stream in the middle of the call: the client comes back with Last-Event-ID (SEP-1699)."""
    await asyncio.sleep(0.1)
    if context.close_sse_stream is not None:
        await context.close_sse_stream()
    await asyncio.sleep(0.3)
    return [_text("reconnected")]


async def _missing_capability(context: Context) -> Content:
    needed = types.ClientCapabilities(sampling=types.SamplingCapability())
    if not context.session.check_client_capability(needed):
        data: dict[str, Any] = {"requiredCapabilities": {"sampling": {}}}
        raise MCPError(
            code=types.MISSING_REQUIRED_CLIENT_CAPABILITY, message="sampling is required", data=data
        )
    return [_text("sampling is there")]


TOOLS: dict[str, Run] = {
    "test_simple_text": _simple_text,
    "test_image_content": _image,
    "test_audio_content": _audio,
    "test_embedded_resource": _embedded_resource,
    "test_multiple_content_types": _mixed,
    "test_tool_with_logging": _logging,
    "test_tool_with_progress": _progress,
    "test_error_handling": _error,
    "test_reconnection": _reconnection,
    "test_missing_capability": _missing_capability,
    "test_logging_tool": _logging,
    # The check looks for requests on the stream of an answer. A server that never sends any shows
    # it with a stream of progress.
    "test_streaming_elicitation": _progress,
    "json_schema_2020_12_tool": _simple_text,
}

_NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}}
_JSON_SCHEMA_2020_12: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}

RESOURCES: dict[str, types.TextResourceContents | types.BlobResourceContents] = {
    "test://static-text": types.TextResourceContents(
        uri="test://static-text",
        mime_type="text/plain",
        text="This is the content of the static text resource.",
    ),
    "test://static-binary": types.BlobResourceContents(
        uri="test://static-binary", mime_type="image/png", blob=PNG
    ),
    "test://watched-resource": types.TextResourceContents(
        uri="test://watched-resource", mime_type="text/plain", text="watched"
    ),
}
TEMPLATE = "test://template/{id}/data"


def _argument(name: str) -> types.PromptArgument:
    return types.PromptArgument(name=name, description="fixture", required=True)


PROMPTS = (
    types.Prompt(name="test_simple_prompt", description="fixture"),
    types.Prompt(
        name="test_prompt_with_arguments",
        description="fixture",
        arguments=[_argument("arg1"), _argument("arg2")],
    ),
    types.Prompt(
        name="test_prompt_with_embedded_resource", description="fixture", arguments=[_argument("resourceUri")]
    ),
    types.Prompt(name="test_prompt_with_image", description="fixture"),
)


def _prompt_content(name: str, given: dict[str, str]) -> Content | None:
    match name:
        case "test_simple_prompt":
            return [_text("This is a simple prompt for testing.")]
        case "test_prompt_with_arguments":
            return [_text(f"Prompt with arguments: arg1='{given['arg1']}', arg2='{given['arg2']}'")]
        case "test_prompt_with_embedded_resource":
            text = "Embedded resource content for testing."
            embedded = _embedded(given["resourceUri"], "text/plain", text)
            return [embedded, _text("Please process the embedded resource above.")]
        case "test_prompt_with_image":
            image = types.ImageContent(type="image", data=PNG, mime_type="image/png")
            return [image, _text("Please analyze the image above.")]
        case _:
            return None


def add_fixtures(server: McpServer) -> None:
    """Put the fixtures beside what this server offers."""
    _add_tools(server)
    _add_resources(server)
    _add_prompts(server)
    _add_completion(server)


def _product(server: McpServer, method: str) -> Any:
    entry = server.get_request_handler(method)
    assert entry is not None, f"the product does not handle {method}"
    return entry.handler


def _add_tools(server: McpServer) -> None:
    list_tools, call_tool = _product(server, "tools/list"), _product(server, "tools/call")
    fixtures = [
        types.Tool(
            name=name,
            description="fixture",
            input_schema=_JSON_SCHEMA_2020_12 if name.startswith("json_schema") else _NO_ARGUMENTS,
        )
        for name in TOOLS
    ]

    async def listed(context: Context, params: Any) -> types.ListToolsResult:
        own: types.ListToolsResult = await list_tools(context, params)
        return own.model_copy(update={"tools": [*own.tools, *fixtures]})

    async def called(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        run = TOOLS.get(params.name)
        if run is None:
            answer: types.CallToolResult = await call_tool(context, params)
            return answer
        try:
            return types.CallToolResult(content=await run(context))
        except ValueError as error:
            return types.CallToolResult(content=[_text(str(error))], is_error=True)

    server.add_request_handler("tools/list", types.PaginatedRequestParams, listed)
    server.add_request_handler("tools/call", types.CallToolRequestParams, called)


def _add_resources(server: McpServer) -> None:
    list_resources, list_templates = (
        _product(server, "resources/list"),
        _product(server, "resources/templates/list"),
    )
    read, subscribe, unsubscribe = (
        _product(server, f"resources/{verb}") for verb in ("read", "subscribe", "unsubscribe")
    )

    async def listed(context: Context, params: Any) -> types.ListResourcesResult:
        own: types.ListResourcesResult = await list_resources(context, params)
        fixtures = [
            types.Resource(uri=uri, name=uri, mime_type=held.mime_type) for uri, held in RESOURCES.items()
        ]
        return own.model_copy(update={"resources": [*own.resources, *fixtures]})

    async def templates(context: Context, params: Any) -> types.ListResourceTemplatesResult:
        own: types.ListResourceTemplatesResult = await list_templates(context, params)
        fixture = types.ResourceTemplate(uri_template=TEMPLATE, name="template")
        return own.model_copy(update={"resource_templates": [*own.resource_templates, fixture]})

    async def contents(context: Context, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        if params.uri in RESOURCES:
            return types.ReadResourceResult(contents=[RESOURCES[params.uri]])
        if found := re.fullmatch(r"test://template/([^/]+)/data", params.uri):
            data = {"id": found[1], "templateTest": True, "data": f"Data for ID: {found[1]}"}
            held = types.TextResourceContents(
                uri=params.uri, mime_type="application/json", text=json.dumps(data)
            )
            return types.ReadResourceResult(contents=[held])
        answer: types.ReadResourceResult = await read(context, params)
        return answer

    async def subscribed(context: Context, params: types.SubscribeRequestParams) -> types.EmptyResult:
        if params.uri in RESOURCES:
            return types.EmptyResult()
        answer: types.EmptyResult = await subscribe(context, params)
        return answer

    async def unsubscribed(context: Context, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
        if params.uri in RESOURCES:
            return types.EmptyResult()
        answer: types.EmptyResult = await unsubscribe(context, params)
        return answer

    server.add_request_handler("resources/list", types.PaginatedRequestParams, listed)
    server.add_request_handler("resources/templates/list", types.PaginatedRequestParams, templates)
    server.add_request_handler("resources/read", types.ReadResourceRequestParams, contents)
    server.add_request_handler("resources/subscribe", types.SubscribeRequestParams, subscribed)
    server.add_request_handler("resources/unsubscribe", types.UnsubscribeRequestParams, unsubscribed)


def _add_prompts(server: McpServer) -> None:
    offers_prompts = server.get_request_handler("prompts/list") is not None
    list_prompts = _product(server, "prompts/list") if offers_prompts else None
    get_prompt = _product(server, "prompts/get") if offers_prompts else None

    async def listed(context: Context, params: Any) -> types.ListPromptsResult:
        offered = [] if list_prompts is None else (await list_prompts(context, params)).prompts
        return types.ListPromptsResult(prompts=[*offered, *PROMPTS])

    async def got(context: Context, params: types.GetPromptRequestParams) -> types.GetPromptResult:
        content = _prompt_content(params.name, params.arguments or {})
        if content is None:
            if get_prompt is None:
                raise MCPError(code=types.INVALID_PARAMS, message=f"Unknown prompt {params.name}")
            answer: types.GetPromptResult = await get_prompt(context, params)
            return answer
        messages = [types.PromptMessage(role="user", content=each) for each in content]
        return types.GetPromptResult(messages=messages)

    server.add_request_handler("prompts/list", types.PaginatedRequestParams, listed)
    server.add_request_handler("prompts/get", types.GetPromptRequestParams, got)


def _add_completion(server: McpServer) -> None:
    complete = _product(server, "completion/complete")

    async def completed(context: Context, params: types.CompleteRequestParams) -> types.CompleteResult:
        if isinstance(params.ref, types.PromptReference):
            return types.CompleteResult(completion=types.Completion(values=["paris", "park"], total=2))
        answer: types.CompleteResult = await complete(context, params)
        return answer

    server.add_request_handler("completion/complete", types.CompleteRequestParams, completed)
