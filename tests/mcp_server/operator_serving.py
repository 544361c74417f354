"""A server with the operator tools on real sockets, in the event loop of the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daemon.operator.audit import AuditEntry, Outcome
from daemon.operator.desk import LASTS_S
from daemon.ring import Ring
from daemon.stream import EventStream
from mcp_server.access import Access
from mcp_server.app import build_app
from mcp_server.identity import Scope
from mcp_server.listener import Listener, bind
from mcp_server.oauth import OAuth, OAuthSettings
from mcp_server.operator_tools import operator_tools
from mcp_server.server import McpServer
from mcp_server.services import Services
from mcp_server.token_file import TokenFile
from mcp_server.tools import Tool, Toolbox
from mcp_server.unix_socket import unix_socket
from tests.support.issuer import Issuer
from tests.support.operator_node import FakeGpus, host_reader, watch_of
from tests.support.token_file import TokenFileOnDisk
from tests.support.waiting import DEADLINE_S


@dataclass(slots=True)
class OperatorNode:
    """What a test sees of it."""

    gpus: FakeGpus = field(default_factory=FakeGpus)
    records: list[AuditEntry] = field(default_factory=list)
    url: str = ""
    socket_path: Path | None = None
    secret: str = ""
    """Of the token `on-call`, which may operate."""
    dash: str = ""
    """Of the token `dash`, which may read."""

    @property
    def outcomes(self) -> list[Outcome]:
        return [record.outcome for record in self.records]


def server_with(tools: Iterable[Tool[Any]]) -> McpServer:
    toolbox = Toolbox(tools)
    server = McpServer(
        "xidwatch",
        version="0.0.test",
        get_tool_input_schema=toolbox.input_schema,
        on_list_tools=toolbox.list,
        on_call_tool=toolbox.call,
    )
    server.toolbox = toolbox
    return server


@asynccontextmanager
async def operator_node(
    directory: Path, *, lasts_s: float = LASTS_S, issuer: Issuer | None = None
) -> AsyncIterator[OperatorNode]:
    """The server, for as long as the block runs. `issuer`: its tokens for the server's URL count, too."""
    file = TokenFileOnDisk(directory / "tokens")
    node = OperatorNode(
        socket_path=directory / "s", secret=file.add("on-call", Scope.OPERATE), dash=file.add("dash")
    )
    bound = bind("127.0.0.1", 0)
    node.url = f"http://127.0.0.1:{bound.getsockname()[1]}/mcp"
    settings = OAuthSettings.of(issuer.url, node.url, None, None) if issuer is not None else None
    access = Access(tokens=TokenFile(file.path), oauth=OAuth(settings) if settings is not None else None)
    stream = EventStream(Ring(16), first_cursor=1)
    services = Services(
        node="gpu-17",
        version="0.0.test",
        listen_host="127.0.0.1",
        stream=stream,
        status=dict,
        health=tuple,
        access=access,
    )
    tools = operator_tools(
        watch_of(node.gpus),
        node.records.append,
        node="gpu-17",
        driver=node.gpus,
        reader=host_reader(),
        lasts_s=lasts_s,
    )
    server = server_with(tools)
    listener = Listener(build_app(services, server), bound, on_stop=stream.close)
    async with asyncio.timeout(2 * DEADLINE_S), unix_socket(directory / "s", services, lambda _: server):
        serving = asyncio.create_task(listener.run_until_stopped())
        try:
            yield node
        finally:
            listener.stop()
            await serving
