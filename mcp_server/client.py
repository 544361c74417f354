"""Whom a request is served for: what the shares of one client are counted by.

Over HTTP it is the IP address. On the unix socket it is the process at the other end; processes of
another PID namespace have no number here and count as one.
"""

from __future__ import annotations

import ipaddress
from contextvars import ContextVar
from typing import Final

from starlette.types import Scope

CLIENT: Final[ContextVar[str]] = ContextVar("CLIENT", default="")
"""The client that the running task serves; "" where there is only one (stdin and stdout)."""


def address_of(scope: Scope) -> str:
    """The client of an HTTP request."""
    client = scope.get("client")
    return share_of(str(client[0])) if client else ""


def share_of(host: str) -> str:
    """Whose share an IP address has: an IPv6 host has a /64 of them, and they are all one client."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address), 64), strict=False))
