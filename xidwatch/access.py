"""Who may come in, put together from the settings, and what is refused at start.

Beyond loopback nobody is let in without showing something, unless that is meant: whoever reaches the
address could read what runs on the node.
"""

from __future__ import annotations

import logging
import socket
import time

from daemon.config import Address, Config, Mode
from mcp_server.access import Access
from mcp_server.guard import is_loopback
from mcp_server.socket_peer import SocketOperators
from mcp_server.token_file import TokenFile
from probes.errors import UserError
from probes.health import Check, Verdict

log = logging.getLogger(__name__)

DOOR = "door"
"""Name of the check."""


def access_of(config: Config) -> Access:
    """The rules that these settings ask for. Raises UserError when they cannot be kept."""
    oauth = None
    if any((config.oauth_issuer, config.oauth_audience, config.oauth_resource, config.oauth_jwks)):
        from mcp_server.oauth import OAuth, OAuthSettings

        settings = OAuthSettings.of(
            config.oauth_issuer, config.oauth_audience, config.oauth_resource, config.oauth_jwks
        )
        oauth = None if settings is None else OAuth(settings)
    access = Access(
        tokens=None if config.token_file is None else TokenFile(config.token_file),
        oauth=oauth,
        rate=config.rate_limit,
        hosts=config.allowed_hosts,
        origins=config.allowed_origins,
        operators=SocketOperators.of(config.socket_operators),
    )
    _must_be_meant(config, access)
    return access


def say_who_may_come_in(config: Config, access: Access) -> None:
    """What a person who starts the daemon has to know about its door."""
    if access.tokens is not None:
        names = ", ".join(token.name for token in access.tokens.keyring.tokens)
        log.info("HTTP asks for a token of %s: %s", access.tokens.path, names)
    if access.oauth is not None:
        log.info("HTTP takes access tokens of %s", access.oauth.settings.issuer)
    beyond = not _is_loopback(config.listen)
    if access.asks_for_token and beyond and config.tls_cert is None:
        log.warning("tokens cross the network in the clear: give --tls-cert, or put TLS in front")
    if beyond and not access.asks_for_token and config.tls_client_ca is None:
        log.warning("anybody who reaches %s may read this daemon (--allow-anonymous)", config.listen)
    if config.mode is Mode.OPERATOR and not access.asks_for_token:
        log.info("operator tools: through the unix socket only; over HTTP they need --token-file")


def check(config: Config) -> Check:
    """Who may come in over HTTP, for `xidwatch doctor`; never more of a token than its name."""
    try:
        access = access_of(config)
    except UserError as error:
        return Check(DOOR, Verdict.FAIL, error.message, error.hint)
    asks: list[str] = []
    if access.tokens is not None:
        asks.append(_tokens(access.tokens))
    if access.oauth is not None:
        asks.append(f"access tokens of {access.oauth.settings.issuer}")
    if config.tls_client_ca is not None:
        asks.append("client certificates")
    if asks:
        return Check(DOOR, Verdict.OK, f"HTTP asks for {' and '.join(asks)}")
    if _is_loopback(config.listen):
        return Check(DOOR, Verdict.OK, "HTTP is on loopback: users of this machine may read, and no more")
    return Check(
        DOOR,
        Verdict.WARN,
        f"anybody who reaches {config.listen} may read, as --allow-anonymous says",
        "give --token-file: `xidwatch token NAME` makes a line for it",
    )


def _tokens(file: TokenFile) -> str:
    tokens, now = file.keyring.tokens, time.time()
    valid = [token.name for token in tokens if not token.has_expired(now)]
    expired = [token.name for token in tokens if token.has_expired(now)]
    count = f"{len(valid)} token{'s' * (len(valid) != 1)} of {file.path} ({', '.join(valid)}"
    return f"{count}; expired: {', '.join(expired)})" if expired else f"{count})"


def _must_be_meant(config: Config, access: Access) -> None:
    shows_something = access.asks_for_token or config.tls_client_ca is not None
    if shows_something or config.allow_anonymous or _is_loopback(config.listen):
        return
    raise UserError(
        f"{config.listen} is reached from other machines, and nobody would have to show a token",
        hint="give --token-file (`xidwatch token NAME` makes a line for it), --oauth-issuer or "
        "--tls-client-ca; or say with --allow-anonymous that everybody may read",
    )


def _is_loopback(address: Address) -> bool:
    """Whether only this machine reaches it. A name that does not resolve is for `bind` to complain about."""
    host = address.host.lower()
    if is_loopback(host):
        return True
    try:
        found = socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(is_loopback(str(place[0])) for *_, place in found)
