"""The door, over real sockets: who is let in, to what, for how long."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message, Receive, Send
from starlette.types import Scope as AsgiScope

from daemon.access import Rate
from daemon.operator.who import Way, Who
from mcp_server.access import FAILURES, Access
from mcp_server.door import Door
from mcp_server.identity import IDENTITY, Identity, Scope
from mcp_server.refused import Reason
from mcp_server.services import Transport
from mcp_server.token_file import TokenFile
from mcp_server.tokens import new_secret
from tests.mcp_server.samples import xid
from tests.mcp_server.serving import Reply, Served, SseReader
from tests.mcp_server.speaking import INITIALIZE, INITIALIZED, MODERN, MODERN_META, Exchange, call
from tests.support.token_file import TokenFileOnDisk, bearer
from tests.support.waiting import DEADLINE_S, wait_for

EVERYTHING = [
    *("/readyz", "/metrics", "/version", "/events", "/events.json", "/mcp", "/sse", "/messages/"),
    *("/no-such-path", "/.well-known/oauth-protected-resource", "/healthz/", "//healthz", "/HEALTHZ"),
]
MCP = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}


@pytest.fixture
def disk(tmp_path: Path) -> TokenFileOnDisk:
    disk = TokenFileOnDisk(tmp_path / "tokens")
    disk.add("dash")
    disk.add("on-call", Scope.OPERATE)
    return disk


@pytest.fixture
def access(disk: TokenFileOnDisk) -> Access:
    return Access(tokens=TokenFile(disk.path))


@pytest.fixture
def behind(access: Access) -> Iterator[Served]:
    with Served(access=access, idle_s=0.2) as running:
        yield running


def ask(
    served: Served,
    path: str,
    headers: Mapping[str, str] | None = None,
    *,
    method: str = "GET",
    body: bytes | None = None,
    source: str = "127.0.0.1",
) -> Reply:
    """One request from an address of one's own."""
    connection = http.client.HTTPConnection(
        "127.0.0.1", served.port, timeout=DEADLINE_S, source_address=(source, 0)
    )
    try:
        connection.request(method, path, body=body, headers=dict(headers or {}))
        answer = connection.getresponse()
        return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


@pytest.mark.parametrize("path", EVERYTHING)
def test_without_a_token_only_liveness_is_open(behind: Served, path: str) -> None:
    reply = ask(behind, path)
    assert reply.status == 401
    assert reply.headers["www-authenticate"] == 'Bearer realm="xidwatch"'
    assert reply.json["error"] == "this daemon asks for a token"
    assert "Authorization: Bearer" in reply.json["hint"]
    assert ask(behind, "/healthz").status == 200


@pytest.mark.parametrize("path", EVERYTHING)
def test_a_wrong_token_is_refused_everywhere(behind: Served, path: str) -> None:
    source = f"127.0.1.{EVERYTHING.index(path) + 1}"
    reply = ask(behind, path, bearer(new_secret()), source=source)
    assert reply.status == 401
    assert 'error="invalid_token"' in reply.headers["www-authenticate"]


def test_a_right_token_opens_and_what_does_not_exist_is_not_found(
    behind: Served, disk: TokenFileOnDisk
) -> None:
    for name in ("dash", "on-call"):
        for path in ("/readyz", "/metrics", "/version", "/events.json"):
            assert ask(behind, path, bearer(disk.secrets[name])).status == 200
        assert ask(behind, "/no-such-path", bearer(disk.secrets[name])).status == 404


@pytest.mark.parametrize("query", ["access_token={}", "token={}", "authorization=Bearer%20{}", "api_key={}"])
def test_a_token_in_the_url_does_not_count(behind: Served, disk: TokenFileOnDisk, query: str) -> None:
    assert ask(behind, f"/events.json?{query.format(disk.secrets['on-call'])}").status == 401


@pytest.mark.parametrize("way", ["Basic {}", "bearer{}", "Token {}", "{}", "Bearer", "Bearer  {} "])
def test_a_token_in_another_form_does_not_count(behind: Served, disk: TokenFileOnDisk, way: str) -> None:
    reply = ask(behind, "/version", {"Authorization": way.format(disk.secrets["on-call"])})
    assert reply.status == 401


