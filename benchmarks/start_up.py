"""How long a command takes, against a Python that does nothing; and `serve`, until it is ready."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figure import Figure, Plan, median, spread
from tests.support.daemon import ROOT, Daemon, clean_environment
from tests.support.kernel_log import FakeKernelLog
from tests.support.waiting import wait_for

_NOTHING = ("-c", "pass")
_IMPORTS = ("-c", "import mcp.server, starlette, uvicorn, sse_starlette, prometheus_client")
SERVES = 3


def measure(plan: Plan) -> Sequence[Figure]:
    """Medians, as multiples of what Python itself takes."""
    runs = plan.samples(15, 4)
    with FakeKernelLog(plan.directory / "kmsg") as log:
        daemon = Daemon(plan.directory, kmsg=log.path)
        starts, imports = [], []
        for _ in range(plan.samples(SERVES, 1)):
            starts.append(_until_ready(daemon))
            daemon.stop()
            imports.append(_wall_ms(*_IMPORTS))
        daemon.start()
        try:
            log.write("NVRM: Xid (PCI:0000:91:00): 79, pid=446, name=python3, GPU has fallen off the bus.")
            wait_for(daemon.events, "the event")
            figures = _commands(daemon.socket, runs)
        finally:
            daemon.stop()
    ready = Figure(
        "start: serve until /readyz, to its imports alone",
        median(starts) / median(imports),
        "x",
        beside=f"ms: {spread(starts, 0)}; importing mcp, starlette, uvicorn: {median(imports):.0f}",
    )
    return [*figures, ready]


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
