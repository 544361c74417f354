"""The sinks of `--on-event` in the process: read at start, at work while it serves, looked at by doctor."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from daemon.config import Config
from daemon.text import clean
from probes.errors import UserError
from probes.health import Check, Verdict
from xidwatch.version import VERSION

if TYPE_CHECKING:
    from daemon.outlet import OutletHealth
    from daemon.sinks.health import SinkHealth
    from daemon.sinks.sinks import Sinks
    from daemon.sinks.targets import SinkConfig
    from daemon.stream import EventStream
    from probes.kernel import Clock

AGENT = f"xidwatch/{VERSION}"
"""What sinks call themselves to web servers."""
_CHECK = "on_event"
_CONNECT_S = 2.0
"""`doctor` asks each receiver in turn, while a person waits."""


def configured(config: Config) -> Sequence[SinkConfig]:
    """The sinks of the file of `--on-event`; none without one. Raises UserError."""
    if config.on_event is None:
        return ()
    from daemon.sinks import configuration

    return configuration.load(config.on_event)


class Alarms:
    """The sinks at work; nothing where there are none."""

    def __init__(self, sinks: Sinks | None) -> None:
        self._sinks = sinks

    def health(self) -> Sequence[SinkHealth]:
        """How each of them does."""
        return self._sinks.health() if self._sinks is not None else ()

    def outlets(self) -> Sequence[OutletHealth]:
        """The same in the words of every outward path."""
        return [sink.as_outlet() for sink in self.health()]


@asynccontextmanager
async def at_work(
    configs: Sequence[SinkConfig], config: Config, stream: EventStream, clock: Clock
) -> AsyncIterator[Alarms]:
    """The sinks send while the block runs; entered before the first record is read. Raises UserError."""
    if not configs:
        yield Alarms(None)
        return
    from daemon.sinks.batch import Node
    from daemon.sinks.sinks import Sinks

    node = Node(config.node_name, clock.wall_us)
    sinks = Sinks(configs, stream, state_dir=config.state_dir, node=node, agent=AGENT)
    try:
        sinks.start()
        yield Alarms(sinks)
    finally:
        await sinks.close()


def check(config: Config) -> Check:
    """Whether the sinks are configured well, and their receivers can be reached; nothing is sent."""
    try:
        sinks = configured(config)
    except UserError as error:
        return Check(_CHECK, Verdict.FAIL, error.message, error.hint)
    if not sinks:
        return Check(_CHECK, Verdict.OFF, "no sinks: events wait to be asked for")
    trouble = [f"{sink.name}: {why}" for sink in sinks if (why := _unreachable(sink)) is not None]
    names = ", ".join(f"{sink.name} ({sink.type} {clean(sink.shown_target, 100)})" for sink in sinks)
    if trouble:
        hint = "see what a receiver says: xidwatch sinks test"
        return Check(_CHECK, Verdict.WARN, f"{names}; {'; '.join(trouble)}", hint)
    return Check(_CHECK, Verdict.OK, names)


def _unreachable(sink: SinkConfig) -> str | None:
    """Why nobody can be connected to; None for a program, and for one behind a proxy, of which connecting
    says nothing."""
    from daemon.sinks.targets import CommandTarget

    return None if isinstance(sink.target, CommandTarget) else unreachable(sink.target.http.url)


def unreachable(url: str) -> str | None:
    """Why nobody can be connected to at the host of this URL; None when somebody can, and when it is behind a
    proxy. Waits for at most two seconds, after the look-up of the name."""
    parts = urlsplit(url)
    if _has_proxy(parts):
        return None
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), _CONNECT_S).close()
    except (OSError, UnicodeError) as error:
        words = error.strerror if isinstance(error, OSError) else None
        return f"{parts.hostname} port {port}: {(words or str(error)).lower()}"
    return None


def _has_proxy(parts: SplitResult) -> bool:
    from urllib.request import getproxies, proxy_bypass

    return parts.scheme in getproxies() and not proxy_bypass(parts.hostname or "")
