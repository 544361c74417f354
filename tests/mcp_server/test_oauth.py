"""Access tokens of an OAuth issuer that is really asked, over sockets."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from mcp import Client
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, TextContent

from daemon.operator.audit import Outcome
from mcp_server import jwks
from mcp_server.access import Access
from mcp_server.identity import Scope
from mcp_server.oauth import OAuth, OAuthSettings
from mcp_server.refused import Reason
from mcp_server.token_file import TokenFile
from probes.errors import UserError
from tests.mcp_server.operator_serving import operator_node
from tests.mcp_server.serving import Reply, Served
from tests.mcp_server.speaking import call
from tests.mcp_server.test_door import ask, open_session, post
from tests.support.daemon import free_port
from tests.support.issuer import Issuer
from tests.support.token_file import TokenFileOnDisk, bearer
from tests.support.waiting import DEADLINE_S

AUDIENCE = "http://localhost/mcp"


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer(AUDIENCE) as running:
        yield running


def access_to(issuer: Issuer, *, keys: str | None = None, tokens: TokenFile | None = None) -> Access:
    settings = OAuthSettings.of(issuer.url, AUDIENCE, None, keys)
    assert settings is not None
    return Access(oauth=OAuth(settings), tokens=tokens)


@pytest.fixture
def access(issuer: Issuer) -> Access:
    return access_to(issuer)


@pytest.fixture
def behind(access: Access) -> Iterator[Served]:
    with Served(access=access) as running:
        yield running


def shown(served: Served, token: str, source: str = "127.0.0.1") -> Reply:
    return ask(served, "/version", bearer(token), source=source)


@pytest.mark.parametrize("key_id", ["rsa", "ec"])
def test_a_token_of_the_issuer_opens(behind: Served, issuer: Issuer, key_id: str) -> None:
    assert shown(behind, issuer.token(key_id)).status == 200
    assert shown(behind, issuer.token(key_id, scope="openid operate")).status == 200
    assert shown(behind, issuer.token(key_id, aud=["https://other.example", AUDIENCE])).status == 200
    assert issuer.asked == ["/.well-known/oauth-authorization-server", "/keys"]  # once


BAD: list[tuple[dict[str, Any], str]] = [
    ({"exp": int(time.time()) - 60}, "the access token has expired"),
    ({"nbf": int(time.time()) + 3_600}, "the access token is not valid yet"),
    ({"aud": "https://other.example/mcp"}, "the access token is for another service"),
    ({"iss": "https://evil.example"}, "the access token is from another issuer"),
    ({"without": "exp"}, "the access token does not say exp"),
    ({"without": "aud"}, "the access token does not say aud"),
    ({"client_id": None, "without": "sub"}, "the access token names nobody"),
    ({"headers": {"kid": "unknown"}}, "the access token is signed with a key that its issuer does not have"),
]


@pytest.mark.parametrize(("claims", "why"), BAD, ids=[why for _, why in BAD])
def test_a_token_that_is_not_for_this_daemon_now_is_refused_with_the_reason(
    behind: Served, issuer: Issuer, claims: dict[str, Any], why: str
) -> None:
    reply = shown(behind, issuer.token(**claims))
    assert (reply.status, reply.json["error"]) == (401, why)
    challenge = reply.headers["www-authenticate"]
    assert f'error="invalid_token", error_description="{why}"' in challenge
    assert 'resource_metadata="http://localhost/.well-known/oauth-protected-resource/mcp"' in challenge


def test_the_reason_is_that_of_the_key_that_signed_where_a_token_names_none(
    behind: Served, issuer: Issuer
) -> None:
    claims = {"iss": issuer.url, "aud": AUDIENCE, "sub": "alice", "exp": int(time.time()) - 60}
    for source, (key_id, algorithm) in enumerate((("rsa", "RS256"), ("ec", "ES256"))):
        token = jwt.encode(claims, issuer.keys[key_id], algorithm)
        assert shown(behind, token, f"127.0.4.{source + 1}").json["error"] == "the access token has expired"


@pytest.mark.parametrize("end", [float("inf"), float("nan"), 10**400, "soon", None, [1]])
def test_an_end_that_is_no_time_is_refused(
    behind: Served, issuer: Issuer, end: object, caplog: pytest.LogCaptureFixture
) -> None:
    assert shown(behind, issuer.token(exp=end)).status == 401
    assert "Traceback" not in caplog.text


def test_a_forged_token_is_refused(behind: Served, issuer: Issuer) -> None:
    with Issuer(AUDIENCE) as other:
        forged = other.token(iss=issuer.url)
    head, claims, signature = issuer.token().split(".")
    more = base64.urlsafe_b64encode(b'{"scope":"operate"}').decode().rstrip("=")
    none = jwt.encode({"iss": issuer.url, "aud": AUDIENCE, "exp": 2**33, "sub": "a"}, "", "none")
    public = issuer.keys["rsa"].public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    # What a verifier that takes a public key for an HMAC secret would accept. (PyJWT does not sign it.)
    confused = hmac_signed({"iss": issuer.url, "aud": AUDIENCE, "exp": 2**33, "sub": "a"}, pem)
    tokens = [
        forged,
        f"{head}.{more}.{signature}",
        f"{head}.{claims}.",
        none,
        confused,
        "a.b.c",
        "x" * 20_000,
    ]
    for number, token in enumerate(tokens):
        assert shown(behind, token, f"127.0.3.{number + 1}").status == 401, token[:80]


def hmac_signed(claims: dict[str, Any], key: bytes) -> str:
    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    header = json.dumps({"alg": "HS256", "typ": "JWT", "kid": "rsa"})
    signed = f"{part(header.encode())}.{part(json.dumps(claims).encode())}"
    return f"{signed}.{part(hmac.digest(key, signed.encode(), hashlib.sha256))}"


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({"scope": "read"}, {Scope.READ}),
        ({"scope": "operate"}, {Scope.READ, Scope.OPERATE}),
        ({"scope": "openid xidwatch:operate"}, {Scope.READ, Scope.OPERATE}),
        ({"scp": ["read"], "without": "scope"}, {Scope.READ}),
        ({"scope": "reader operates"}, set()),
        ({"scope": 7}, set()),
        ({"without": "scope"}, set()),
    ],
)
def test_scopes_are_read_from_the_token(issuer: Issuer, claims: dict[str, Any], scopes: set[Scope]) -> None:
    async def main() -> None:
        identity = (await access_to(issuer).verify_token(issuer.token(**claims))).identity
        assert identity.scopes == scopes
        assert str(identity.who) == f"alice of {issuer.url}"

    asyncio.run(main())


def test_a_token_without_a_scope_of_ours_is_let_in_nowhere(
    behind: Served, issuer: Issuer, access: Access
) -> None:
    reply = shown(behind, issuer.token(scope="openid profile"))
    assert reply.status == 403
    assert 'error="insufficient_scope", scope="read"' in reply.headers["www-authenticate"]
    assert access.refusals.counts()[Reason.SCOPE] == 1


def test_what_a_client_needs_to_get_a_token_is_open_and_nothing_else(behind: Served, issuer: Issuer) -> None:
    for path in ("/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp"):
        found = ask(behind, path)
        assert found.status == 200
        assert found.json["resource"] == AUDIENCE
        assert found.json["authorization_servers"] == [issuer.url]  # letter by letter
        assert found.json["scopes_supported"] == ["read", "operate"]
    assert ask(behind, "/.well-known/openid-configuration").status == 401


# -- keys ----------------------------------------------------------------------------------------


def test_a_key_that_the_issuer_took_into_use_is_fetched(issuer: Issuer) -> None:
    now = [0.0]
    settings = OAuthSettings.of(issuer.url, AUDIENCE, None, f"{issuer.url}/keys")
    assert settings is not None
    keys = jwks.Keys(jwks.key_source(issuer.url, settings.jwks), now=lambda: now[0])
    with Served(access=Access(oauth=OAuth(settings, keys))) as served:
        assert shown(served, issuer.token()).status == 200
        issuer.rotate()
        for _ in range(3):  # made-up key ids do not become requests to the issuer
            assert shown(served, issuer.token("rsa-2")).status == 401
        assert issuer.asked == ["/keys"]
        now[0] += jwks.COOL_DOWN_S
        assert shown(served, issuer.token("rsa-2")).status == 200
        assert issuer.asked == ["/keys", "/keys"]


def test_when_the_issuer_is_gone_known_keys_still_count_and_others_are_told_why(
    behind: Served, issuer: Issuer, access: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shown(behind, issuer.token()).status == 200
    issuer.stop()
    monkeypatch.setattr(jwks, "COOL_DOWN_S", 0.0)
    assert shown(behind, issuer.token()).status == 200
    reply = shown(behind, issuer.token(headers={"kid": "new"}))
    assert reply.status == 503
    assert reply.json["error"].startswith("the access token cannot be checked: http://127.0.0.1:")
    assert "retry-after" in reply.headers
    assert access.status()["oauth_problem"] is not None
    assert access.refusals.counts()[Reason.ISSUER] == 1
    assert ask(behind, "/healthz").status == 200


def test_an_issuer_that_hangs_holds_nobody_up_for_longer_than_the_deadline(
    issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "FETCH_S", 0.3)
    issuer.answers = False
    disk = TokenFileOnDisk(tmp_path / "tokens")
    secret = disk.add("dash")
    with Served(access=access_to(issuer, tokens=TokenFile(disk.path))) as served:
        assert shown(served, issuer.token()).status == 503
        assert shown(served, secret).status == 200  # tokens of the file need no issuer
        assert shown(served, issuer.token()).status == 503
    assert len(issuer.asked) <= 2, "a request was made while one was under way"


def test_an_issuer_whose_answer_trickles_is_given_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "FETCH_S", 0.3)
    over = threading.Event()

    def trickle(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection, suppress(OSError):
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            while not over.wait(0.02):
                connection.sendall(b" ")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=trickle, args=(listening,))
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/keys"
        failsafe = threading.Timer(DEADLINE_S, over.set)
        failsafe.start()
        try:
            with pytest.raises(jwks.NoKeysError, match=r"its answer takes longer than 0\.3 s"):
                jwks.key_source("https://unused.example", url)()
            assert not over.is_set()
        finally:
            failsafe.cancel()
            over.set()
            thread.join()


def test_keys_may_come_from_a_file(issuer: Issuer, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps(issuer.jwks()))
    with Served(access=access_to(issuer, keys=str(file))) as served:
        assert shown(served, issuer.token()).status == 200
    assert issuer.asked == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[]", "no JWK set"),
        ("{", "no JSON"),
        ('{"keys": 7}', "no JWK set"),
        ('{"keys": []}', "no JWK set"),
        ('{"keys": [{"kty": "RSA"}]}', "no JWK set"),
        ('{"keys": [{"kty": "oct"}]}', "no JWK set"),
    ],
)
def test_keys_that_are_none_are_told(issuer: Issuer, tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "keys.json"
    file.write_text(text)
    with Served(access=access_to(issuer, keys=str(file))) as served:
        reply = shown(served, issuer.token())
    assert reply.status == 503
    assert why in reply.json["error"]


def test_a_pipe_in_the_place_of_a_key_file_is_not_waited_for(issuer: Issuer, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "keys")
    with pytest.raises(jwks.NoKeysError, match="is no regular file"):
        jwks.key_source(issuer.url, str(tmp_path / "keys"))()


def test_a_public_set_never_makes_an_hmac_key() -> None:
    secret = base64.urlsafe_b64encode(b"k" * 32).decode()
    assert jwks.keys_in({"keys": [{"kty": "oct", "k": secret, "kid": "a", "alg": "HS256"}]}) == []


# -- sessions ------------------------------------------------------------------------------------


def test_a_refreshed_token_goes_on_with_its_session_and_another_person_or_scope_does_not(
    behind: Served, issuer: Issuer
) -> None:
    session = open_session(behind, issuer.token())
    asked = call(1, "get_daemon_status")
    assert post(behind, issuer.token(exp=int(time.time()) + 600), asked, session).status == 200
    assert post(behind, issuer.token(sub="mallory"), asked, session).status == 404
    assert post(behind, issuer.token(client_id="other"), asked, session).status == 404
    assert post(behind, issuer.token(scope="operate"), asked, session).status == 404


class Storage:
    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None
        self.info: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.info

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.info = client_info


@pytest.mark.parametrize("era", ["legacy", "2026-07-28"])
def test_the_sdks_client_finds_its_way_from_the_refusal_to_a_token(era: str) -> None:
    port = free_port()
    here = f"http://127.0.0.1:{port}/mcp"
    with Issuer(here) as issuer:
        settings = OAuthSettings.of(issuer.url, here, None, None)
        assert settings is not None

        async def main() -> None:
            provider = ClientCredentialsOAuthProvider(
                here, Storage(), "night-shift", "secret", scope="read", issuer=issuer.url
            )
            to = streamable_http_client(here, http_client=create_mcp_http_client(auth=provider))
            async with asyncio.timeout(DEADLINE_S), Client(to, mode=era) as client:
                assert "wait_for_xid" in {tool.name for tool in (await client.list_tools()).tools}

        with Served(access=Access(oauth=OAuth(settings)), port=port):
            asyncio.run(main())
        assert "/token" in issuer.asked


@pytest.mark.parametrize("granted", [True, False], ids=["granted", "not granted"])
def test_a_client_that_asks_for_an_operator_tool_is_sent_for_the_scope(tmp_path: Path, granted: bool) -> None:
    async def main() -> None:
        with Issuer() as issuer:
            async with operator_node(tmp_path, issuer=issuer) as node:
                issuer.audience = node.url
                issuer.grants = {"read", "operate"} if granted else {"read"}
                provider = ClientCredentialsOAuthProvider(
                    node.url, Storage(), "night-shift", "secret", scope="read", issuer=issuer.url
                )
                to = streamable_http_client(node.url, http_client=create_mcp_http_client(auth=provider))
                async with Client(to, mode="2026-07-28") as client:
                    assert (await client.list_tools()).tools == []  # with a token to read, it is not listed
                    asked = client.call_tool("reset_gpu", {"gpu": "0"})
                    if not granted:
                        with pytest.raises(MCPError):
                            await asked
                        [record] = node.records
                        assert record.outcome is Outcome.REFUSED
                        assert str(record.who) == f"alice of {issuer.url}"
                    else:
                        result = await asked
                        assert isinstance(result, CallToolResult)
                        [part] = result.content
                        assert isinstance(part, TextContent)
                        assert "needs the scope" not in part.text  # the tool itself answers
                        assert [each.outcome for each in node.records] == [Outcome.REFUSED]  # of before
                assert issuer.asked.count("/token") == 2

    asyncio.run(main())


# -- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ((None, "x", None, None), "OAuth settings without --oauth-issuer"),
        (("https://login.example", None, None, None), "--oauth-issuer without --oauth-audience"),
        (("https://login.example", "xidwatch", None, None), "the audience xidwatch is no URL"),
        (("http://login.example", AUDIENCE, None, None), "http://login.example can be forged on the way"),
        (("https://a.example", AUDIENCE, None, "http://b.example/keys"), "can be forged on the way"),
    ],
)
def test_settings_that_make_no_whole_are_refused(given: tuple[str | None, ...], why: str) -> None:
    with pytest.raises(UserError) as caught:
        OAuthSettings.of(*given)
    assert why in caught.value.message
    assert caught.value.hint
