"""`xidwatch serve`: puts the process together and runs it until it is asked to stop.

Order matters. eBPF programs are loaded first of all, so that the threads and processes that follow lack the
capabilities for it. The state directory is locked before anything is opened in it, addresses are bound
before the journal is touched, readers exist before the first record is read, and at the end every
reader is let go before the journal closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from typing import NoReturn

from daemon import last_boot
from daemon.config import Address, Config, EbpfLoader, Mode
from daemon.intake import Intake
from daemon.lock import StateLock
from daemon.pipeline import Pipeline
from daemon.status import StatusReport, unavailable
from daemon.store import Retention, Store
from daemon.told_before import ToldBefore
from mcp_server.app import build_app
from mcp_server.hello import Channel
from mcp_server.listener import Listener, bind
from mcp_server.operator_tools import operator_tools
from mcp_server.server import build_server
from mcp_server.services import Clients, Counters, Services
from mcp_server.unix_socket import unix_socket
from probes import kernel
from probes.bpf.probe import NAME as BPF
from probes.health import ProbeHealth
from xidwatch import logs
from xidwatch.ears import Ears
from xidwatch.gpu_side import GpuSide
from xidwatch.preload import Preloaded, preload
from xidwatch.tracking import Tracking
from xidwatch.version import VERSION

log = logging.getLogger(__name__)

SWITCH_INTERVAL_S = 0.0005
"""How long the event loop may keep the interpreter lock while the journal's writer waits for it. With
Python's own 5 ms a storm holds each commit up, and with it what is pushed after it, by tens of ms."""


def run(config: Config) -> NoReturn:
    """Serve with these settings until SIGTERM or SIGINT, then end the process (code 0). Raises UserError."""
    logs.set_up(config.log_level, config.log_format)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    # Settings that contradict each other are refused before anything is touched.
    preloaded = preload(config)
    given_up = preloaded.given_up
    if given_up.capabilities:
        log.info("gave up %s: they were for loading eBPF programs", " and ".join(given_up.capabilities))
    elif given_up.why_kept:
        log.debug("capabilities to load eBPF programs are kept: %s", given_up.why_kept)
    with contextlib.suppress(asyncio.CancelledError):  # SIGTERM before it served
        asyncio.run(_serve(config, preloaded))
    _end_process()


def _end_process() -> NoReturn:
    """End now: everything is stored and closed. With a thousand sessions the interpreter would take another
    half second to take its objects apart."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _end_on_sigterm() -> None:
    """Until the listener takes the signal over, it ends the start; what was opened is closed in order."""
    starting = asyncio.current_task()
    assert starting is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, starting.cancel)


async def _serve(config: Config, preloaded: Preloaded) -> None:
    _end_on_sigterm()
    clock, boot_id = kernel.SystemClock(), kernel.boot_id()
    async with contextlib.AsyncExitStack() as stack:
        lock = await StateLock.acquire(config.state_dir)
        stack.callback(lock.release)
        locked_us = clock.monotonic_us()
        bound = bind(config.listen.host, config.listen.port)
        stack.callback(bound.close)
        new_pipeline = partial(
            Pipeline,
            node=config.node_name,
            quiet_gap_us=config.quiet_gap_us,
            allow_drills=config.allow_drills,
        )
        pipeline = new_pipeline()
        store = Store.open(
            config.state_dir,
            ring_size=config.ring_size,
            retention=Retention(config.retention_us / 1e6, config.retention_bytes),
            reserve_key=pipeline.reserve_key,
        )
        stack.push_async_callback(store.close)
        had_predecessor = preloaded.had_predecessor or lock.waited
        intake = Intake(pipeline, store, boot_id=boot_id, clock=clock)
        ears = Ears(
            config,
            intake=intake,
            pipeline=pipeline,
            resume=store.resume,
            load=preloaded.load,
            begun_us=preloaded.begun_us,
            before=ToldBefore.of(store, boot_id, until_us=locked_us) if had_predecessor else None,
            clocks=preloaded.clocks,
        )
        address = f"http://{Address(config.listen.host, bound.getsockname()[1])}"
        clients = Clients()
        gpu_side = GpuSide(
            config, pipeline=pipeline, intake=intake, store=store, clock=clock, tracepoint=ears.driver
        )
        stack.push_async_callback(gpu_side.close)
        tracking = Tracking(
            config,
            intake=intake,
            processes=gpu_side.processes,
            clock=clock,
            load=preloaded.load_tracker,
        )
        stack.callback(tracking.close)

        def health() -> Sequence[ProbeHealth]:
            return [*ears.health(), *gpu_side.health()]

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
                clients=clients.by_name,
                gpus=gpu_side.status,
                tracker=tracking.status,
                given_up=preloaded.given_up,
            ),
            health=health,
            clients=clients,
            counters=lambda: Counters(forged_lines=pipeline.counters.forged),
            gpus=lambda: pipeline.gpus,
            watch=gpu_side.watch,
            processes=gpu_side.processes,
        )
        operator = (
            operator_tools(
                gpu_side.watch,
                gpu_side.audit,
                node=config.node_name,
                driver=gpu_side.driver,
                reader=gpu_side.processes,
            )
            if config.mode is Mode.OPERATOR
            else ()
        )
        server = build_server(services, operator=operator)
        servers = {None: server, Channel.CLAUDE: build_server(services, channel=True, operator=operator)}
        app = build_app(services, server)
        stop_listening = await stack.enter_async_context(
            unix_socket(config.socket, services, servers.__getitem__, let_go_of_driver=gpu_side.hold.let_go)
        )

        def let_everybody_go() -> None:
            stop_listening()
            store.stream.close()

        listener = Listener(app, bound, on_stop=let_everybody_go)
        resume = store.resume
        gpu_side.start()
        tracking.start()
        intake.start()
        stack.callback(intake.close)
        reading_on = asyncio.create_task(
            last_boot.read_on(
                store,
                resume,
                last_boot.Live(pipeline, intake.keep, clock.monotonic_us),
                boot_id=boot_id,
                before_us=clock.wall_us() - clock.monotonic_us(),
                make_pipeline=new_pipeline,
            )
        )
        stack.callback(reading_on.cancel)
        stack.callback(ears.close)
        ears.start()
        gpu_side.listen()
        await ears.looked_once()
        say_what_it_hears(config, address, health())
        await listener.run_until_stopped()
        log.info("stopping")


def say_what_it_hears(config: Config, address: str, probes: Sequence[ProbeHealth]) -> None:
    """The first lines a person sees: where to connect, and whether anything is heard at all."""
    log.info("xidwatch %s on node %s", VERSION, config.node_name)
    log.info("listening on %s (MCP at /mcp, events at /events) and %s", address, config.socket)
    hears = any(probe.hears for probe in probes)
    asks_for_bpf = config.ebpf_program is not None or config.ebpf_loader is not EbpfLoader.AUTO
    for probe in probes:
        if probe.hears:
            note = f" ({probe.note})" if probe.note else ""
            log.info("hears the kernel log through %s%s", probe.name, note)
        else:
            hint = f" ({probe.hint})" if probe.hint else ""
            was_asked_for = config.probes is not None or (probe.name == BPF and asks_for_bpf)
            level = logging.INFO if hears and not was_asked_for else logging.WARNING
            log.log(level, "does not hear through %s: %s%s", probe.name, probe.reason, hint)
    for part in unavailable(config):
        log.info("%s: %s", part.part, part.reason)
    if config.allow_drills:
        log.info("drills are allowed: lines that `xidwatch drill` writes become events marked as drills")
