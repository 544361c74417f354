"""Two hundred readers, and one that asks and never reads."""

from __future__ import annotations

import re
import selectors
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.fault_lab import Happened, fault
from tests.support.kernel_log import FakeKernelLog
from tests.support.memory import rss_kib
from tests.support.metrics import metric
from tests.support.readers import everything_kept
from tests.support.waiting import DEADLINE_S, wait_for

GPUS = tuple(f"0000:{bus:02x}:00" for bus in (0x43, 0x52, 0x9D, 0xC3, 0xD1))
EVENT_FRAME = b'\ndata: {"schema"'


@pytest.fixture
def daemon(tmp_path: Path, kernel_log: FakeKernelLog) -> Iterator[Daemon]:
    """A daemon that knows the GPUs."""
    running = Daemon(tmp_path, kmsg=kernel_log.path)
    for number, gpu in enumerate(GPUS):
        kernel_log.write(f"NVRM: GPU at PCI:{gpu}: GPU-11111111-2222-3333-4444-{number:012d}")
    try:
        yield running.start()
    finally:
        running.stop()


_ID = re.compile(rb'"schema": 1, "cursor": [0-9]+, "id": "(ev_[0-9a-f]{20})"')
_ID_BYTES = 80


class Crowd:
    """Many readers of /events, in one thread, that note which faults they were told of and no more."""

    def __init__(self, daemon: Daemon, readers: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._tails: dict[socket.socket, bytes] = {}
        self.told: dict[socket.socket, set[bytes]] = {}
        """Ids of the faults each one was told of."""
        for _ in range(readers):
            reader = ask_for_events(daemon)
            reader.setblocking(False)
            self._selector.register(reader, selectors.EVENT_READ)
            self._tails[reader] = b""
            self.told[reader] = set()

    def close(self) -> None:
        self._selector.close()
        for reader in self._tails:
            reader.close()

    def read(self) -> None:
        """Take what is there."""
        for key, _ in self._selector.select(timeout=0.1):
            reader = key.fileobj
            assert isinstance(reader, socket.socket)
            data = reader.recv(1 << 18)
            assert data, "a reader was cut off"
            text = self._tails[reader] + data
            self.told[reader].update(_ID.findall(text))
            # What might be the beginning of the next match.
            self._tails[reader] = text[-_ID_BYTES:]


def ask_for_events(daemon: Daemon, receive_buffer: int | None = None) -> socket.socket:
    """A connection on which a stream of events has been asked for."""
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(DEADLINE_S)
    connection.connect(("127.0.0.1", daemon.port))
    connection.sendall(f"GET /events HTTP/1.1\r\nHost: 127.0.0.1:{daemon.port}\r\n\r\n".encode())
    return connection


def clients(daemon: Daemon) -> float:
    return metric(daemon, 'xidwatch_clients{transport="events"}')


@pytest.mark.slow
@fault(
    "a client of /events that asks and never reads, beside 200 that do, in a storm",
    promise=3,
    promised="the others are told of everything; the stalled one is cut off",
)
def test_a_client_that_does_not_read_holds_up_none_of_200_others_and_is_cut_off(
    daemon: Daemon, kernel_log: FakeKernelLog, happened: Happened
) -> None:
    readers, events = 200, 300
    with ExitStack() as stack:
        stalled = stack.enter_context(ask_for_events(daemon, receive_buffer=4096))
        crowd = Crowd(daemon, readers)
        stack.callback(crowd.close)
        wait_for(lambda: clients(daemon) == readers + 1, "every client to be connected")
        before = rss_kib(daemon)
        for n in range(events):
            # Each a new event: other GPUs, other codes, and 600 ms of kernel time between two.
            gpu, code = GPUS[n % len(GPUS)], (31, 43, 48, 63, 94)[n // len(GPUS) % 5]
            kernel_log.write(
                f"NVRM: Xid (PCI:{gpu}): {code}, pid={n}, name=python3, " + f"{n:04d} ".ljust(900, "x"),
                time_us=kernel_log.time_us + 600_000,
            )
        until = time.monotonic() + 2 * DEADLINE_S
        while min(map(len, crowd.told.values())) < events and time.monotonic() < until:
            crowd.read()
        assert {len(told) for told in crowd.told.values()} == {events}
        growth_kib = rss_kib(daemon) - before
        wait_for(lambda: clients(daemon) == readers, "the stalled client to be cut off")
        stalled.settimeout(DEADLINE_S)
        received = b""
        try:
            while chunk := stalled.recv(1 << 16):
                received += chunk
        except ConnectionError:
            pass
        assert received.count(EVENT_FRAME) < events
        assert not any(event["kind"] == "overflow" for event in everything_kept(daemon))
    happened(
        f"{readers} readers were told of all {events} faults; the stalled one was cut off after "
        f"{received.count(EVENT_FRAME)}; memory grew by {max(0, growth_kib) / 1024:.0f} MiB"
    )
