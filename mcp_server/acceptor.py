"""Accepts the connections of a listening socket, also when no descriptor is left for another one.

When a descriptor lacks, asyncio's own servers (3.11) try as often as the backlog is long, and with each try
log a traceback and set a timer that begins anew: a client that takes all descriptors fills the log, and
soon every turn of the event loop. Here a descriptor is held in reserve. With it a connection that cannot
be served is taken and closed at once, so that its client knows; it is said in the log, once a minute at
most; and when not even that works, nothing is accepted for a second.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import time
from collections.abc import Callable
from typing import Final

PAUSE_S: Final = 1.0
"""How long nothing is accepted when even the descriptor in reserve is gone."""
SAID_EVERY_S: Final = 60.0
"""A want of descriptors is logged this often at most."""
_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""What accept(2) says when there is no descriptor, or no memory for a socket."""

log = logging.getLogger(__name__)


class Acceptor:
    """Accepts from now on, until `close`. Belongs to the running event loop."""

    def __init__(self, bound: socket.socket, new: Callable[[], asyncio.Protocol], *, at_once: int) -> None:
        """`new` makes the protocol of each connection; `at_once` are accepted in one turn of the loop, before
        others have theirs. `bound` listens, does not block, and is closed with this."""
        self._loop = asyncio.get_running_loop()
        self._bound = bound
        self._new = new
        self._at_once = at_once
        self._reserve = _reserve()
        self._pause: asyncio.TimerHandle | None = None
        self._beginning: set[asyncio.Task[object]] = set()
        self._said_at: float | None = None
        self.refused = 0
        """Connections that were closed for want of a descriptor, since the start."""
        self._loop.add_reader(bound, self._accept)

    def close(self) -> None:
        """Accept nothing more. Saying so twice changes nothing."""
        if self._bound.fileno() < 0:
            return
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._bound)
        self._bound.close()
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None

    async def wait_closed(self) -> None:
        """As asyncio's servers have it. Nothing is waited for: who was accepted belongs to his protocol."""

    def _accept(self) -> None:
        # Those that are beginning count: one that is to be refused has its descriptor until it has begun.
        for _ in range(self._at_once - len(self._beginning)):
            try:
                connection, _ = self._bound.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                if not self._refuse(error):
                    return
            else:
                self._begin(connection)

    def _begin(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        task = self._loop.create_task(self._loop.connect_accepted_socket(self._new, connection))
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)

    def _refuse(self, error: OSError) -> bool:
        """Take a connection with the descriptor in reserve and close it; False when there is nothing more to
        do in this turn."""
        if self._reserve is not None:
            os.close(self._reserve)
        try:
            connection, _ = self._bound.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False  # nobody waits: accept(2) tells of the want before it looks
        except OSError:  # somebody else took the descriptor meanwhile
            self._say(error)
            self._wait()
            return False
        else:
            connection.close()
            self.refused += 1
            self._say(error)
            return True
        finally:
            self._reserve = _reserve()

    def _wait(self) -> None:
        self._loop.remove_reader(self._bound)
        self._pause = self._loop.call_later(PAUSE_S, self._go_on)

    def _go_on(self) -> None:
        if self._reserve is None:
            self._reserve = _reserve()
        self._loop.add_reader(self._bound, self._accept)

    def _say(self, error: OSError) -> None:
        now = time.monotonic()
        if self._said_at is None or now - self._said_at >= SAID_EVERY_S:
            self._said_at = now
            why = os.strerror(error.errno or 0).lower()
            log.warning("no new connections: %s; since the start %d were closed for it", why, self.refused)


def _reserve() -> int | None:
    """A descriptor that means nothing; None when there is none."""
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
