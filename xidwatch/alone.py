"""`xidwatch stdio` where no daemon runs: the whole MCP server in this process, for one host.

It hears the kernel log if it may, keeps events in memory, shows what the last daemon's journal
holds (events, and GPUs that were lost) without writing to it, and says all this in its instructions.
It ends with its host.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sqlite3
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from daemon import paths
from daemon.config import Config, Mode, load
from daemon.event import Item
from daemon.gpu.expected import ExpectedGpus
from daemon.intake import GPUS_KEY, Intake
from daemon.journal import Saved, read_only
from daemon.page import NOTHING_KEPT, Marks
from daemon.pipeline import Pipeline
from daemon.reader import Reader
from daemon.status import StatusReport
from daemon.store import Store
from mcp_server.hello import Channel, Era
from mcp_server.lines import LineReader
from mcp_server.rpc import in_flight_room
from mcp_server.server import build_server
from mcp_server.services import Clients, Counters, Services
from mcp_server.socket_mcp import serve_mcp
from probes import kernel
from probes.errors import UserError
from probes.health import ProbeHealth
from probes.kmsg import KmsgProbe
from xidwatch import logs, tracking
from xidwatch.gpu_side import GpuSide
from xidwatch.version import VERSION

log = logging.getLogger(__name__)


def run(*, era: str, channel: str | None) -> int:
    """Serve the host on stdin and stdout until it closes stdin; the exit code. Raises UserError."""
    # A user without a home directory may have no daemon, but looks into the system's journal all the same.
    places = {"state-dir": str(_state_dir()), "socket": str(paths.client_sockets()[-1])}
    config = replace(load(places, os.environ), mode=Mode.READ_ONLY)  # no journal to keep a record in
    logs.set_up(config.log_level, config.log_format)
    asyncio.run(_serve(config, Era(era), Channel(channel) if channel is not None else None))
    return 0


async def _serve(config: Config, era: Era, channel: Channel | None) -> None:
    clock, boot_id = kernel.SystemClock(), kernel.boot_id()
    journal = _from_journal(config)
    async with contextlib.AsyncExitStack() as stack:
        pipeline = Pipeline(
            node=config.node_name, quiet_gap_us=config.quiet_gap_us, allow_drills=config.allow_drills
        )
        # Open faults are the daemon's to go on with; the GPUs that it missed are missed here, too.
        gpus = {} if journal.gpus is None else {GPUS_KEY: journal.gpus}
        store = Store(
            Saved(resume=None, faults=gpus, context=None),
            journal.marks,
            journal.items,
            ring_size=config.ring_size,
            reserve_key=pipeline.reserve_key,
        )
        stack.push_async_callback(store.close)
        intake = Intake(pipeline, store, boot_id=boot_id, clock=clock)
        probe = KmsgProbe(config.kmsg, intake.take, on_change=intake.probe_changed)

        def health() -> Sequence[ProbeHealth]:
            return [probe.health(), *gpu_side.health()]

        gpu_side = GpuSide(config, pipeline=pipeline, intake=intake, store=store, clock=clock)
        stack.push_async_callback(gpu_side.close)
        gpu_side.start()
        intake.start()
        stack.callback(intake.close)
        probe.start()
        stack.callback(probe.close)
        gpu_side.listen()
        clients = Clients()
        services = Services(
            node=config.node_name,
            version=VERSION,
            listen_host="localhost",
            stream=store.stream,
            status=StatusReport(
                config,
                version=VERSION,
                address="stdio",
                boot_id=boot_id,
                clock=clock,
                pipeline=pipeline,
                intake=intake,
                store=store,
                health=health,
                clients=clients.by_name,
                gpus=gpu_side.status,
                tracker=lambda: tracking.off("only the daemon is told how processes end"),
            ),
            health=health,
            clients=clients,
            counters=lambda: Counters(forged_lines=pipeline.counters.forged),
            watch=gpu_side.watch,
            processes=gpu_side.processes,
            note=_note(probe.health(), journal.said),
        )
        log.info("no daemon runs here; serving this host alone")
        server = build_server(services, channel=channel is Channel.CLAUDE)
        lines = LineReader(_Input(sys.stdin.fileno()))
        await serve_mcp(server, lines, _Output(sys.stdout.fileno()), room=in_flight_room(), era=era)


def _state_dir() -> Path:
    """Where the last daemon's journal is, if there was one."""
    if text := os.environ.get("XIDWATCH_STATE_DIR"):
        return paths.path(text)
    usual = paths.client_state_dirs()
    return next((each for each in usual if each.is_dir()), usual[-1])