def test_a_word_that_somebody_chose_lets_nobody_in_though_its_hash_is_in_the_file(
    behind: Served, disk: TokenFileOnDisk
) -> None:
    for word in ("hunter2", "xidwatch_hunter2", "", new_secret()[:-1]):
        disk.write(f"dash  operate  sha256:{hashlib.sha256(word.encode()).hexdigest()}\n")
        assert ask(behind, "/version", bearer(word)).status == 401
    right = new_secret()
    disk.write(f"dash  operate  sha256:{hashlib.sha256(right.encode()).hexdigest()}\n")
    assert ask(behind, "/version", bearer(right)).status == 200


def test_no_answer_log_metric_or_status_repeats_a_secret(
    behind: Served, disk: TokenFileOnDisk, access: Access, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    wrong, right = new_secret(), disk.secrets["dash"]
    seen = [
        ask(behind, f"/events?access_token={wrong}", bearer(wrong)).body,
        ask(behind, f"/mcp/{wrong}", {"Authorization": f"Basic {wrong}"}).body,
        ask(behind, "/metrics", bearer(right)).body,
        ask(behind, "/mcp", bearer(right)).body,
        json.dumps(access.status()).encode(),
        caplog.text.encode(),
    ]
    for text in seen:
        assert wrong.encode() not in text
        assert right.encode() not in text
    assert "GET /events" in caplog.text


def test_a_token_that_has_expired_is_refused_by_name(disk: TokenFileOnDisk) -> None:
    now = [1_000.0]
    secret = disk.add("old", expires=2_000)
    access = Access(tokens=TokenFile(disk.path), now=lambda: now[0])
    with Served(access=access) as served:
        assert ask(served, "/version", bearer(secret)).status == 200
        now[0] = 2_000
        reply = ask(served, "/version", bearer(secret))
    assert (reply.status, reply.json["error"]) == (401, "the token old has expired")
    assert access.refusals.counts()[Reason.EXPIRED_TOKEN] == 1


def test_a_token_that_is_added_or_taken_away_counts_with_the_next_request(
    behind: Served, disk: TokenFileOnDisk
) -> None:
    late = disk.add("late")
    assert ask(behind, "/version", bearer(late)).status == 200
    disk.remove("late")
    assert ask(behind, "/version", bearer(late)).status == 401
    assert ask(behind, "/version", bearer(disk.secrets["dash"])).status == 200


# -- streams that are open -----------------------------------------------------------------------


def stream(served: Served, path: str, secret: str, headers: Mapping[str, str] | None = None) -> socket.socket:
    """A connection on which a stream begins."""
    connection = socket.create_connection(("127.0.0.1", served.port), timeout=DEADLINE_S)
    sent = {"Connection": "close", **bearer(secret), **(headers or {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode())
    return connection


def test_an_open_stream_ends_when_its_token_is_taken_away_and_others_go_on(
    behind: Served, disk: TokenFileOnDisk
) -> None:
    secret = disk.add("guest")
    with (
        stream(behind, "/events", secret) as guest_socket,
        stream(behind, "/events", disk.secrets["dash"]) as dash_socket,
    ):
        guest, dash = SseReader(guest_socket), SseReader(dash_socket)
        behind.publish(xid())
        assert "id" in guest.frame()
        assert "id" in dash.frame()
        disk.remove("guest")
        behind.publish(xid(number=2))
        frames = iter(guest.frame, {})
        assert not any("data" in frame for frame in frames), "it was told of an event after that"
        told = iter(dash.frame, {})
        assert any("data" in frame for frame in told)


def test_a_quiet_stream_ends_with_the_next_request_of_anybody(disk: TokenFileOnDisk, access: Access) -> None:
    secret = disk.add("guest")
    with Served(access=access, idle_s=3_600) as served, stream(served, "/events", secret) as connection:
        guest = SseReader(connection)
        disk.remove("guest")
        assert ask(served, "/healthz").status == 200
        assert guest.frame() == {}
        assert access.refusals.counts()[Reason.REVOKED_TOKEN] == 1


def test_a_quiet_stream_ends_by_itself_when_its_token_expires(disk: TokenFileOnDisk) -> None:
    secret = disk.add("brief", expires=time.time() + 1.5)
    access = Access(tokens=TokenFile(disk.path))
    with Served(access=access, idle_s=3_600) as served, stream(served, "/events", secret) as connection:
        assert SseReader(connection).frame() == {}
        assert access.refusals.counts()[Reason.EXPIRED_TOKEN] == 1


def test_a_stream_whose_token_expired_when_the_clock_was_set_is_told_as_that(disk: TokenFileOnDisk) -> None:
    now = [1_000.0]
    secret = disk.add("brief", expires=2_000)
    access = Access(tokens=TokenFile(disk.path, now=lambda: now[0]), now=lambda: now[0])
    with Served(access=access, idle_s=3_600) as served, stream(served, "/events", secret) as connection:
        guest = SseReader(connection)
        now[0] = 3_000.0
        served.publish(xid())
        assert not any("data" in frame for frame in iter(guest.frame, {}))
        assert access.refusals.counts()[Reason.EXPIRED_TOKEN] == 1
        assert access.refusals.counts()[Reason.REVOKED_TOKEN] == 0


def test_the_push_stream_of_a_session_and_the_old_transport_end_too(
    behind: Served, disk: TokenFileOnDisk
) -> None:
    secret = disk.add("guest")
    session = open_session(behind, secret)
    with (
        stream(behind, "/mcp", secret, {**MCP, "Mcp-Session-Id": session}) as pushes,
        stream(behind, "/sse", secret) as old,
    ):
        for each in (pushes, old):
            assert b"200 OK" in each.recv(4096)
        disk.remove("guest")
        assert ask(behind, "/healthz").status == 200
        for each in (pushes, old):
            said = each.makefile("rb").read()  # to its end: the connection closes with the stream
            assert said.endswith(b"0\r\n\r\n")
    assert ask(behind, "/version", bearer(disk.secrets["dash"])).status == 200


@pytest.mark.parametrize("wakes", ["an event", "a request of somebody"])
def test_a_call_that_waits_is_refused_when_its_token_is_taken_away_meanwhile(
    behind: Served, disk: TokenFileOnDisk, access: Access, caplog: pytest.LogCaptureFixture, wakes: str
) -> None:
    secret = disk.add("guest")
    asked = call(1, "wait_for_xid", timeout_s=600)
    asked["params"]["_meta"] = MODERN_META
    headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": "wait_for_xid"}
    body = json.dumps(asked).encode()
    with Exchange(behind.port, "POST", "/mcp", body, {**headers, **bearer(secret)}) as waiting:
        wait_for(lambda: behind.services.clients.counts()[Transport.MCP] == 1, "the call to come in")
        disk.remove("guest")
        if wakes == "an event":
            behind.publish(xid())
        else:
            assert ask(behind, "/healthz").status == 200
        answer = waiting.body()
    assert waiting.status == 401
    assert b"token guest is not let in any more" in answer
    assert b"NVRM" not in answer
    assert access.refusals.counts()[Reason.REVOKED_TOKEN] == 1
    assert "Traceback" not in caplog.text


def test_an_answer_whose_length_was_announced_is_not_cut_in_the_middle(
    disk: TokenFileOnDisk, access: Access
) -> None:
    sent: list[Message] = []
    start: Message = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
    body: Message = {"type": "http.response.body", "body": b"ok"}

    async def app(scope: AsgiScope, receive: Receive, send: Send) -> None:
        await send(start)
        disk.remove("dash")
        access.look()
        await send(body)

    async def take(message: Message) -> None:
        sent.append(message)

    async def nothing() -> Message:
        raise AssertionError("nobody reads the body")

    secret = bearer(disk.secrets["dash"])["Authorization"]
    headers = [(b"authorization", secret.encode())]
    scope = {"type": "http", "path": "/version", "method": "GET", "headers": headers}
    asyncio.run(Door(app, access)({**scope, "client": ("10.0.0.7", 1)}, nothing, take))
    assert sent == [start, body]


# -- sessions ------------------------------------------------------------------------------------


def post(served: Served, secret: str, message: object, session: str | None = None) -> Reply:
    headers = {**MCP, **bearer(secret), **({"Mcp-Session-Id": session} if session else {})}
    return ask(served, "/mcp", headers, method="POST", body=json.dumps(message).encode())


def open_session(served: Served, secret: str) -> str:
    reply = post(served, secret, INITIALIZE)
    assert reply.status == 200, reply.body
    session = reply.headers["mcp-session-id"]
    assert post(served, secret, INITIALIZED, session).status == 202
    return session


def test_a_session_belongs_to_the_token_that_opened_it(
    behind: Served, disk: TokenFileOnDisk, access: Access
) -> None:
    owner, other = disk.secrets["on-call"], disk.secrets["dash"]
    session = open_session(behind, owner)
    asked = call(1, "get_daemon_status")
    stolen = post(behind, other, asked, session)
    unknown = post(behind, other, asked, "0" * 32)
    assert (stolen.status, stolen.json) == (unknown.status, unknown.json)
    assert stolen.status == 404
    headers = {**MCP, **bearer(other), "Mcp-Session-Id": session}
    assert ask(behind, "/mcp", headers).status == 404
    assert ask(behind, "/mcp", headers, method="DELETE").status == 404
    assert access.refusals.counts()[Reason.SESSION] == 3
    assert post(behind, owner, asked, session).status == 200
    own = {**headers, **bearer(owner)}
    assert ask(behind, "/mcp", own, method="DELETE").status == 200


def test_a_session_of_the_old_transport_belongs_to_the_token_that_opened_it(
    behind: Served, disk: TokenFileOnDisk
) -> None:
    owner, other = disk.secrets["on-call"], disk.secrets["dash"]
    with stream(behind, "/sse", owner) as connection:
        lines = connection.makefile("rb")
        place = next(line for line in lines if line.startswith(b"data: "))[6:].strip().decode()
        body = json.dumps(INITIALIZE).encode()
        assert ask(behind, place, bearer(other), method="POST", body=body).status == 404
        assert ask(behind, place, bearer(owner), method="POST", body=body).status == 202


def test_a_token_whose_scope_has_changed_has_no_sessions_of_before(
    behind: Served, disk: TokenFileOnDisk
) -> None:
    secret = disk.secrets["on-call"]
    session = open_session(behind, secret)
    disk.write(disk.text().replace("on-call  operate", "on-call  read"))
    assert ask(behind, "/version", bearer(secret)).status == 200
    assert post(behind, secret, call(1, "get_daemon_status"), session).status == 404


# -- how often -----------------------------------------------------------------------------------


def test_guesses_of_one_address_are_soon_not_answered_one_by_one_and_right_tokens_are(
    behind: Served, disk: TokenFileOnDisk, access: Access
) -> None:
    source = "127.0.2.1"
    answers = [ask(behind, "/version", bearer(new_secret()), source=source) for _ in range(15)]
    assert [each.status for each in answers] == [401] * int(FAILURES.burst) + [429] * 5
    assert int(answers[-1].headers["retry-after"]) <= 6
    assert answers[-1].json["error"] == "too many wrong tokens"
    assert ask(behind, "/version", bearer(disk.secrets["dash"]), source=source).status == 200
    assert ask(behind, "/version", bearer(new_secret()), source="127.0.2.2").status == 401
    assert access.refusals.counts()[Reason.TOO_MANY_FAILURES] == 5


def test_each_token_has_a_rate_of_its_own_and_liveness_has_none(disk: TokenFileOnDisk) -> None:
    access = Access(tokens=TokenFile(disk.path), rate=Rate(60, 3600))
    with Served(access=access) as served:
        answers = [ask(served, "/version", bearer(disk.secrets["dash"])) for _ in range(12)]
        assert [each.status for each in answers] == [200] * 10 + [429] * 2
        assert answers[-1].json["error"] == "too many requests: the limit is 60/h"
        assert 50 < int(answers[-1].headers["retry-after"]) <= 60
        assert ask(served, "/version", bearer(disk.secrets["on-call"])).status == 200
        assert {ask(served, "/healthz").status for _ in range(20)} == {200}


def test_without_tokens_an_address_is_a_client() -> None:
    with Served(access=Access(rate=Rate(60, 3600))) as served:
        assert [ask(served, "/version").status for _ in range(11)] == [200] * 10 + [429]
        assert ask(served, "/version", source="127.0.2.3").status == 200


def test_a_refused_request_with_a_body_gets_its_answer(behind: Served) -> None:
    reply = ask(behind, "/mcp", MCP, method="POST", body=b"x" * 200_000)
    assert (reply.status, reply.json["error"]) == (401, "this daemon asks for a token")


# -- what is said of it --------------------------------------------------------------------------


def test_metrics_count_refusals_by_reason_and_say_whether_the_file_is_in_force(
    behind: Served, disk: TokenFileOnDisk
) -> None:
    ask(behind, "/version")
    ask(behind, "/version", {**bearer(disk.secrets["dash"]), "Origin": "https://evil.example"})
    disk.write("half")
    text = ask(behind, "/metrics", bearer(disk.secrets["dash"])).body.decode()
    for line in (
        'xidwatch_refused_requests_total{reason="no_token"} 1.0',
        'xidwatch_refused_requests_total{reason="origin"} 1.0',
        'xidwatch_refused_requests_total{reason="issuer"} 0.0',
        "xidwatch_token_file_in_force 0.0",
    ):
        assert line in text


def test_pages_of_an_allowed_origin_may_ask_and_read_with_a_token(disk: TokenFileOnDisk) -> None:
    page = "https://dash.example"
    access = Access(tokens=TokenFile(disk.path), origins=frozenset({page}))
    with Served(access=access) as served:
        asked = {"Origin": page, "Access-Control-Request-Method": "GET"}
        asked["Access-Control-Request-Headers"] = "authorization"
        preflight = ask(served, "/events", asked, method="OPTIONS")
        assert preflight.status == 200
        assert preflight.headers["access-control-allow-origin"] == page
        reply = ask(served, "/events.json", {"Origin": page, **bearer(disk.secrets["dash"])})
        assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, page)
        assert ask(served, "/events.json", {"Origin": page}).status == 401
        other = ask(served, "/events.json", {"Origin": "https://evil.example"})
        assert other.status == 403
        assert "access-control-allow-origin" not in other.headers


def tools(served: Served, secret: str | None) -> set[str]:
    headers = {**MCP, **(bearer(secret) if secret else {}), "MCP-Protocol-Version": "2026-07-28"}
    headers["Mcp-Method"] = "tools/list"
    meta: dict[str, Any] = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta}}
    reply = ask(served, "/mcp", headers, method="POST", body=json.dumps(body).encode())
    return {tool["name"] for tool in reply.json["result"]["tools"]}


