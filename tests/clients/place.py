"""Where a client of the table connects: a daemon, and a kernel log in which faults can be made."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from daemon import paths
from tests.clients.cells import Transport
from tests.support.daemon import Daemon, clean_environment
from tests.support.kernel_log import FakeKernelLog
from tests.support.metrics import metric
from tests.support.waiting import wait_for

_FAULT_GAP_US = 6_000_000
"""Kernel time between two faults: more than the quiet gap, so that each is an event of its own."""
_pids = itertools.count(1000)


@dataclass
class Place:
    """One address, in the words that a client needs."""

    transport: Transport
    log: FakeKernelLog
    url: str | None = None
    command: list[str] = field(default_factory=list)
    environ: dict[str, str] = field(default_factory=dict)
    daemon: Daemon | None = None
    """None: the client starts the one process there is."""

    def fault(self) -> int:
        """Make a GPU fault: a double bit error. Returns the pid it names, which no other fault does."""
        pid = next(_pids)
        self.log.write(
            f"NVRM: Xid (PCI:0000:91:00): 48, pid={pid}, name=python3, DBE",
            time_us=self.log.time_us + _FAULT_GAP_US,
        )
        return pid

    def stored_fault(self) -> dict[str, Any]:
        """Make a fault and wait until the daemon has its event."""
        assert self.daemon is not None
        daemon, before = self.daemon, self.daemon.events("limit=1")
        since, pid = before[0]["cursor"] if before else 0, self.fault()

        def found() -> dict[str, Any] | None:
            return next((e for e in daemon.events(f"since={since}&limit=1000") if pid_of(e) == pid), None)

        return wait_for(found, "the event")

    def stored_faults(self, count: int) -> set[int]:
        """Make faults and wait until the daemon has their events; the pids they name."""
        return {pid for _ in range(count) if (pid := pid_of(self.stored_fault())) is not None}

    def clients(self) -> int:
        """How many clients the daemon counts on this transport now."""
        assert self.daemon is not None
        label = {Transport.HTTP: "mcp", Transport.SSE: "sse", Transport.RELAY: "socket"}[self.transport]
        return int(metric(self.daemon, f'xidwatch_clients{{transport="{label}"}}'))


def pid_of(event: Any) -> int | None:
    """The pid an event names."""
    process = event.get("process") if isinstance(event, dict) else None
    pid = process["pid"] if process else None
    assert pid is None or isinstance(pid, int)
    return pid


def check_resumed(read: Sequence[dict[str, Any]], *, since: int, away: set[int]) -> None:
    """What a client read that came back with a cursor: all that happened meanwhile, in order, once."""
    cursors = [since, *(event["cursor"] for event in read)]
    assert all(before < after for before, after in pairwise(cursors)), cursors
    told = [pid for event in read if (pid := pid_of(event)) is not None]
    assert away <= set(told), (away, told)
    revisions = [(event["id"], event["revision"]) for event in read]
    assert len(set(revisions)) == len(revisions)


@contextmanager
def one_daemon(directory: Path) -> Iterator[Callable[[Transport], Place]]:
    """A running daemon, and the places where it can be reached."""
    with FakeKernelLog(directory / "kmsg") as log:
        daemon = Daemon(directory, kmsg=log.path)
        try:
            daemon.start()
            log.write("NVRM: GPU at PCI:0000:91:00: GPU-11111111-2222-3333-4444-555555555555")

            def place(transport: Transport) -> Place:
                if transport is Transport.RELAY:
                    command = [sys.executable, "-m", "xidwatch", "stdio", "--socket", str(daemon.socket)]
                    return Place(transport, log, None, command, clean_environment(), daemon)
                return Place(transport, log, daemon.url + transport.value, daemon=daemon)

            yield place
        finally:
            daemon.stop()


@contextmanager
def alone(directory: Path) -> Iterator[Place]:
    """A place without a daemon: the client starts `xidwatch stdio`, which hears for itself."""
    environ = clean_environment() | {
        "XDG_RUNTIME_DIR": str(directory),
        "XDG_STATE_HOME": str(directory),
        "XIDWATCH_KMSG": str(directory / "kmsg"),
        "XIDWATCH_STATE_DIR": str(directory / "state"),
    }
    with FakeKernelLog(directory / "kmsg") as log:
        log.write("NVRM: GPU at PCI:0000:91:00: GPU-11111111-2222-3333-4444-555555555555")
        yield Place(Transport.ALONE, log, None, [sys.executable, "-m", "xidwatch", "stdio"], environ)


def daemon_of_this_machine() -> str | None:
    """The socket of a daemon that is no business of the tests, but would be tried first; None: none."""
    return str(paths.SYSTEM_SOCKET) if paths.SYSTEM_SOCKET.exists() else None
