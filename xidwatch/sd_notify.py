"""Tells the service manager how the daemon fares: sd_notify(3), with the standard library.

Under `Type=notify` systemd hands a socket over in NOTIFY_SOCKET and takes READY=1, STATUS= and STOPPING=1
on it. With `WatchdogSec=` it also wants WATCHDOG=1 in time, or it kills and restarts the daemon.

**The watchdog watches the event loop, and nothing else.** The ping is a timer of that loop: while it turns,
liveness and delivery work. The journal's writer is left out on purpose: a disk that hangs is said in
`status` and on every event (`stored: false`), the push goes on, and a restart would end that without mending
the disk. The ping is a wake-up of an idle daemon, the only one here, and only where a watchdog was asked for.

Nothing here raises or waits, and without NOTIFY_SOCKET nothing is done. What the service manager does not
take now is logged and let go.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, MutableMapping
from typing import Final

log = logging.getLogger(__name__)

_MOST_STATUS: Final = 500
"""Characters of a status that are sent; `systemctl status` shows one line."""


class SdNotify:
    """The way to the service manager that started this process, if one did. Belongs to one event loop."""

    def __init__(self, address: str | None, *, ping_every_s: float | None = None) -> None:
        """`address` of its datagram socket: a path, or a name in the abstract namespace that begins with `@`.
        None: nobody listens. `ping_every_s`: None without a watchdog."""
        self._address = address
        self._ping_every_s = ping_every_s if address else None
        self._status: Callable[[], str] | None = None
        self._told_status = ""
        self._next_ping: asyncio.TimerHandle | None = None

    @classmethod
    def of(cls, environ: MutableMapping[str, str]) -> SdNotify:
        """The one that the environment names. Its variables are taken out: programs that this one starts
        must not speak for it."""
        address = environ.pop("NOTIFY_SOCKET", "")
        microseconds = environ.pop("WATCHDOG_USEC", "")
        meant_for = environ.pop("WATCHDOG_PID", "")
        if not address.startswith(("/", "@")):
            if address:
                log.warning("NOTIFY_SOCKET is neither a path nor an abstract name: systemd is not notified")
            return cls(None)
        return cls(address, ping_every_s=_ping_every_s(microseconds, meant_for))

    def ready(self, status: Callable[[], str]) -> None:
        """It serves now. `status` gives one line for people, asked now and, with a watchdog, at each ping."""
        self._status = status
        self._tell("READY=1", *self._new_status())
        self._ping_later()

    def stopping(self) -> None:
        """It has begun to end: no watchdog watches from here on."""
        self._tell("STOPPING=1")

    def close(self) -> None:
        """Ping no more."""
        if self._next_ping is not None:
            self._next_ping.cancel()
            self._next_ping = None

    def _ping_later(self) -> None:
        if self._ping_every_s is not None:
            self._next_ping = asyncio.get_running_loop().call_later(self._ping_every_s, self._ping)

    def _ping(self) -> None:
        self._ping_later()
        # Apart from the status: a bug in that must not look like a loop that stands still.
        self._tell("WATCHDOG=1")
        self._tell(*self._new_status())

    def _new_status(self) -> list[str]:
        """The line for people where it is another one than was told last."""
        status = " ".join(self._status().split())[:_MOST_STATUS] if self._status is not None else ""
        if status == self._told_status:
            return []
        self._told_status = status
        return [f"STATUS={status}"]

    def _tell(self, *assignments: str) -> None:
        if self._address is None or not assignments:
            return
        name = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)  # a service manager that hangs must not hang the loop
                sender.sendto("\n".join(assignments).encode("utf-8", "replace"), name)
        except OSError as error:
            log.warning("cannot tell systemd %s: %s", assignments[0], error.strerror or error)


def _ping_every_s(microseconds: str, meant_for: str) -> float | None:
    """Half of WATCHDOG_USEC, as sd_watchdog_enabled(3) advises; None without a watchdog for this process."""
    if meant_for not in ("", str(os.getpid())):
        return None
    if not (microseconds.isascii() and microseconds.isdigit() and len(microseconds) < 20):
        return None
    return int(microseconds) / 2e6 or None
