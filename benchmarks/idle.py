"""The daemon with nothing to do: memory, and how often it wakes.

Counted by the kernel: every wake-up of a thread ends in a context switch, and /proc has their
number. The log is the real /dev/kmsg where it can be read. A record that arrives is work, so
a window in which one came is measured again. Beside the memory stands that of the MCP SDK's smallest server
over HTTP, which keeps nothing and hears nothing.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Sequence

from benchmarks import peers, process
from benchmarks.clients import HttpCaller, status
from benchmarks.figure import Figure, Plan, Unavailable
from benchmarks.kernel_log import KMSG, require_kmsg
from benchmarks.tool_calls import HELLO
from tests.support.daemon import Daemon
from tests.support.kernel_log import FakeKernelLog

SETTLE_S = 7.0
"""After the start: the resume point is written 5 s after the last record."""
TRIES = 4


def measure(plan: Plan) -> Sequence[Figure]:
    """RSS, wake-ups a second, and the system calls behind them."""
    seconds = plan.samples(20, 5)
    with FakeKernelLog(plan.directory / "kmsg") as log:
        try:
            require_kmsg()
            source = KMSG
        except Unavailable:
            source = log.path
        daemon = Daemon(plan.directory, kmsg=source).start()
        try:
            time.sleep(SETTLE_S)
            rss, own = process.rss_mb(daemon.pid), process.anonymous_mb(daemon.pid)
            wakes, cpu = _quiet_window(daemon, seconds)
            calls = _system_calls(daemon, plan.samples(10, 3))
        finally:
            daemon.stop()
    return [
        Figure(
            "idle: resident memory",
            rss,
            "MB",
            must=90,
            reach=60,
            beside=f"{own:.0f} MB of it not files; the SDK's smallest server: {_smallest_mb():.0f} MB",
        ),
        Figure(
            "idle: wake-ups",
            wakes / seconds,
            "/s",
            must=1,
            reach=0,
            beside=f"{wakes} in {seconds} s, {cpu * 1000:.1f} ms of processor; source {source}; {calls}",
        ),
    ]


def _smallest_mb() -> float:
    """Memory of the SDK's smallest server, once it has answered a client."""
    with peers.peer("smallest_mcp") as server:
        caller = HttpCaller(int(peers.first_line(server)))
        caller.exchange(caller.request(HELLO, {}))
        caller.close()
        return process.rss_mb(server.pid)


def _quiet_window(daemon: Daemon, seconds: int) -> tuple[int, float]:
    """Wake-ups and processor time in a window in which nothing was written to the log."""
    for _ in range(TRIES):
        records = _records(daemon)
        time.sleep(0.5)  # the answer to that question is work too
        before, cpu = process.switches(daemon.pid), process.cpu_s(daemon.pid)
        time.sleep(seconds)
        wakes, used = process.switches(daemon.pid) - before, process.cpu_s(daemon.pid) - cpu
        if _records(daemon) == records:
            return wakes, used
        time.sleep(SETTLE_S)
    raise Unavailable("other processes write into the kernel log all the time")


def _records(daemon: Daemon) -> int:
    counters = status(daemon.socket)["probes"][0]["counters"]
    return int(counters["records"])


def _system_calls(daemon: Daemon, seconds: int) -> str:
    strace = shutil.which("strace")
    if strace is None:
        return "strace is not installed"
    time.sleep(0.5)
    command = [strace, "-f", "-qq", "-p", str(daemon.pid)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as tracing:
        time.sleep(seconds)
        tracing.send_signal(signal.SIGINT)
        _, traced = tracing.communicate(timeout=10)
    calls = [
        line
        for line in traced.decode(errors="replace").splitlines()
        # Calls in which the threads already slept are shown as they are interrupted.
        if "(" in line and not line.rstrip().endswith(("<detached ...>", "<unfinished ...>"))
    ]
    return f"strace: {len(calls)} system calls in {seconds} s"
