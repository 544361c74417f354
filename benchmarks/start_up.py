"""How long a command takes, against a Python that does nothing; `serve`, until it is ready; and a host's wait
for its MCP server: from its start until `initialize` is answered, against the SDK's smallest server.

The relay, `xidwatch stdio`, is started beside a running daemon, as a host would do it.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import peers, process
from benchmarks.clients import HttpCaller, StdioCaller
from benchmarks.figure import Figure, Plan, median, spread
from benchmarks.outcome import Part
from benchmarks.samples import Samples
from benchmarks.tool_calls import HELLO, initialize
from tests.support.daemon import ROOT, Daemon, clean_environment
from tests.support.kernel_log import FakeKernelLog
from tests.support.waiting import wait_for

_NOTHING = ("-c", "pass")
_IMPORTS = ("-c", "import mcp.server, starlette, uvicorn, sse_starlette, prometheus_client")


def measure(plan: Plan) -> Sequence[Part]:
    """Medians, most of them as multiples of what Python itself takes."""
    runs = plan.samples(15, 2, 30)
    with FakeKernelLog(plan.directory / "kmsg") as log:
        daemon = Daemon(plan.directory, kmsg=log.path)
        serve = _serve(daemon, plan.samples(3, 1, 10))
        daemon.start()
        try:
            log.write("NVRM: Xid (PCI:0000:91:00): 79, pid=446, name=python3, GPU has fallen off the bus.")
            wait_for(daemon.events, "the event")
            return [*_commands(daemon.socket, runs), *_relay(daemon.socket, runs), *serve]
        finally:
            daemon.stop()


def _serve(daemon: Daemon, runs: int) -> list[Part]:
    """A daemon in turns with the imports alone, and with the SDK's smallest server over HTTP."""
    ready, imports, smallest = [], [], []
    for _ in range(runs):
        ready.append(_until_ready(daemon))
        daemon.stop()
        imports.append(_wall_ms(*_IMPORTS))
        smallest.append(_until_smallest_answers())
    return [
        Figure(
            "start: serve until /readyz, to its imports alone",
            median(ready) / median(imports),
            "x",
            beside=f"ms: {spread(ready, 0)}; importing mcp, starlette, uvicorn: {median(imports):.0f}; the "
            f"SDK's smallest server until initialize is answered over HTTP: {median(smallest):.0f}",
        ),
        Samples(
            "start-serve",
            "From the start of a server until it answers over HTTP",
            "time, ms",
            {"xidwatch serve, until /readyz": ready},
            {"SDK's smallest server, until initialize": smallest, "the imports alone": imports},
        ),
    ]


def _relay(socket: Path, runs: int) -> list[Part]:
    """`xidwatch stdio` in turns with the SDK's smallest server on stdio."""
    relay = (*_command(), "stdio", "--socket", str(socket))
    ours, theirs = [], []
    for _ in range(runs):
        ours.append(_until_initialized(relay))
        theirs.append(_until_initialized(peers.command("smallest_mcp_stdio")))
    times, base_times = [each.ms for each in ours], [each.ms for each in theirs]
    return [
        Figure(
            "start: xidwatch stdio until initialize is answered",
            median(times),
            "ms",
            must=150,
            reach=50,
            beside=f"{spread(times, 0)}; {median(times) / median(base_times):.2f} x the SDK's smallest "
            f"server ({spread(base_times, 0)})",
        ),
        Figure(
            "start: memory of xidwatch stdio",
            max(each.rss_mb for each in ours),
            "MB",
            must=15,
            beside=f"the highest; the SDK's smallest server: {max(each.rss_mb for each in theirs):.0f} MB",
        ),
        Samples(
            "start-stdio",
            "From the start of a server on stdio until initialize is answered",
            "time, ms",
            {"xidwatch stdio, beside a daemon": times},
            {"SDK's smallest server": base_times},
        ),
    ]


def _command() -> Sequence[str]:
    """What a host starts: the installed command, or where there is none the module."""
    installed = Path(sys.executable).with_name("xidwatch")
    return (str(installed),) if installed.exists() else (sys.executable, "-m", "xidwatch")


@dataclass(frozen=True, slots=True)
class _Started:
    """A server on stdio, once it had answered."""

    ms: float
    rss_mb: float


def _until_initialized(words: Sequence[str]) -> _Started:
    began = time.monotonic()
    caller = StdioCaller(words)
    try:
        initialize(caller)
        return _Started((time.monotonic() - began) * 1000, process.rss_mb(caller.pid))
    finally:
        caller.close()


def _until_smallest_answers() -> float:
    began = time.monotonic()
    with peers.peer("smallest_mcp") as server:
        caller = HttpCaller(int(peers.first_line(server)))
        assert b'"result"' in caller.exchange(caller.request(HELLO, {}))
        taken = (time.monotonic() - began) * 1000
        caller.close()
    return taken


def _commands(socket: Path, runs: int) -> list[Figure]:
    commands = {
        "version": ("version",),
        "status": ("status", "--socket", str(socket)),
        "tail": ("tail", "--socket", str(socket)),
    }
    times: dict[str, list[float]] = {name: [] for name in ("python", *commands)}
    for _ in range(runs):
        times["python"].append(_wall_ms(*_NOTHING))
        for name, arguments in commands.items():
            times[name].append(_wall_ms("-m", "xidwatch", *arguments))
    bare = times.pop("python")
    return [
        Figure(
            f"start: xidwatch {name}, to python -c pass",
            median(each) / median(bare),
            "x",
            beside=f"ms: {spread(each, 0)}; python -c pass: {median(bare):.0f}",
        )
        for name, each in times.items()
    ]


def _wall_ms(*arguments: str) -> float:
    began = time.monotonic()
    subprocess.run(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        check=True,
        cwd=ROOT,
        env=clean_environment(),
    )
    return (time.monotonic() - began) * 1000


def _until_ready(daemon: Daemon) -> float:
    began = time.monotonic()
    daemon.start()
    return (time.monotonic() - began) * 1000
