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
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from daemon.config import Address, Config, EbpfLoader, Mode
from daemon.lock import StateLock
from daemon.status import StatusReport, unavailable
from mcp_server import signals
from mcp_server.access import Access
from mcp_server.app import build_app
from mcp_server.hello import Channel
from mcp_server.listener import Listener, bind
from mcp_server.server import build_server
from mcp_server.services import Clients, Counters, Services
from mcp_server.tools import Tool
from mcp_server.unix_socket import unix_socket
from probes.bpf.probe import NAME as BPF
from probes.health import ProbeHealth
from xidwatch import alarms, logs, outlets
from xidwatch.access import access_of, say_who_may_come_in
from xidwatch.inside import CLOCK, Inside, opened
from xidwatch.preload import Preloaded, preload
from xidwatch.sd_notify import SdNotify
from xidwatch.version import VERSION

if TYPE_CHECKING:
    from daemon.sinks.targets import SinkConfig
    from mcp_server.tls import Tls

log = logging.getLogger(__name__)

SWITCH_INTERVAL_S = 0.0005
"""How long the event loop may keep the interpreter lock while the journal's writer waits for it. With
Python's own 5 ms a storm holds each commit up, and with it what is pushed after it, by tens of ms."""


@dataclass(frozen=True, slots=True)
class _Ready:
    """What the settings ask for, read and found to be possible before anything is touched."""

    config: Config
    access: Access
    tls: Tls | None
    """None: plain HTTP."""
    sinks: Sequence[SinkConfig]
    outlets: outlets.Asked
    notify: SdNotify
    preloaded: Preloaded

    @classmethod
    def of(cls, config: Config) -> _Ready:
        """Raises UserError for settings that are wrong or contradict each other. What loads programs into
        the kernel, and gives up the right to, comes last."""
        return cls(
            config=config,
            access=access_of(config),
            tls=_tls_of(config),
            sinks=alarms.configured(config),
            outlets=outlets.configured(config),
            notify=SdNotify.of(os.environ),
            preloaded=preload(config),
        )


def _tls_of(config: Config) -> Tls | None:
    if config.tls_cert is None:  # nothing of TLS is loaded, then
        return None
    from mcp_server.tls import Tls

    return Tls.of(config)


def run(config: Config) -> NoReturn:
    """Serve with these settings until a signal asks for the end, then end the process (code 0).

    Raises UserError.
    """
    logs.set_up(config.log_level, config.log_format)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    ready = _Ready.of(config)
    given_up = ready.preloaded.given_up
    if given_up.capabilities:
        log.info("gave up %s: they were for loading eBPF programs", " and ".join(given_up.capabilities))
    elif given_up.why_kept:
        log.debug("capabilities to load eBPF programs are kept: %s", given_up.why_kept)
    asyncio.run(_serve_and_end(ready))


async def _serve_and_end(ready: _Ready) -> NoReturn:
    with contextlib.suppress(asyncio.CancelledError):  # asked to end before it served
        await _serve(ready)
    _end_process()


