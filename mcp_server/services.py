"""What the outward paths need from the rest of the process, as one value.

`xidwatch.serve` fills it in; nothing here knows how the parts behind it work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from daemon.event import Event, Gpu
from daemon.gpu.off import OffSource
from daemon.gpu.process import ProcessReader
from daemon.gpu.watch import GpuWatch
from daemon.outlet import OutletHealth
from daemon.sinks.health import SinkHealth
from daemon.stream import EventStream
from mcp_server.access import Access
from probes.errors import UserError
from probes.health import ProbeHealth

if TYPE_CHECKING:
    from mcp_server.tls import TlsReport


class Transport(StrEnum):
    """How a client is connected: label values of `xidwatch_clients`."""

    EVENTS = "events"
    """A reader of /events."""
    MCP = "mcp"
    """An open /mcp request: a call being answered or a stream held open."""
    SSE = "sse"
    """A session of the older HTTP+SSE transport: a stream of /sse."""
    SOCKET = "socket"
    """A connection on the unix socket."""


class Clients:
    """Who is connected now. Belongs to the event loop."""

    def __init__(self) -> None:
        self._open = dict.fromkeys(Transport, 0)

    @contextmanager
    def present(self, transport: Transport) -> Iterator[None]:
        """Count one client for as long as the block runs."""
        self._open[transport] += 1
        try:
            yield
        finally:
            self._open[transport] -= 1

    def counts(self) -> Mapping[Transport, int]:
        """Clients by transport, at this moment; every transport is a key."""
        return dict(self._open)

    def by_name(self) -> Mapping[str, int]:
        """The same for JSON."""
        return {transport.value: count for transport, count in self._open.items()}


@dataclass(frozen=True, slots=True)
class Counters:
    """Counts since start that only the pipeline knows, for `/metrics`."""

    forged_lines: int = 0
    """Fault lines of userspace origin that were not drills, or came while drills were not allowed."""


def unwatched() -> GpuWatch:
    """A watch that looks at no GPU, for a process that has no source of readings."""

    async def recent_events() -> Sequence[Event]:
        raise UserError("this process does not look at GPUs")

    source = OffSource("this process does not look at GPUs", "ask the daemon: xidwatch serve")
    return GpuWatch(source, recent_events=recent_events, wall_us=lambda: time.time_ns() // 1000)


@dataclass(frozen=True, slots=True)
class Services:
    """The inside of the daemon, as far as clients may see it."""

    node: str
    """Node name as events carry it."""
    version: str
    """Version of xidwatch."""
    listen_host: str
    """Host of `--listen`, as given: decides which Host headers are believed (see `guard`)."""
    stream: EventStream
    status: Callable[[], Mapping[str, object]]
    """The JSON object of `xidwatch status`."""
    health: Callable[[], Sequence[ProbeHealth]]
    counters: Callable[[], Counters] = Counters
    gpus: Callable[[], Sequence[Gpu]] = tuple
    """GPUs that the log or /proc have named, whether or not they ever had an event."""
    access: Access = field(default_factory=Access)
    """Who may come in over HTTP, and operate through the unix socket."""
    watch: GpuWatch = field(default_factory=unwatched)
    """What is known of the GPUs beyond the log."""
    processes: ProcessReader = field(default_factory=ProcessReader)
    """Who is behind a pid."""
    clients: Clients = field(default_factory=Clients)
    outlets: Callable[[], Sequence[OutletHealth]] = tuple
    """What carries events away by itself, and how it is doing."""
    sinks: Callable[[], Sequence[SinkHealth]] = tuple
    """Of these, the sinks of --on-event, in more detail."""
    tls: Callable[[], TlsReport | None] = lambda: None
    """The certificate of HTTPS; None for plain HTTP."""
    note: str | None = None
    """What assistants have to know about this process before they trust it, for the instructions; None:
    nothing out of the ordinary."""

    def driver_version(self) -> str | None:
        """Version of the NVIDIA driver of this node; None when it is not known."""
        version = self.status().get("driver_version")
        return version if isinstance(version, str) else None
