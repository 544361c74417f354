"""curl: what the protocol is on the wire, with nothing in between."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.clients.cells import Ability, Cell, Era, Transport
from tests.clients.outcome import Outcome
from tests.clients.place import Place, check_resumed, pid_of
from tests.clients.talker import Talker, output_of
from tests.support.installed import UnavailableError
from tests.support.waiting import DEADLINE_S

EVENTS = "xid://events"
LEGACY_VERSION = {Transport.HTTP: "2025-11-25", Transport.SSE: "2024-11-05"}
CLIENT = {"name": "curl", "version": "1.0"}
META = {
    "io.modelcontextprotocol/protocolVersion": Era.MODERN.value,
    "io.modelcontextprotocol/clientInfo": CLIENT,
    "io.modelcontextprotocol/clientCapabilities": {},
}
_ids = itertools.count(1)


def converse(cell: Cell, place: Place, outcome: Outcome) -> None:
    """Connect, call, be pushed to, be cut off, and come back."""
    if shutil.which("curl") is None:
        raise UnavailableError("curl is not installed")
    {
        (Transport.HTTP, Era.LEGACY): _session,
        (Transport.HTTP, Era.MODERN): _exchanges,
        (Transport.SSE, Era.LEGACY): _sse,
    }[cell.transport, cell.era](place, outcome)


def _session(place: Place, outcome: Outcome) -> None:
    """Streamable HTTP with a session: one POST a message, one GET for what the server sends by itself."""
    url = _url(place)
    headers, answer = _post(url, request("initialize", **_hello(Transport.HTTP)))
    session = (f"Mcp-Session-Id: {headers['mcp-session-id']}", "MCP-Protocol-Version: 2025-11-25")
    outcome.shown[Ability.CONNECTS] = answer["result"]["protocolVersion"]
    _post(url, notification("notifications/initialized"), *session)
    with _stream(url, *session) as pushes:
        _post(url, request("resources/subscribe", uri=EVENTS), *session)
        _check_call(_post(url, call("get_xid_events", limit=1), *session)[1], outcome)
        cursor = _pushed(pushes, place.fault(), outcome)
    away = place.stored_faults(3)
    read = _read(_post(url, call("get_xid_events", since=cursor), *session)[1])
    check_resumed(read, since=cursor, away=away)
    outcome.shown[Ability.RESUMES] = "get_xid_events from the cursor of the push"


def _exchanges(place: Place, outcome: Outcome) -> None:
    """2026-07-28: every POST stands for itself, and `subscriptions/listen` is one that goes on."""
    url = _url(place)
    _, answer = _post(url, *modern("server/discover"))
    outcome.shown[Ability.CONNECTS] = next(
        v for v in answer["result"]["supportedVersions"] if v == Era.MODERN
    )
    _check_call(_post(url, *modern("tools/call", **call_parameters("get_xid_events", limit=1)))[1], outcome)
    wanted = {"notifications": {"resourceSubscriptions": [EVENTS]}}
    with _posted_stream(url, *modern("subscriptions/listen", **wanted)) as pushes:
        assert next(pushes)["method"] == "notifications/subscriptions/acknowledged"
        cursor = _pushed(pushes, place.fault(), outcome)
    away = place.stored_faults(3)
    read: list[Any] = []
    again = modern("subscriptions/listen", meta={"xidwatch/since": cursor}, **wanted)
    with _posted_stream(url, *again) as pushes:
        while not away <= set(map(pid_of, read)):
            message = next(pushes)
            if message["method"] == "notifications/resources/updated":
                read.append(message["params"]["_meta"]["xidwatch/event"])
    check_resumed(read, since=cursor, away=away)
    outcome.shown[Ability.RESUMES] = "subscriptions/listen with xidwatch/since"


def _sse(place: Place, outcome: Outcome) -> None:
    """HTTP+SSE: a GET whose first event names where to POST, and on which every answer comes."""
    with _sse_session(place) as (answers, post):
        answer = post(request("initialize", **_hello(Transport.SSE)))
        outcome.shown[Ability.CONNECTS] = answer["result"]["protocolVersion"]
        post(notification("notifications/initialized"))
        _check_call(post(call("get_xid_events", limit=1)), outcome)
        post(request("resources/subscribe", uri=EVENTS))
        cursor = _pushed(answers, place.fault(), outcome)
    away = place.stored_faults(3)
    with _sse_session(place) as (_, post):
        post(request("initialize", **_hello(Transport.SSE)))
        post(notification("notifications/initialized"))
        read = _read(post(call("get_xid_events", since=cursor)))
    check_resumed(read, since=cursor, away=away)
    outcome.shown[Ability.RESUMES] = "get_xid_events from the cursor of the push"


# ---- what is sent ------------------------------------------------------------------------------------


def request(method: str, **params: object) -> dict[str, Any]:
    """A JSON-RPC request."""
    return {"jsonrpc": "2.0", "id": next(_ids), "method": method, "params": params}


def notification(method: str) -> dict[str, Any]:
    """A JSON-RPC notification."""
    return {"jsonrpc": "2.0", "method": method}


def call_parameters(tool: str, **arguments: object) -> dict[str, Any]:
    """Parameters of tools/call."""
    return {"name": tool, "arguments": arguments}


def call(tool: str, **arguments: object) -> dict[str, Any]:
    """A tools/call request."""
    return request("tools/call", **call_parameters(tool, **arguments))


def modern(
    method: str, *, meta: dict[str, Any] | None = None, **params: Any
) -> tuple[dict[str, Any], *tuple[str, ...]]:
    """A 2026-07-28 request, and the headers that have to agree with it."""
    headers = [f"MCP-Protocol-Version: {Era.MODERN}", f"Mcp-Method: {method}"]
    if "name" in params:
        headers.append(f"Mcp-Name: {params['name']}")
    return request(method, **params, _meta=META | (meta or {})), *headers


def _hello(transport: Transport) -> dict[str, Any]:
    return {"protocolVersion": LEGACY_VERSION[transport], "capabilities": {}, "clientInfo": CLIENT}


# ---- what comes back ---------------------------------------------------------------------------------


def _check_call(answer: dict[str, Any], outcome: Outcome) -> None:
    assert set(answer["result"]["structuredContent"]) >= {"events", "next_cursor"}
    outcome.shown[Ability.CALLS] = "get_xid_events"


def _read(answer: dict[str, Any]) -> list[Any]:
    events: list[Any] = answer["result"]["structuredContent"]["events"]
    return events


def _pushed(messages: Iterator[dict[str, Any]], pid: int, outcome: Outcome) -> int:
    """The cursor under which the fault of this process was pushed as an update of the resource."""
    for message in messages:
        if message.get("method") == "notifications/resources/updated":
            event = message["params"]["_meta"]["xidwatch/event"]
            if pid_of(event) == pid:
                outcome.shown[Ability.PUSHED] = "resources/updated"
                cursor = event["cursor"]
                assert isinstance(cursor, int)
                return cursor
    raise AssertionError("the stream ended")


def _post(url: str, body: dict[str, Any], *headers: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Headers and JSON-RPC answer of one POST; {} where there is none."""
    head, _, text = output_of(
        [*_curl("-i", "--max-time", str(DEADLINE_S)), *_body(body, *headers), url]
    ).partition("\n\n")
    fields = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:])
    payload = next((line[6:] for line in reversed(text.splitlines()) if line.startswith("data: {")), text)
    return fields, json.loads(payload) if payload.strip() else {}


