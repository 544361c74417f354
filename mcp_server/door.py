"""Lets requests in: ASGI middleware between `guard` and every path.

* Only `/healthz`, and what OAuth clients read before they have a token, is open. Where tokens are asked for,
  everything else answers 401 without one, paths that do not exist included.
* A token counts in the Authorization header only; one in a URL ends up in logs.
* What lies behind may refuse a request, too: by a RefusedError, before it has answered anything, and once
  it has counted the refusal and read the body.
* A client may ask as often as the rate limit says, counted by token, else by address. Wrong tokens are
  counted by address, more strictly.
* Whoever was let in is looked at again before anything more is sent on a stream. A stream ends when its
  token expires; when the token was taken out of the file, before the next byte goes out on it, and at the
  latest with the next request of anybody.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final

import anyio
import anyio.lowlevel
from mcp.server.auth.middleware.auth_context import AuthContextMiddleware
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser, BearerAuthBackend
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as AsgiScope

from daemon.operator.who import Way, Who
from daemon.text import clean
from mcp_server.access import METADATA_PATH, Access, LetIn
from mcp_server.admission import swallow
from mcp_server.client import address_of
from mcp_server.identity import ANONYMOUS, IDENTITY, READING, Identity, Scope, scopes_of
from mcp_server.refused import Reason, RefusedError
from mcp_server.replies import refusal
from mcp_server.tokens import without_secrets

ALIVE: Final = "/healthz"
REALM: Final = "xidwatch"


class Door:
    """The middleware."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = AuthContextMiddleware(app)
        self._access = access
        self._bearer = BearerAuthBackend(access)
        self._held: set[_Held] = set()
        if access.tokens is not None:
            access.tokens.on_change(self._let_go)

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._access.look()
        if self._is_open(scope["path"]):
            await self._app(scope, receive, send)
            return
        try:
            identity = await self._identify(scope)
            self._count(scope, identity)
            if not identity.may(Scope.READ):
                raise RefusedError(403, Reason.SCOPE, _lacks_scope(identity), _ASK_FOR_SCOPE)
        except RefusedError as error:
            await self._refuse(error, scope, receive, send)
            return
        entered = IDENTITY.set(identity)
        try:
            if identity.who.way in (Way.TOKEN, Way.OAUTH):
                await self._serve_while_it_holds(identity, scope, receive, send)
            else:
                await self._app(scope, receive, send)
        except RefusedError as error:  # by what lies behind, which has taken note of it and read the body
            await self._answer(error, scope, receive, send)
        finally:
            IDENTITY.reset(entered)

    def _is_open(self, path: str) -> bool:
        is_metadata = path == METADATA_PATH or path.startswith(f"{METADATA_PATH}/")
        return path == ALIVE or (is_metadata and self._access.oauth is not None)

    async def _identify(self, scope: AsgiScope) -> Identity:
        """Who asks. Raises RefusedError."""
        if not self._access.asks_for_token:
            return _by_certificate(scope)
        address = address_of(scope)
        try:
            found = await self._bearer.authenticate(HTTPConnection(scope))
        except RefusedError as error:
            if error.status == 401 and (wait_s := self._access.failure_wait_s(address)) is not None:
                too_many = _too_many(wait_s, Reason.TOO_MANY_FAILURES, "too many wrong tokens")
                raise too_many from None
            raise
        if found is None:
            self._count(scope, ANONYMOUS)
            raise RefusedError(401, Reason.NO_TOKEN, "this daemon asks for a token", _SHOW)
        scope["auth"], scope["user"] = found
        user = found[1]
        assert isinstance(user, AuthenticatedUser)
        assert isinstance(user.access_token, LetIn)
        return user.access_token.identity

    def _count(self, scope: AsgiScope, identity: Identity) -> None:
        """Raises RefusedError when it is one too many."""
        client = address_of(scope) if identity.who.way is Way.ANONYMOUS else str(identity.who)
        if (wait_s := self._access.wait_s(client)) is not None:
            raise _too_many(wait_s, Reason.RATE, f"too many requests: the limit is {self._access.rate}")

    async def _refuse(self, error: RefusedError, scope: AsgiScope, receive: Receive, send: Send) -> None:
        self._note(error, scope)
        if _has_body(Headers(scope=scope)):
            with suppress(OSError):
                await swallow(receive)
        await self._answer(error, scope, receive, send)

    def _note(self, error: RefusedError, scope: AsgiScope) -> None:
        path = clean(without_secrets(scope["path"]), 80)
        what = f"{clean(scope['method'], 10)} {path}: {error}"
        self._access.refusals.note(error.reason, address_of(scope), what)

    async def _answer(self, error: RefusedError, scope: AsgiScope, receive: Receive, send: Send) -> None:
        answer = refusal(error.error, error.status)
        answer.headers.update(self._headers(error))
        await answer(scope, receive, send)

    def _headers(self, error: RefusedError) -> Mapping[str, str]:
        """WWW-Authenticate as RFC 6750 and RFC 9728 have it, and Retry-After."""
        if isinstance(error, _TooManyError):
            return {"retry-after": str(math.ceil(error.wait_s))}
        if error.status == 503:
            return {"retry-after": "10"}
        parts = [f'realm="{REALM}"']
        if error.reason is Reason.SCOPE:
            scopes = " ".join(sorted(scopes_of(error.needs), reverse=True))
            parts += ['error="insufficient_scope"', f'scope="{scopes}"']
        elif error.reason is not Reason.NO_TOKEN:
            parts += ['error="invalid_token"', f'error_description="{_quotable(str(error))}"']
        if self._access.oauth is not None:
            if error.reason is not Reason.SCOPE:
                parts.append(f'scope="{Scope.READ}"')  # else clients ask for everything that there is
            parts.append(f'resource_metadata="{self._access.oauth.metadata_url}"')
        return {"www-authenticate": f"Bearer {', '.join(parts)}"}

    # -- streams that are open -------------------------------------------------------------------

    async def _serve_while_it_holds(
        self, identity: Identity, scope: AsgiScope, receive: Receive, send: Send
    ) -> None:
        held = _Held(identity, self._access, send)
        with self._holding(held), held.scope:
            await self._app(scope, receive, held.send)
        if held.scope.cancelled_caught:
            reason = Reason.EXPIRED_TOKEN if held.has_expired else Reason.REVOKED_TOKEN
            error = RefusedError(401, reason, f"{identity.who} is not let in any more", _SHOW)
            if held.has_begun:
                self._access.refusals.note(reason, address_of(scope), f"{error}: its stream was ended")
                await held.end()
            else:  # what lies behind has read the body: nothing more would come but the end
                self._note(error, scope)
                await self._answer(error, scope, receive, send)

    @contextmanager
    def _holding(self, held: _Held) -> Iterator[None]:
        """Let it go when its time is over or its token is revoked, for as long as the block runs."""
        self._held.add(held)
        timer = None
        if held.identity.expires is not None:
            left_s = max(0.0, held.identity.expires - self._access.now())
            timer = asyncio.get_running_loop().call_later(left_s, held.expire)
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()
            self._held.discard(held)

    def _let_go(self) -> None:
        """Other tokens are in force: end what was opened with one that is gone."""
        for held in [*self._held]:
            if not self._access.still_holds(held.identity):
                held.let_go()


