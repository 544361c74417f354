"""A network that swallows packets: the clients are gone, and no FIN or RST ever says so.

The packets of the clients' ports are dropped by the kernel's filter, so that the daemon's side stays open
towards nobody, as it does when a client's machine loses its power or a firewall forgets a connection.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.delivery.crowd import Kind, open_stream, tcp
from tests.support.bystander import Bystander, open_files
from tests.support.daemon import Daemon
from tests.support.fault_lab import Happened, fault, rounds
from tests.support.kernel_log import FakeKernelLog
from tests.support.memory import rss_kib
from tests.support.metrics import metric
from tests.support.waiting import DEADLINE_S, wait_for

OVER_TCP = (Kind.EVENTS, Kind.LISTEN, Kind.SESSION, Kind.SSE)
HALF_A_HEAD = b"GET /events HTTP/1.1\r\nHost: localh"
CHAIN = f"xidwatch-test-{os.getpid()}"
GROWTH_KIB = 30 * 1024
"""What the daemon may grow by: as much as in a storm (DESIGN section 7)."""


def iptables(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it; it waits for whoever else changes the rules."""
    command = ["iptables", "--wait", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)


@pytest.fixture(scope="module", autouse=True)
def _filter() -> Iterator[None]:
    """A chain of our own, which drops nothing yet."""
    if shutil.which("iptables") is None:
        pytest.skip("iptables is not installed")
    made = iptables("--new-chain", CHAIN)
    if made.returncode:
        pytest.skip(f"no packets can be dropped here: {made.stderr.strip()}")
    iptables("--insert", "INPUT", "--jump", CHAIN)
    try:
        yield
    finally:
        iptables("--delete", "INPUT", "--jump", CHAIN)
        iptables("--flush", CHAIN)
        iptables("--delete-chain", CHAIN)


@contextmanager
def swallowed(connections: list[socket.socket]) -> Iterator[None]:
    """While the block runs, no packet of these connections arrives, in either direction."""
    try:
        for connection in connections:
            port = str(connection.getsockname()[1])
            for end in ("--source-port", "--destination-port"):
                done = iptables("--append", CHAIN, "--protocol", "tcp", end, port, "--jump", "DROP")
                assert done.returncode == 0, done.stderr
        yield
    finally:
        iptables("--flush", CHAIN)


def open_clients(daemon: Daemon) -> dict[str, float]:
    """Clients by transport."""
    return {
        name: metric(daemon, f'xidwatch_clients{{transport="{name}"}}')
        for name in ("events", "mcp", "sse", "socket")
    }


@fault(
    "half-open TCP: the network swallows every packet of some clients",
    promise=3,
    promised="they are cut off within seconds; others are not held up; descriptors and memory as before",
)
def test_half_open_connections_are_cut_and_hold_up_nobody(
    tmp_path: Path, kernel_log: FakeKernelLog, happened: Happened
) -> None:
    daemon, each = Daemon(tmp_path, kmsg=kernel_log.path), rounds(short=5, long=100)
    with ExitStack() as stack:
        stack.callback(daemon.stop)
        daemon.start()
        bystander = stack.enter_context(Bystander(daemon, kernel_log))
        bystander.hears()
        present, before, before_kib = open_clients(daemon), open_files(daemon), rss_kib(daemon)
        gone = [open_stream(kind, daemon).connection for kind in OVER_TCP for _ in range(each)]
        for _ in range(each):
            gone.append(tcp(daemon, None))
            gone[-1].sendall(HALF_A_HEAD)
        assert sum(open_clients(daemon).values()) == sum(present.values()) + len(OVER_TCP) * each
        with swallowed(gone):
            for connection in gone:
                connection.close()  # of which the daemon learns nothing
            for _ in range(20):
                bystander.hears()
                bystander.asks()
            wait_for(
                lambda: open_clients(daemon) == present and open_files(daemon) <= before,
                "the daemon to be rid of clients that are gone",
                deadline_s=2 * DEADLINE_S,
                pause_s=0.2,
            )
        growth_kib = rss_kib(daemon) - before_kib
        bystander.hears()
        bystander.check_that_all_is_kept()
    assert growth_kib < GROWTH_KIB
    assert "Traceback" not in daemon.log.read_text()
    happened(
        f"{len(gone)} half-open connections were cut ({each} of each: {', '.join(OVER_TCP)}, half a head); "
        f"{len(bystander.printed)} faults printed meanwhile were told to another client, one after the other"
    )