@contextmanager
def _stream(url: str, *headers: str) -> Iterator[Iterator[dict[str, Any]]]:
    """The messages of a GET."""
    with Talker(
        [*_curl("-N", "-H", "Accept: text/event-stream"), *_headers(*headers), url], cut=True
    ) as lines:
        yield _messages(lines)


@contextmanager
def _posted_stream(url: str, body: dict[str, Any], *headers: str) -> Iterator[Iterator[dict[str, Any]]]:
    """The messages with which a POST is answered."""
    with Talker([*_curl("-N"), *_body(body, *headers), url], cut=True) as lines:
        yield _messages(lines)


@contextmanager
def _sse_session(place: Place) -> Iterator[tuple[Iterator[dict[str, Any]], Any]]:
    """The messages of an HTTP+SSE session, and how to send: a request is answered with its answer."""
    with Talker([*_curl("-N"), _url(place)], cut=True) as lines:
        while lines.line().strip() != "event: endpoint":
            pass
        endpoint = lines.line().removeprefix("data: ").strip()
        assert place.daemon is not None
        messages = _messages(lines)

        def post(body: dict[str, Any]) -> dict[str, Any]:
            output_of([*_curl("--max-time", str(DEADLINE_S)), *_body(body), place_url + endpoint])
            if "id" not in body:
                return {}
            return next(message for message in messages if message.get("id") == body["id"])

        place_url = place.daemon.url
        yield messages, post


def _messages(lines: Talker) -> Iterator[dict[str, Any]]:
    while True:
        line = lines.line()
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


def _curl(*options: str) -> list[str]:
    return ["curl", "-sS", "--fail-with-body", "--noproxy", "*", *options]


def _headers(*headers: str) -> list[str]:
    return [word for header in headers for word in ("-H", header)]


def _body(body: dict[str, Any], *headers: str) -> list[str]:
    kinds = ("Content-Type: application/json", "Accept: application/json, text/event-stream")
    return [*_headers(*kinds, *headers), "--data", json.dumps(body)]


def _url(place: Place) -> str:
    assert place.url is not None
    return place.url
