"""The look-up of a receiver's name, in a thread that nobody has to wait for.

asyncio looks names up in its pool of threads, and joins those at the end: a name server that does not
answer would keep the process from ending for as long as the resolver tries (10 s with two servers). So
a name is looked up here first. When that works, asyncio's own look-up right behind it does, too.
"""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit
from urllib.request import getproxies

from daemon.thread import DiskThread


class NameLookup:
    """Belongs to the event loop it was made in. Its thread begins with the first name."""

    def __init__(self) -> None:
        self._thread: DiskThread | None = None

    async def look_up(self, url: str) -> None:
        """Return when the host of this URL has an address. Raises OSError when it has none, and ClosedError
        when `close` comes first. An address is none to look up, nor is what a proxy looks up."""
        parts = urlsplit(url)
        host = parts.hostname
        if host is None or _is_address(host) or getproxies().keys() & {parts.scheme, "all"}:
            return
        thread = self._thread = self._thread or DiskThread("names")
        await thread.call(lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))

    def close(self) -> None:
        """End the thread; a look-up that hangs is left to itself."""
        if self._thread is not None:
            self._thread.close()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