@dataclass(frozen=True, slots=True)
class _Found:
    """What the last daemon's journal holds."""

    items: Sequence[Item]
    marks: Marks
    said: str
    """A sentence about it."""
    gpus: str | None = None
    """What it knew of the GPUs, lost ones too; None when it knew nothing, or that could not be read."""


def _from_journal(config: Config) -> _Found:
    """The newest events of the last daemon's journal, how far they reach, and the GPUs it knew."""
    try:
        with read_only(config.state_dir) as reader:
            items, found = reader.last(config.ring_size).items, reader.marks()
            gpus, unknown = _gpus_of(reader)
    except (UserError, sqlite3.Error) as error:
        why = error.message if isinstance(error, UserError) else f"the journal cannot be read: {error}"
        shown = "Events of earlier daemons cannot be shown, nor GPUs that they missed"
        return _Found((), NOTHING_KEPT, f"{shown}: {why}.")
    if not items:
        return _Found((), found, f"The journal of the last daemon holds no events.{unknown}", gpus)
    # What is older than the ring holds cannot be served from here: to a reader it is gone.
    oldest = items[0].cursor
    gone = found.deleted_through if found.oldest == oldest else oldest - 1
    marks = Marks(oldest, found.newest, max(found.deleted_through, gone))
    said = f"Its {len(items)} earlier events are from the journal of the last daemon, read-only.{unknown}"
    return _Found(items, marks, said, gpus)


def _gpus_of(reader: Reader) -> tuple[str | None, str]:
    """What the journal holds of the GPUs; and a sentence, if there is something to say of it."""
    expected = ExpectedGpus()
    try:
        text = reader.saved().faults.get(GPUS_KEY)
        if text is None:
            return None, ""
        expected.load(json.loads(text)["expected"])
    except (sqlite3.Error, ValueError, TypeError, KeyError, AttributeError) as error:
        log.warning("what the last daemon knew of the GPUs cannot be read: %s", error)
        return None, " What it knew of the GPUs cannot be read: one that was lost may not be missed here."
    lost = len(expected.lost())
    return text, f" {lost} GPU{'s' * (lost > 1)} of this node had been lost by then." if lost else ""


def _note(health: ProbeHealth, journal: str) -> str:
    hears = (
        "It hears the kernel log itself."
        if health.hears
        else f"It CANNOT hear the kernel log ({health.reason}): no new fault will be reported."
    )
    return (
        "No xidwatch daemon runs on this node: this is a process of its own that keeps new events in memory "
        f"and ends with this session. {hears} {journal}"
    )


class _Input:
    """A descriptor, read in a thread of its own: asyncio can wait for pipes, but not for files."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._chunks: asyncio.Queue[bytes] = asyncio.Queue(1)
        self._ended = False
        threading.Thread(target=self._read, name="stdin", daemon=True).start()

    async def read(self, n: int, /) -> bytes:
        """The next bytes; b"" at the end, and ever after."""
        chunk = b"" if self._ended else await self._chunks.get()
        self._ended = not chunk
        return chunk

    def _read(self) -> None:
        # The loop may end while this thread waits: then nobody is left to read for.
        with contextlib.suppress(RuntimeError, asyncio.CancelledError, OSError):
            while True:
                chunk = os.read(self._descriptor, 65_536)
                asyncio.run_coroutine_threadsafe(self._chunks.put(chunk), self._loop).result()
                if not chunk:
                    return


class _Output:
    """A descriptor, written in a thread, so that a host that does not read does not stop the ears."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._waiting = bytearray()
        self._writing = asyncio.Lock()

    def write(self, data: bytes, /) -> None:
        """Take a line, whole."""
        self._waiting += data

    async def drain(self) -> None:
        """Return when everything is written."""
        async with self._writing:
            while self._waiting:
                taken = bytes(self._waiting)
                del self._waiting[: len(taken)]
                await asyncio.to_thread(self._write_all, taken)

    def _write_all(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]