def test_without_a_door_everybody_may_read() -> None:
    with Served() as served:
        assert ask(served, "/version").status == 200
        assert "wait_for_xid" in tools(served, None)


@pytest.mark.parametrize(
    ("extensions", "who"),
    [
        ({"tls": {"client_cert_name": "CN=alice,O=ops"}}, Who(Way.CERTIFICATE, "CN=alice,O=ops")),
        ({"tls": {"client_cert_name": None}}, Who(Way.ANONYMOUS)),
        ({}, Who(Way.ANONYMOUS)),
    ],
)
def test_without_tokens_a_client_certificate_says_who_reads(extensions: dict[str, Any], who: Who) -> None:
    served: list[Identity] = []

    async def app(scope: AsgiScope, receive: Receive, send: Send) -> None:
        served.append(IDENTITY.get())

    async def nothing() -> Message:
        raise AssertionError("nobody reads the body")

    async def drop(message: Message) -> None:
        raise AssertionError("nobody answers")

    scope = {"type": "http", "path": "/version", "method": "GET", "headers": [], "extensions": extensions}
    asyncio.run(Door(app, Access())({**scope, "client": ("10.0.0.7", 1)}, nothing, drop))
    [identity] = served
    assert identity.who == who
    assert identity.scopes == {Scope.READ}
