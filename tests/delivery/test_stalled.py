"""Clients that stop reading in the middle of a storm, one of each kind, beside 200 that read on.

The figures before, during and after are printed; what is asserted holds however slow the machine
is: every healthy client is told of every fault, the stalled ones are cut or wait without growing
the daemon, and what remains afterwards is as it was before.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.clients.curl import call, modern, notification, request
from tests.delivery.crowd import Crowd, Kind, ask, open_stream, tcp
from tests.delivery.faults import FIRST_PID, GPUS, QUIET_GAP, introduce
from tests.delivery.figures import Figures
from tests.delivery.readers import CLIENT, JSON_HEADERS
from tests.support.daemon import ROOT, Daemon, clean_environment
from tests.support.fault_lab import Happened, fault
from tests.support.kernel_log import FakeKernelLog
from tests.support.metrics import metric
from tests.support.readers import everything_kept
from tests.support.waiting import DEADLINE_S, wait_for

STORM_S = 60.0 if os.environ.get("XIDWATCH_LONG") else 10.0
CALM_S = 3.0
PER_S = 20
HEALTHY = {
    Kind.EVENTS: 80,
    Kind.LISTEN: 40,
    Kind.SESSION: 20,
    Kind.SSE: 20,
    Kind.SOCKET_EVENTS: 20,
    Kind.SOCKET_MCP: 20,
}
ON_THE_SOCKET = 4
"""Stalled clients of the unix socket: nobody cuts them, a pager may hold one for hours."""
GROWTH_KIB = 30 * 1024
"""What the daemon may grow by: as much as in a storm without stalled clients (DESIGN section 7)."""


class Storm:
    """Writes faults at an even pace and lets the crowd read meanwhile, in one thread."""

    def __init__(self, log: FakeKernelLog, crowd: Crowd) -> None:
        self._log = log
        self._crowd = crowd
        self._next = 0

    def blow(self, seconds: float) -> list[float]:
        """Faults for so long; then wait until everybody was told of each. The delays, in ms."""
        written: dict[int, float] = {}
        start, base_us, count = time.monotonic(), self._log.time_us, int(seconds * PER_S)
        for number in range(count):
            due = start + number / PER_S
            while (left := due - time.monotonic()) > 0:
                self._crowd.read(left)
            pid = FIRST_PID + self._next
            line = f"NVRM: Xid (PCI:{GPUS[self._next % len(GPUS)]}): 48, pid={pid}, name=python3, DBE "
            written[pid] = time.monotonic()
            self._log.write(line.ljust(1000, "x"), time_us=base_us + int((written[pid] - start) * 1e6))
            self._next += 1
        until = time.monotonic() + 2 * DEADLINE_S
        while not all(written.keys() <= stream.told.keys() for stream in self._crowd.streams):
            assert time.monotonic() < until, missing(self._crowd, written)
            self._crowd.read(0.1)
        return [
            (stream.told[pid] - at) * 1000 for stream in self._crowd.streams for pid, at in written.items()
        ]


def missing(crowd: Crowd, written: dict[int, float]) -> str:
    lacking = [stream.kind.value for stream in crowd.streams if not written.keys() <= stream.told.keys()]
    return f"not told of every fault: {sorted(set(lacking))}, {len(lacking)} clients"


@pytest.mark.slow
@fault(
    "clients of every transport stop reading in a storm",
    promise=3,
    promised="others have every event, a stalled one costs little memory and is cut off",
)
def test_clients_that_stop_reading_hold_up_none_of_200_others(
    tmp_path: Path, kernel_log: FakeKernelLog, figures: Figures, happened: Happened
) -> None:
    introduce(kernel_log)
    daemon = Daemon(tmp_path, kmsg=kernel_log.path, flags=["--quiet-gap", QUIET_GAP])
    with ExitStack() as stack:
        stack.callback(daemon.stop)
        daemon.start()
        crowd = Crowd()
        stack.callback(crowd.close)
        for kind, count in HEALTHY.items():
            for _ in range(count):
                crowd.add(open_stream(kind, daemon))
        assert len(crowd.streams) == 200
        storm, healthy = Storm(kernel_log, crowd), clients(daemon)
        show(figures, "before", storm.blow(CALM_S))
        reset_highest_rss(daemon)
        before = rss_kib(daemon)
        with stalled_clients(daemon) as stalled:
            figures(f"stalled: {', '.join(stalled)}")
            show(figures, "during", storm.blow(STORM_S))
            growth = rss_kib(daemon, "VmHWM") - before
            left = healthy | {"socket": healthy["socket"] + ON_THE_SOCKET}
            wait_for(
                lambda: clients(daemon) == left, "the stalled clients of HTTP to be cut off", deadline_s=60
            )
        wait_for(lambda: clients(daemon) == healthy, "the stalled clients of the socket to be gone")
        show(figures, "after", storm.blow(CALM_S))
        figures(f"memory grew by {growth} KiB at most")
        assert growth <= GROWTH_KIB
        assert {item["kind"] for item in everything_kept(daemon)} <= {"xid", "incident"}
        happened(
            f"{len(stalled)} stalled, one of each kind: 200 others had every fault of {STORM_S:g} s;"
            f" memory grew by {growth / 1024:.0f} MiB at most"
        )


@contextmanager
def stalled_clients(daemon: Daemon) -> Iterator[list[str]]:
    """One client of each kind that reads nothing more, and callers that leave long answers unread."""
    with ExitStack() as stack:
        for kind in Kind:
            stack.enter_context(open_stream(kind, daemon, receive_buffer=4096).connection)
        asked = open_stream(Kind.SOCKET_MCP, daemon).connection
        stack.enter_context(asked)
        ask_for_much(asked)
        stack.enter_context(ask_over_http(daemon))
        relay = stack.enter_context(open_relay(daemon))
        assert relay.stdin is not None
        for _ in range(4):
            relay.stdin.write(line_of(call("get_xid_events", since=0, limit=1000)))
        relay.stdin.flush()
        yield [*Kind, "long answers on the unix socket", "a long answer on /mcp", "xidwatch stdio"]


def ask_for_much(connection: socket.socket) -> None:
    """Calls whose answers are longer than any buffer on their way."""
    for _ in range(4):
        connection.sendall(line_of(call("get_xid_events", since=0, limit=1000)))


def ask_over_http(daemon: Daemon) -> socket.socket:
    """A call over /mcp whose answer stays where it is."""
    connection = tcp(daemon, 4096)
    arguments = {"since": 0, "limit": 1000}
    body, *headers = modern("tools/call", name="get_xid_events", arguments=arguments)
    ask(connection, "POST", "/mcp", JSON_HEADERS | dict(h.split(": ", 1) for h in headers), body)
    return connection


@contextmanager
def open_relay(daemon: Daemon) -> Iterator[subprocess.Popen[bytes]]:
    """A relay in the middle of a session."""
    with subprocess.Popen(
        [sys.executable, "-m", "xidwatch", "stdio", "--socket", str(daemon.socket)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=clean_environment(),
    ) as relay:
        assert relay.stdin is not None
        assert relay.stdout is not None
        try:
            relay.stdin.write(line_of(request("initialize", **CLIENT)))
            relay.stdin.write(line_of(notification("notifications/initialized")))
            relay.stdin.flush()
            assert b"serverInfo" in relay.stdout.readline()
            yield relay
        finally:
            relay.kill()


def line_of(message: object) -> bytes:
    return json.dumps(message).encode() + b"\n"


def clients(daemon: Daemon) -> dict[str, float]:
    """Clients by transport."""
    return {
        transport: metric(daemon, f'xidwatch_clients{{transport="{transport}"}}')
        for transport in ("events", "mcp", "sse", "socket")
    }


def reset_highest_rss(daemon: Daemon) -> None:
    Path(f"/proc/{daemon.pid}/clear_refs").write_text("5")  # proc(5): resets VmHWM


def rss_kib(daemon: Daemon, field: str = "VmRSS") -> int:
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{field}:"))


def show(figures: Figures, when: str, delays_ms: list[float]) -> None:
    p50, p99 = statistics.median(delays_ms), statistics.quantiles(delays_ms, n=100)[98]
    figures(
        f"{when}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, worst {max(delays_ms):.1f} ms "
        f"of {len(delays_ms)} deliveries"
    )
