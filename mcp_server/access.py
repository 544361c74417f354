"""Who may come in over HTTP: the token file and the OAuth issuer, asked as one.

Without either everybody is let in to read. With one, nobody is without a token; with both, either kind is
accepted: the form of a token says which it is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from mcp.server.auth.provider import AccessToken, TokenVerifier
from pydantic import SkipValidation

from daemon.access import Rate
from daemon.operator.who import Way, Who
from mcp_server.identity import Identity, scopes_of
from mcp_server.rate import RateLimit
from mcp_server.refused import Reason, Refusals, RefusedError
from mcp_server.socket_peer import SocketOperators
from mcp_server.token_file import TokenFile
from mcp_server.tokens import is_secret

if TYPE_CHECKING:  # PyJWT and cryptography are loaded only where an issuer is configured
    from mcp_server.oauth import OAuth

METADATA_PATH: Final = "/.well-known/oauth-protected-resource"
"""Where OAuth clients begin (RFC 9728)."""
FAILURES: Final = Rate(10, 60)
"""Wrong tokens of one address that are answered one by one; of more it is only told that there were too many.
Right tokens of the address are served on: nobody can lock a neighbour out."""


class LetIn(AccessToken):
    """The SDK's view of an access token, without its secret, and who holds it."""

    identity: SkipValidation[Identity]


class Access(TokenVerifier):
    """The rules in force, and what was refused by them. Belongs to the event loop."""

    def __init__(
        self,
        *,
        tokens: TokenFile | None = None,
        oauth: OAuth | None = None,
        rate: Rate | None = None,
        hosts: frozenset[str] = frozenset(),
        origins: frozenset[str] = frozenset(),
        operators: SocketOperators | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`rate`: of one client, None for no limit. `hosts` and `origins`: further names of this daemon, and
        places whose pages may ask it. `operators`: who operates through the unix socket, by default root and
        this user. `now` is the wall clock in seconds."""
        self.tokens: Final = tokens
        self.oauth: Final = oauth
        self.hosts: Final = hosts
        self.origins: Final = origins
        self.operators: Final = operators if operators is not None else SocketOperators.of(())
        self.refusals: Final = Refusals()
        self.rate: Final = rate
        self._has_looked = False
        self._clients = RateLimit(rate) if rate is not None else None
        self._failures = RateLimit(FAILURES)
        self.now: Final = now
        """The wall clock, in seconds since the Unix epoch."""

    @property
    def asks_for_token(self) -> bool:
        """Whether clients have to show one."""
        return self.tokens is not None or self.oauth is not None

    def look(self) -> None:
        """Take up what has changed in the token file."""
        if self.tokens is not None:
            self.tokens.look()

    def look_again(self) -> None:
        """The same, once in a turn of the event loop: a thousand streams are told of an event at once."""
        if not self._has_looked:
            self._has_looked = True
            asyncio.get_running_loop().call_soon(self._turn_over)
            self.look()

    def _turn_over(self) -> None:
        self._has_looked = False

    async def verify_token(self, token: str) -> LetIn:
        """Who brings this token, in the SDK's form. Raises RefusedError."""
        identity = self._of_the_file(token) if is_secret(token) or self.oauth is None else None
        if identity is None:
            assert self.oauth is not None
            identity = await self.oauth.identify(token)
        who = identity.who
        return LetIn(
            token="",  # what nobody has, nobody leaks
            client_id=str(who.name),
            scopes=sorted(identity.scopes),
            subject=who.name,
            claims={"iss": who.issuer} if who.issuer is not None else None,
            identity=identity,
        )

    def has_expired(self, identity: Identity) -> bool:
        """Whether the time of what somebody was let in with is over."""
        return identity.expires is not None and identity.expires <= self.now()

    def still_holds(self, identity: Identity) -> bool:
        """Whether somebody who was let in would be let in now."""
        if self.has_expired(identity):
            return False
        if identity.who.way is Way.TOKEN and self.tokens is not None:
            return identity.key in self.tokens.keyring.keys
        return True

    def wait_s(self, client: str) -> float | None:
        """Count a request of this client: None when it is within its rate, else how long it should wait."""
        return self._clients.take(client) if self._clients is not None else None

    def failure_wait_s(self, address: str) -> float | None:
        """Count a request with a wrong token from this address, likewise."""
        return self._failures.take(address)

    def status(self) -> Mapping[str, Any]:
        """For `xidwatch status`. Names of tokens, never more of them."""
        now = self.now()
        return {
            "asks_for_token": self.asks_for_token,
            "tokens": None if self.tokens is None else _shown(self.tokens, now),
            "oauth_issuer": None if self.oauth is None else self.oauth.settings.issuer,
            "oauth_problem": None if self.oauth is None else self.oauth.keys.problem,
            "rate_limit": None if self.rate is None else str(self.rate),
            "refused": {reason.value: count for reason, count in self.refusals.counts().items() if count},
        }

    def _of_the_file(self, secret: str) -> Identity:
        """Raises RefusedError."""
        token = self.tokens.keyring.find(secret) if self.tokens is not None else None
        if token is None or not is_secret(secret):
            raise RefusedError(401, Reason.WRONG_TOKEN, "this token is not known here", _ASK)
        if token.has_expired(self.now()):
            raise RefusedError(401, Reason.EXPIRED_TOKEN, f"the token {token.name} has expired", _ASK)
        who = Who(Way.TOKEN, token.name)
        return Identity(who, scopes_of(token.scope), token.key, token.expires)


def _shown(file: TokenFile, now: float) -> Mapping[str, Any]:
    tokens = file.keyring.tokens
    return {
        "file": str(file.path),
        "problem": file.problem,
        "valid": [token.name for token in tokens if not token.has_expired(now)],
        "expired": [token.name for token in tokens if token.has_expired(now)],
    }


_ASK = "ask whoever runs this daemon for a line in its token file: xidwatch token NAME"