class _Held:
    """One request that somebody with a token made, for as long as it is served."""

    def __init__(self, identity: Identity, access: Access, send: Send) -> None:
        self.identity: Final = identity
        self.scope: Final = anyio.CancelScope()
        """Cancelled when the token does not hold any more."""
        self.has_begun = False
        """True once the answer's headers are on their way."""
        self.has_expired = False
        self._access = access
        self._send = send
        self._is_whole = False
        """True once its headers have told how long the body is: less of it would be no HTTP."""
        self._is_over = False

    def expire(self) -> None:
        """The time of the token is over."""
        self.has_expired = True
        self.let_go()

    def let_go(self) -> None:
        """End it, unless all that is left to send is the body of an answer whose length was announced."""
        if not self._is_whole:
            self.scope.cancel()

    async def send(self, message: Message) -> None:
        """Pass on one message of the answer, unless the token is gone."""
        if not self._is_whole:
            self._access.look_again()
            if not self._access.still_holds(self.identity):
                self.has_expired = self._access.has_expired(self.identity)
                self.scope.cancel()
            if self.scope.cancel_called:
                await anyio.lowlevel.checkpoint()  # raises
                return
        if message["type"] == "http.response.start":
            self.has_begun = True
            self._is_whole = "content-length" in Headers(raw=message["headers"])
        self._is_over = message["type"] == "http.response.body" and not message.get("more_body")
        await self._send(message)

    async def end(self) -> None:
        """End what was begun, in order."""
        if not self._is_over:
            with suppress(OSError):
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})


class _TooManyError(RefusedError):
    """One request too many."""

    wait_s = 0.0


def _too_many(wait_s: float, reason: Reason, message: str) -> _TooManyError:
    error = _TooManyError(429, reason, message, f"wait {math.ceil(wait_s)} s")
    error.wait_s = wait_s
    return error


def _by_certificate(scope: AsgiScope) -> Identity:
    """Whom a client certificate names, where TLS asked for one; else nobody in particular."""
    tls = (scope.get("extensions") or {}).get("tls") or {}
    name = tls.get("client_cert_name")
    if not isinstance(name, str) or not name:
        return ANONYMOUS
    return Identity(Who(Way.CERTIFICATE, clean(name, 120)), READING, f"certificate\0{name}")


def _quotable(text: str) -> str:
    """As it may stand between quotes in a header: a subject may hold anything."""
    return text.encode("ascii", "replace").decode().replace("\\", "/").replace('"', "'")


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def _lacks_scope(identity: Identity) -> str:
    return f"{identity.who} may not read this daemon: its token has neither the scope read nor operate"


_ASK_FOR_SCOPE = "have the scope read granted where the token comes from"
_SHOW = "send the header Authorization: Bearer TOKEN; a token in the URL does not count"
