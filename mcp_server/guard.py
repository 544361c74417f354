"""Which requests come in at all: ASGI middleware in front of every path.

* **Host** must name this daemon. A web page cannot choose the Host header of its requests, so a
  name that is not ours means that someone pointed their own DNS name here (DNS rebinding).
  Loopback names and the host of `--listen` are ours, and so are those of `--allowed-hosts`;
  when we listen beyond loopback, any IP address is too: rebinding needs a name.
* **Origin**, where a browser sends one, must be this daemon itself, a page served from loopback, or
  one of `--allowed-origins`. 403 otherwise.
* `/healthz`, `/readyz` and `/metrics` take any name: kubelet and Prometheus ask by pod address. Whether
  they want a token is for `door` to say.
* A request whose length is told twice, by Content-Length and by Transfer-Encoding, is refused and its
  connection closed (RFC 9112, 6.1): a proxy in front may have taken its end to be elsewhere.
* Every answer carries a Date and headers that keep browsers from sniffing, framing or caching it.
  uvicorn refreshes its own Date header from a timer, which would wake an idle daemon.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterable
from email.utils import formatdate
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_server.client import address_of
from mcp_server.query import quoted
from mcp_server.refused import Reason, Refusals
from mcp_server.replies import refusal
from probes.errors import UserError

ANY_NAME_PATHS: Final = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked by address, and worth nothing to a page that could read them."""
_HEADERS: Final = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Hosts:
    """The names under which this daemon may be addressed."""

    def __init__(self, listen_host: str, allowed: Iterable[str] = (), origins: Iterable[str] = ()) -> None:
        self._names = {name.lower().rstrip(".") for name in ("localhost", listen_host, *allowed)}
        self._any_address = not is_loopback(listen_host.lower())
        self._origins = frozenset(origins)

    @property
    def hint(self) -> str:
        """Which names these are, and what makes another one of them."""
        address = "an IP address" if self._any_address else "a loopback address"
        names = sorted(name for name in self._names if name != "localhost" and _address(name) is None)
        *others, last = ["localhost", address, *names]
        return (
            f"address it as {', '.join(others)} or {last}; of other names it takes only the node's "
            "(--node-name), the one it listens on (--listen NAME:PORT) and those of --allowed-hosts"
        )

    def names_us(self, authority: str) -> bool:
        """Whether `host`, `host:port`, `[v6]` or `[v6]:port` is one of them."""
        host = _host_of(authority)
        if host is None:
            return False
        if host in self._names:
            return True
        return _address(host) is not None and (self._any_address or is_loopback(host))

    def trusts(self, origin: str, authority: str) -> bool:
        """Whether a page of this origin may talk to us, who were addressed as `authority`."""
        scheme, separator, place = origin.partition("://")
        if not separator or scheme.lower() not in ("http", "https"):
            return False
        host = _host_of(place)
        if host is None:
            return False
        is_here = place.lower() == authority.lower() or is_loopback(host)
        return is_here or origin.lower() in self._origins


class Guard:
    """The middleware."""

    def __init__(self, app: ASGIApp, hosts: Hosts, refusals: Refusals) -> None:
        self._app = app
        self._hosts = hosts
        self._refusals = refusals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers["date"] = formatdate(time.time(), usegmt=True)
            await send(message)

        headers = Headers(scope=scope)
        if "transfer-encoding" in headers and "content-length" in headers:
            answer = refusal(_TWO_LENGTHS)
            answer.headers["connection"] = "close"
            await answer(scope, receive, stamped)
            return
        refused = self._refused(scope["path"], headers)
        if refused is None:
            await self._app(scope, receive, stamped)
        else:
            reason, error, status = refused
            self._refusals.note(reason, address_of(scope), error.message)
            await refusal(error, status)(scope, receive, stamped)

    def _refused(self, path: str, headers: Headers) -> tuple[Reason, UserError, int] | None:
        if path in ANY_NAME_PATHS:
            return None
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._hosts.names_us(host):
            error = UserError(f"host {quoted(host)} is not this daemon", hint=self._hosts.hint)
            return Reason.HOST, error, 421
        if origin is not None and not self._hosts.trusts(origin, host):
            hint = "only pages from this daemon, from localhost or from --allowed-origins may"
            error = UserError(f"pages from {quoted(origin)} may not read this daemon", hint=hint)
            return Reason.ORIGIN, error, 403
        return None


_TWO_LENGTHS: Final = UserError(
    "a request with a Content-Length and a Transfer-Encoding is not taken", hint="send one of them"
)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether this name or address, in lower case, is this machine's own whatever name servers say."""
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def _host_of(authority: str) -> str | None:
    """The host of `host[:port]`, lower-case, no brackets; None when it is no such thing."""
    if not authority or any(char in authority for char in "/@?# \\"):
        return None
    try:
        parts = urlsplit(f"//{authority}")
        _ = parts.port  # raises for a port that is no number
    except ValueError:
        return None
    return parts.hostname.rstrip(".") if parts.hostname else None
