"""Whom a request is served for: what the shares of one client are counted by.

Over HTTP it is the IP address. On the unix socket it is the process at the other end; processes of
another PID namespace have no number here and count as one.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
from contextvars import ContextVar
from typing import Final

from starlette.types import Scope

CLIENT: Final[ContextVar[str]] = ContextVar("CLIENT", default="")
"""The client that the running task serves; "" where there is only one (stdin and stdout)."""

_CREDENTIALS = struct.Struct("iII")
"""`struct ucred` of unix(7): pid, uid, gid."""


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


def process_of(writer: asyncio.StreamWriter) -> str:
    """The client of a connection on the unix socket."""
    connection: socket.socket = writer.get_extra_info("socket")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, _, _ = _CREDENTIALS.unpack(credentials)
    return f"pid {pid}"
