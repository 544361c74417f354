"""Every endpoint of a real daemon, asked by everybody who should get in and everybody who should not.

The daemon has a token file and an OAuth issuer, runs in operator mode, and is asked over real sockets. What
a client without a certificate gets where the daemon asks for one is the same everywhere, and is shown by the
tests of TLS.
"""

from __future__ import annotations

import http.client
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from mcp_server.tokens import new_secret
from tests.mcp_server.mcp_wire import ENVELOPE
from tests.mcp_server.speaking import INITIALIZE
from tests.support.daemon import Daemon
from tests.support.token_file import bearer
from tests.support.waiting import DEADLINE_S

MODERN = "2026-07-28"
WITHOUT_CERTIFICATE = "handshake refused"
"""What a client without a certificate gets at every endpoint where --tls-client-ca is given."""


class Asker(StrEnum):
    """Who asks: the columns."""

    NO_TOKEN = "no token"  # noqa: S105  (words)
    WRONG_TOKEN = "wrong token"  # noqa: S105
    READ = "`read`"
    OPERATE = "`operate`"
    WRONG_HOST = "`operate`, wrong Host"
    WRONG_ORIGIN = "`operate`, wrong Origin"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One thing to ask for: a row."""

    name: str
    method: str
    path: str
    body: Mapping[str, Any] | None = None
    era: str | None = None
    """Protocol version of an MCP message; None for one that opens a session, and for other paths."""


def _modern(method: str, **params: Any) -> Mapping[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": ENVELOPE}}


ENDPOINTS: Sequence[Endpoint] = (
    Endpoint("`/healthz`", "GET", "/healthz"),
    Endpoint("`/readyz`", "GET", "/readyz"),
    Endpoint("`/metrics`", "GET", "/metrics"),
    Endpoint("`/version`", "GET", "/version"),
    Endpoint("`/events`", "GET", "/events"),
    Endpoint("`/events.json`", "GET", "/events.json"),
    Endpoint("`/mcp`: a session", "POST", "/mcp", INITIALIZE),
    Endpoint("`/mcp`: `tools/list`", "POST", "/mcp", _modern("tools/list"), MODERN),
    Endpoint(
        "`/mcp`: a tool that reads",
        "POST",
        "/mcp",
        _modern("tools/call", name="get_daemon_status", arguments={}),
        MODERN,
    ),
    Endpoint(
        "`/mcp`: an operator tool",
        "POST",
        "/mcp",
        _modern("tools/call", name="reset_gpu", arguments={"gpu": "0"}),
        MODERN,
    ),
    Endpoint("`/mcp`: pushes", "GET", "/mcp"),
    Endpoint("`/sse`", "GET", "/sse"),
    Endpoint("`/messages/`", "POST", "/messages/?session_id=0", {}),
    Endpoint("`/.well-known/oauth-protected-resource`", "GET", "/.well-known/oauth-protected-resource"),
    Endpoint("a path that does not exist", "GET", "/no-such-path"),
)

_addresses = itertools.count(1)


def ask(daemon: Daemon, endpoint: Endpoint, asker: Asker, secrets: Mapping[str, str]) -> str:
    """What this one gets there: the status, and what it means where the status does not say it."""
    headers = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
    headers |= _shown(asker, secrets)
    if endpoint.era is not None and endpoint.body is not None:
        headers |= {"MCP-Protocol-Version": endpoint.era, "Mcp-Method": endpoint.body["method"]}
        if (name := endpoint.body["params"].get("name")) is not None:
            headers["Mcp-Name"] = name
    # Wrong tokens are counted by address.
    number = next(_addresses)
    source = f"127.1.{number // 250}.{number % 250 + 1}"
    connection = http.client.HTTPConnection(
        "127.0.0.1", daemon.port, timeout=DEADLINE_S, source_address=(source, 0)
    )
    try:
        body = None if endpoint.body is None else json.dumps(endpoint.body)
        connection.request(endpoint.method, endpoint.path, body=body, headers=headers)
        answer = connection.getresponse()
        if answer.status != 200 or endpoint.era is None:
            return str(answer.status)  # of a stream, nothing more is read
        return f"{answer.status}{_what(json.loads(answer.read())['result'])}"
    finally:
        connection.close()


def _shown(asker: Asker, secrets: Mapping[str, str]) -> Mapping[str, str]:
    match asker:
        case Asker.NO_TOKEN:
            return {}
        case Asker.WRONG_TOKEN:
            return bearer(new_secret())
        case Asker.READ:
            return bearer(secrets["read"])
        case Asker.OPERATE:
            return bearer(secrets["operate"])
        case Asker.WRONG_HOST:
            return {**bearer(secrets["operate"]), "Host": "rebound.example"}
        case Asker.WRONG_ORIGIN:
            return {**bearer(secrets["operate"]), "Origin": "https://evil.example"}


def _what(result: Mapping[str, Any]) -> str:
    if "tools" in result:
        names = {tool["name"] for tool in result["tools"]}
        return ", with operator tools" if "reset_gpu" in names else ", without operator tools"
    text = result["content"][0]["text"]
    return ", refused: needs `operate`" if "needs the scope operate" in text else ", the tool answers"


def rows(daemon: Daemon, secrets: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    """The table, cell by cell, without its heading."""
    for endpoint in ENDPOINTS:
        answers = (ask(daemon, endpoint, asker, secrets) for asker in Asker)
        yield (endpoint.name, *answers, WITHOUT_CERTIFICATE)