def _end_process() -> NoReturn:
    """End now, while signals are still taken: everything is stored and closed. With a thousand sessions the
    interpreter would take another half second to take its objects apart, and a thread that hangs for ever."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _end_on_a_signal() -> None:
    """Until the listener takes the signals over, they end the start; what was opened is closed in order."""
    starting = asyncio.current_task()
    assert starting is not None
    asked = False

    def end() -> None:
        nonlocal asked
        if not asked:  # a second one would interrupt the closing
            asked = starting.cancel()

    for number in signals.ending():
        asyncio.get_running_loop().add_signal_handler(number, end)


async def _serve(ready: _Ready) -> None:
    config = ready.config
    _end_on_a_signal()
    async with contextlib.AsyncExitStack() as stack:
        lock = await StateLock.acquire(config.state_dir)
        stack.callback(lock.release)
        locked_us = CLOCK.monotonic_us()
        bound = bind(config.listen.host, config.listen.port)
        stack.callback(bound.close)
        had_predecessor = ready.preloaded.had_predecessor or lock.waited
        inside = await stack.enter_async_context(
            opened(config, ready.preloaded, predecessor_ended_us=locked_us if had_predecessor else None)
        )
        stream = inside.store.stream
        sinks = await stack.enter_async_context(alarms.at_work(ready.sinks, config, stream, CLOCK))
        outside = await stack.enter_async_context(
            outlets.at_work(ready.outlets, config, stream, CLOCK, hears=inside.hears)
        )
        address = f"http{'s' if ready.tls else ''}://{Address(config.listen.host, bound.getsockname()[1])}"
        services = _services(ready, inside, address=address, sinks=sinks, outside=outside)
        operator = _operator_tools(ready, inside)
        server = build_server(services, operator=operator)
        servers = {None: server, Channel.CLAUDE: build_server(services, channel=True, operator=operator)}
        app = outside.traced(build_app(services, server))
        let_go = inside.gpu_side.hold.let_go
        stop_listening = await stack.enter_async_context(
            unix_socket(config.socket, services, servers.__getitem__, let_go_of_driver=let_go)
        )

        def let_everybody_go() -> None:
            ready.notify.stopping()
            stop_listening()
            stream.close()

        listener = Listener(app, bound, on_stop=let_everybody_go, tls=ready.tls)
        await stack.enter_async_context(inside.at_work())
        outside.start()
        say_what_it_hears(config, address, inside.health())
        say_who_may_come_in(config, ready.access)
        ready.notify.ready(lambda: in_one_line(inside.health()))
        stack.callback(ready.notify.close)
        await listener.run_until_stopped()
        log.info("stopping")


def _services(
    ready: _Ready, inside: Inside, *, address: str, sinks: alarms.Alarms, outside: outlets.Outlets
) -> Services:
    """What clients may see of the inside."""
    config, pipeline, gpu_side, tls = ready.config, inside.pipeline, inside.gpu_side, ready.tls
    clients = Clients()
    status = StatusReport(
        config,
        version=VERSION,
        address=address,
        boot_id=inside.boot_id,
        clock=CLOCK,
        pipeline=pipeline,
        intake=inside.intake,
        store=inside.store,
        health=inside.health,
        clients=clients.by_name,
        gpus=gpu_side.status,
        tracker=inside.tracking.status,
        given_up=ready.preloaded.given_up,
        access=ready.access.status,
        tls=lambda: None if tls is None else tls.report().to_dict(),
        sinks=sinks.health,
        outlets=outside.health,
    )
    return Services(
        node=config.node_name,
        version=VERSION,
        listen_host=config.listen.host,
        stream=inside.store.stream,
        status=status,
        health=inside.health,
        clients=clients,
        access=ready.access,
        counters=lambda: Counters(forged_lines=pipeline.counters.forged),
        gpus=lambda: pipeline.gpus,
        watch=gpu_side.watch,
        processes=gpu_side.processes,
        sinks=sinks.health,
        outlets=lambda: [*sinks.outlets(), *outside.health()],
        tls=tls.report if tls else lambda: None,
    )


def _operator_tools(ready: _Ready, inside: Inside) -> Sequence[Tool[Any]]:
    """The tools that act on the node; none unless the mode is operator."""
    if ready.config.mode is not Mode.OPERATOR:
        return ()
    from mcp_server.operator_tools import operator_tools

    gpu_side = inside.gpu_side
    return operator_tools(
        gpu_side.watch,
        gpu_side.audit,
        node=ready.config.node_name,
        driver=gpu_side.driver,
        reader=gpu_side.processes,
        refusals=ready.access.refusals,
    )


def in_one_line(probes: Sequence[ProbeHealth]) -> str:
    """What is heard, for the status line of the service manager."""
    through = ", ".join(probe.name for probe in probes if probe.hears)
    deaf = "; ".join(f"not through {probe.name}: {probe.reason}" for probe in probes if not probe.hears)
    heard = f"hears the kernel log through {through}" if through else "hears nothing"
    return f"{heard}; {deaf}" if deaf else heard


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
