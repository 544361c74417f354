"""`xidwatch serve`: puts the process together and runs it until it is asked to stop.

Order matters. The state directory is locked before anything is opened in it, addresses are bound
before the journal is touched, readers exist before the first record is read, and at the end every
reader is let go before the journal closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from daemon.config import Config, ProbeName
from daemon.intake import Intake
from daemon.lock import StateLock
from daemon.pipeline import Pipeline
from daemon.status import StatusReport, unavailable
from daemon.store import Retention, Store
from mcp_server.app import build_app
from mcp_server.listener import Listener, bind
from mcp_server.server import build_server
from mcp_server.services import Counters, Services
from mcp_server.unix_socket import unix_socket
from probes import kernel, procfs
from probes.errors import UserError
from probes.health import ProbeHealth
from probes.kmsg import KmsgProbe
from xidwatch import logs
from xidwatch.version import VERSION

log = logging.getLogger(__name__)


def run(config: Config) -> int:
    """Serve with these settings until SIGTERM or SIGINT; the exit code. Raises UserError."""
    logs.set_up(config.log_level, config.log_format)
    asyncio.run(_serve(config))
    return 0


async def _serve(config: Config) -> None:
    if config.probes is not None and ProbeName.KMSG not in config.probes:
        raise UserError(
            f"none of the probes asked for is part of this version: {', '.join(sorted(config.probes))}",
            hint="leave out --probes, or name kmsg",
        )
    clock, boot_id = kernel.SystemClock(), kernel.boot_id()
    async with contextlib.AsyncExitStack() as stack:
        lock = await StateLock.acquire(config.state_dir)
        stack.callback(lock.release)
        bound = bind(config.listen.host, config.listen.port)
        stack.callback(bound.close)
        pipeline = Pipeline(
            node=config.node_name, quiet_gap_us=config.quiet_gap_us, allow_drills=config.allow_drills
        )
        store = Store.open(
            config.state_dir,
            ring_size=config.ring_size,
            retention=Retention(config.retention_us / 1e6, config.retention_bytes),
            reserve_key=pipeline.reserve_key,
        )
        stack.push_async_callback(store.close)
        intake = Intake(pipeline, store, boot_id=boot_id, clock=clock)
        probe = KmsgProbe(config.kmsg, intake.take, resume=store.resume, on_change=intake.probe_changed)
        address = f"http://{config.listen.host}:{bound.getsockname()[1]}"

        def health() -> Sequence[ProbeHealth]:
            return [probe.health()]

        services = Services(
            node=config.node_name,
            version=VERSION,
            listen_host=config.listen.host,
            stream=store.stream,
            status=StatusReport(
                config,
                version=VERSION,
                address=address,
                boot_id=boot_id,
                clock=clock,
                pipeline=pipeline,
                intake=intake,
                store=store,
                health=health,
            ),
            health=health,
            counters=lambda: Counters(forged_lines=pipeline.counters.forged),
        )
        server = build_server(services)
        app = build_app(services, server)
        listener = Listener(app, bound, on_stop=store.stream.close)
        await stack.enter_async_context(unix_socket(config.socket, services, server))
        pipeline.learn_from_proc(procfs.gpus(), procfs.driver_version())
        intake.start()
        stack.callback(intake.close)
        probe.start()
        stack.callback(probe.close)
        _say_what_it_hears(config, address, health())
        await listener.run_until_stopped()
        log.info("stopping")


def _say_what_it_hears(config: Config, address: str, probes: Sequence[ProbeHealth]) -> None:
    """The first lines a person sees: where to connect, and whether anything is heard at all."""
    log.info("xidwatch %s on node %s", VERSION, config.node_name)
    log.info("listening on %s (MCP at /mcp, events at /events) and %s", address, config.socket)
    for probe in probes:
        if probe.hears:
            log.info("hears the kernel log through %s", probe.name)
        else:
            log.warning("does not hear through %s: %s (%s)", probe.name, probe.reason, probe.hint)
    for part in unavailable(config):
        log.info("%s: %s", part.part, part.reason)
    if config.allow_drills:
        log.info("drills are allowed: lines that `xidwatch drill` writes become events marked as drills")
