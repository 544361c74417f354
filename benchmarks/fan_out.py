"""One event to 1,000 subscribers of /events, one of whom has stopped reading.

The stalled one asks for everything that is kept and reads nothing, so its connection is full
before the measurement begins. Latency counts from the write of the kernel line to the moment at
which the client process, one thread with epoll, has the event of each of the others. The same
client measures a plain sse-starlette server that sends the same JSON to as many.
"""

from __future__ import annotations

import resource
import select
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from benchmarks import peers, process
from benchmarks.clients import Subscriber
from benchmarks.figure import Figure, Plan, Unavailable, percentile, spread
from benchmarks.outcome import Part
from benchmarks.samples import Samples
from tests.support.daemon import Daemon
from tests.support.kernel_log import FakeKernelLog
from tests.support.waiting import wait_for

ROUNDS = 10
PAUSE_S = 0.25
"""All rounds fit into the 5 s after which the daemon cuts a stalled client off."""
BACKLOG_GPUS, EVENTS_A_GPU = 50, 20
"""1,000 events of 1.4 kB: more than any socket buffer takes in."""
_FILES = 256
"""Descriptors beside the subscribers'."""


@dataclass(frozen=True, slots=True)
class _Measured:
    """What the daemon did."""

    latencies_ms: Sequence[float]
    reader_kb: float
    """Growth of its resident memory a subscriber."""
    unsent_kb: float
    """What its kernel still holds for the stalled one at the end."""
    sample: str
    """JSON of one event."""


def measure(plan: Plan) -> Sequence[Part]:
    """The 99th percentile over all subscribers and rounds."""
    readers = plan.samples(1_000, 100)
    _raise_open_files(readers + _FILES)
    measured = _daemon(plan, readers)
    ours, theirs = measured.latencies_ms, _baseline(readers, measured.sample)
    return [
        Figure(
            f"{readers:,} subscribers, one stalled: p99",
            percentile(ours, 0.99),
            "ms",
            must=500,
            reach=100,
            beside=f"{spread(ours, 0)}; plain sse-starlette, none stalled: {spread(theirs, 0)}; "
            f"{percentile(ours, 0.99) / percentile(theirs, 0.99):.2f} x; "
            f"{measured.unsent_kb:,.0f} kB wait for the stalled one",
        ),
        Figure("memory a subscriber", measured.reader_kb, "kB"),
        Samples(
            "fanout",
            f"One event to {readers:,} subscribers of /events",
            "until a subscriber has it, ms",
            {"xidwatch, one of them stalled": ours},
            {"plain sse-starlette, none stalled": theirs},
        ),
    ]


def _daemon(plan: Plan, readers: int) -> _Measured:
    with FakeKernelLog(plan.directory / "kmsg") as log, ExitStack() as stack:
        daemon = Daemon(plan.directory, kmsg=log.path).start()
        stack.callback(daemon.stop)
        for bus in range(BACKLOG_GPUS):
            _write_gpu(log, bus)
            for pid in range(EVENTS_A_GPU):
                _write_xid(log, bus, pid)
        kept = "since=0&limit=1000&kind=xid"
        wait_for(lambda: len(daemon.events(kept)) == BACKLOG_GPUS * EVENTS_A_GPU, "the backlog", pause_s=0.1)
        for bus in range(100, 100 + ROUNDS):
            _write_gpu(log, bus)
        sample = daemon.get("/events.json?limit=1")[1].decode()
        sample = sample[sample.index("[") + 1 : sample.rindex('], "next_cursor"')]
        before = process.rss_mb(daemon.pid)
        crowd = stack.enter_context(closing(_Crowd(daemon.port, readers - 1)))
        per_reader = (process.rss_mb(daemon.pid) - before) * 1000 / readers
        stalled = stack.enter_context(
            closing(Subscriber(daemon.port, "/events?since=0", receive_buffer=4096).socket)
        )
        time.sleep(PAUSE_S)
        latencies = crowd.rounds(lambda number: _write_xid(log, 100 + number, 700 + number), b'"pid": 7%02d')
        unsent = _unsent_kb(stalled)
        if not unsent:
            raise Unavailable(
                "the stalled client was cut off before the end: the machine is too slow for this"
            )
    return _Measured(latencies, per_reader, unsent, sample)


def _baseline(readers: int, sample: str) -> list[float]:
    with peers.peer("sse_broadcast") as server:
        port = int(peers.first_line(server))
        assert server.stdin is not None
        stdin = server.stdin

        def send(number: int) -> None:
            stdin.write(f'{{"pid": 7{number:02d}, {sample[1:]}\n'.encode())
            stdin.flush()

        with closing(_Crowd(port, readers)) as crowd:
            return crowd.rounds(send, b'"pid": 7%02d')


class _Crowd:
    """Many subscribers in one thread."""

    def __init__(self, port: int, count: int) -> None:
        self._readers = [Subscriber(port) for _ in range(count)]
        for reader in self._readers:
            reader.wait_for_hello()
        self._sockets = {reader.fileno(): reader.socket for reader in self._readers}
        self._poller = select.epoll()
        for number in self._sockets:
            self._poller.register(number, select.EPOLLIN)

    def close(self) -> None:
        """Leave, all of them."""
        self._poller.close()
        for reader in self._readers:
            reader.close()

    def rounds(self, cause: Callable[[int], None], marker: bytes) -> list[float]:
        """Cause one event after the other; ms until each subscriber has it."""
        latencies: list[float] = []
        for number in range(ROUNDS):
            time.sleep(PAUSE_S)
            self._drain()
            began = time.monotonic()
            cause(number)
            latencies += self._arrivals(began, marker % number)
        return latencies

    def _arrivals(self, began: float, marker: bytes) -> list[float]:
        waiting = set(self._sockets)
        latencies: list[float] = []
        while waiting:
            ready = self._poller.poll(20)
            if not ready:
                raise Unavailable(f"{len(waiting)} subscribers never had the event")
            for number, _ in ready:
                data = self._sockets[number].recv(1 << 16)
                if not data:
                    raise Unavailable("the server ended a stream")
                if marker in data and number in waiting:
                    waiting.discard(number)
                    latencies.append((time.monotonic() - began) * 1000)
        return latencies

    def _drain(self) -> None:
        while ready := self._poller.poll(0):
            for number, _ in ready:
                self._sockets[number].recv(1 << 16)


def _write_gpu(log: FakeKernelLog, bus: int) -> None:
    log.write(f"NVRM: GPU at PCI:0000:{bus:02x}:00: GPU-{bus:08x}-0000-0000-0000-000000000000")


def _write_xid(log: FakeKernelLog, bus: int, pid: int) -> None:
    log.write(f"NVRM: Xid (PCI:0000:{bus:02x}:00): 43, pid={pid}, name=python3, Ch 00000008")


def _unsent_kb(stalled: socket.socket) -> float:
    """What the server's end of this connection holds back because nobody reads it; 0 when it was cut."""
    ours = f"{stalled.getsockname()[1]:04X}"
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        _, _, remote, state, queues, *_ = line.split()
        if remote.endswith(f":{ours}") and state == "01":  # TCP_ESTABLISHED
            return int(queues.partition(":")[0], 16) / 1000
    return 0.0


def _raise_open_files(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise Unavailable(f"only {hard} files may be open, and {wanted} are needed")
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
