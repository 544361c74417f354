"""OAuth, as a resource server: access tokens that an issuer elsewhere gave out let their holders in.

A token is a JWT (RFC 9068): signed by a key of the issuer, from it (`iss`), for this daemon (`aud`, RFC
8707), not over (`exp`). Its scopes are those of `scope` or `scp` that are called `read` or `operate`, also
as `xidwatch:read` and `xidwatch:operate` where an issuer has one list of scopes for everything. Nothing is
asked of the issuer but its keys (see `jwks`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import jwt
from jwt import PyJWK
from jwt.exceptions import (
    ExpiredSignatureError,
    ImmatureSignatureError,
    InvalidAlgorithmError,
    InvalidAudienceError,
    InvalidIssuerError,
    InvalidSignatureError,
    InvalidTokenError,
    MissingRequiredClaimError,
    PyJWTError,
)
from mcp.server.auth.routes import build_resource_metadata_url, create_protected_resource_routes
from pydantic import AnyHttpUrl, ConfigDict, TypeAdapter, ValidationError
from starlette.routing import Route

from daemon.operator.who import Way, Who
from daemon.text import clean
from mcp_server.access import METADATA_PATH
from mcp_server.identity import NOTHING, Identity, Scope, scopes_of
from mcp_server.jwks import Keys, NoKeysError, is_safe, key_source
from mcp_server.refused import Reason, RefusedError
from probes.errors import UserError

ALGORITHMS: Final = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
"""With a private key, all of them: `none` and the HMAC family let anybody who knows the public key sign."""
LEEWAY_S: Final = 30
"""How far the clocks of the issuer and of this node may be apart."""
MOST_CHARACTERS: Final = 16 * 1024
"""Of an access token."""

_URL: TypeAdapter[AnyHttpUrl] = TypeAdapter(AnyHttpUrl, config=ConfigDict(url_preserve_empty_path=True))
"""Keeps `https://login.example` as it is: clients compare issuers letter by letter."""


class BadTokenError(Exception):
    """The access token is not to be accepted. The message is a clause without anything of the token."""

    def __init__(self, message: str, *, has_expired: bool = False) -> None:
        super().__init__(message)
        self.has_expired = has_expired


class AnotherKeyError(BadTokenError):
    """The access token was not signed with this key: what it says is not to be looked at."""


@dataclass(frozen=True, slots=True)
class OAuthSettings:
    """What is asked of a token."""

    issuer: str
    audience: str
    resource: str
    """URL of /mcp as clients know it."""
    jwks: str | None = None
    """URL or file; None: where the issuer says."""

    @staticmethod
    def of(
        issuer: str | None, audience: str | None, resource: str | None, jwks: str | None
    ) -> OAuthSettings | None:
        """The settings; None when none is given. Raises UserError when they do not make a whole."""
        if issuer is None:
            if audience or resource or jwks:
                raise UserError("OAuth settings without --oauth-issuer", hint="name the authorization server")
            return None
        if audience is None:
            raise UserError(
                "--oauth-issuer without --oauth-audience: tokens for any other service would be accepted",
                hint="give what the issuer writes into `aud` for this daemon, usually its URL",
            )
        where = resource or audience
        try:
            _URL.validate_python(where)
        except ValidationError:
            raise UserError(
                f"the audience {audience} is no URL, so clients cannot be told where this daemon is",
                hint="add --oauth-resource https://NAME:PORT/mcp",
            ) from None
        remote = jwks if jwks is not None and "://" in jwks else None
        for url in (issuer, remote):
            if url is not None and not is_safe(url):
                raise UserError(
                    f"{url} can be forged on the way", hint="use https (http only on this machine itself)"
                )
        return OAuthSettings(issuer, audience, where, jwks)


class OAuth:
    """Judges access tokens. Belongs to the event loop."""

    def __init__(self, settings: OAuthSettings, keys: Keys | None = None) -> None:
        self.settings = settings
        self.keys: Final = keys or Keys(key_source(settings.issuer, settings.jwks))
        resource = _URL.validate_python(settings.resource)
        self.metadata_url: Final = str(build_resource_metadata_url(resource))
        """Where clients read what they need to get a token (RFC 9728)."""
        self._resource = resource

    def routes(self) -> list[Route]:
        """Where that is served: for the resource's own path, and for clients that ask at the root."""
        routes = create_protected_resource_routes(
            self._resource,
            [_URL.validate_python(self.settings.issuer)],
            scopes_supported=[scope.value for scope in Scope],
            resource_name="xidwatch",
        )
        (found,) = routes
        if found.path != METADATA_PATH:
            routes.append(Route(METADATA_PATH, found.endpoint, methods=["GET", "OPTIONS"]))
        return routes

    async def identify(self, token: str) -> Identity:
        """Who brings this token. Raises RefusedError, within `jwks.FETCH_S`."""
        try:
            return await self._identify(token)
        except BadTokenError as error:
            reason = Reason.EXPIRED_TOKEN if error.has_expired else Reason.WRONG_TOKEN
            hint = f"get a token from {self.settings.issuer}"
            raise RefusedError(401, reason, str(error), hint) from None
        except NoKeysError as error:
            message = f"the access token cannot be checked: {error}"
            raise RefusedError(503, Reason.ISSUER, message, "ask again later") from None

    async def _identify(self, token: str) -> Identity:
        """Raises BadTokenError and NoKeysError."""
        if len(token) > MOST_CHARACTERS:
            raise BadTokenError("the access token is too long")
        try:
            header = jwt.get_unverified_header(token)
        except PyJWTError:
            raise BadTokenError("it is neither a token of the token file nor an access token") from None
        if header.get("alg") not in ALGORITHMS:
            raise BadTokenError("the access token is signed in a way that is not accepted")
        key_id = header.get("kid")
        candidates = await self.keys.find(key_id if isinstance(key_id, str) else None)
        problem = BadTokenError("the access token is signed with a key that its issuer does not have")
        for key in candidates:
            try:
                return self._identity(self._claims(token, key))
            except AnotherKeyError as error:
                problem = error
        raise problem

    def _claims(self, token: str, key: PyJWK) -> Mapping[str, Any]:
        try:
            claims: Mapping[str, Any] = jwt.decode(
                token,
                key,
                algorithms=list(ALGORITHMS),
                audience=self.settings.audience,
                issuer=self.settings.issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud"]},
            )
        except (InvalidSignatureError, InvalidAlgorithmError):
            raise AnotherKeyError("the signature of the access token is wrong") from None
        except InvalidTokenError as error:
            raise BadTokenError(_why(error), has_expired=isinstance(error, ExpiredSignatureError)) from None
        except PyJWTError:  # a key of another family than the token's algorithm
            raise AnotherKeyError("the signature of the access token is wrong") from None
        except OverflowError:  # its end is infinite
            raise BadTokenError(_MALFORMED) from None
        return claims

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        client = claims.get("client_id") or claims.get("azp")
        subject = claims.get("sub") or client
        if not isinstance(subject, str):
            raise BadTokenError("the access token names nobody")
        scopes = _scopes(claims)
        name = clean(subject, 120)
        key = json.dumps(["oauth", self.settings.issuer, subject, client, *sorted(scopes)])
        who = Who(Way.OAUTH, name, issuer=self.settings.issuer)
        try:
            expires = float(claims["exp"]) + LEEWAY_S
        except OverflowError:
            raise BadTokenError(_MALFORMED) from None
        return Identity(who, scopes, key, expires)


def _scopes(claims: Mapping[str, Any]) -> frozenset[Scope]:
    said = claims.get("scope", claims.get("scp", ""))
    names = said.split() if isinstance(said, str) else said if isinstance(said, list) else []
    found = NOTHING
    for scope in Scope:
        if scope.value in names or f"xidwatch:{scope.value}" in names:
            found |= scopes_of(scope)
    return found


def _why(error: InvalidTokenError) -> str:
    if isinstance(error, MissingRequiredClaimError):
        return f"the access token does not say {error.claim}"
    return next((why for kind, why in _WHY.items() if isinstance(error, kind)), _MALFORMED)


_MALFORMED: Final = "the access token is not well made"
_WHY: Final = {
    ExpiredSignatureError: "the access token has expired",
    ImmatureSignatureError: "the access token is not valid yet",
    InvalidAudienceError: "the access token is for another service",
    InvalidIssuerError: "the access token is from another issuer",
}
