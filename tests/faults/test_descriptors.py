"""Clients that eat every descriptor, and a daemon that has none left for another client.

What hears, keeps and tells goes on with the descriptors it has; a new client is refused and that is said;
when descriptors are free again, new clients are served as before.
"""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.bystander import Bystander, open_files
from tests.support.daemon import Daemon
from tests.support.fault_lab import Happened, fault, rounds
from tests.support.kernel_log import FakeKernelLog
from tests.support.waiting import DEADLINE_S, wait_for

FEW_FILES = 256
"""A limit that some container runtimes set."""
GREEDY = 400
"""Connections that are tried on each way in: more than there are descriptors."""
STEADY_LOOKS = 10
"""So often in a row all descriptors are seen taken: what the daemon opens for a moment does not count."""
FOLLOW = b'{"xidwatch": {"want": "events", "follow": true}}\n'
EVENTS = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Glutton:
    """Opens connections and keeps those that it is left."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._open: list[socket.socket] = []
        self.refused = 0
        """Connections that were ended by the daemon, with or without a word."""
        self.words = b""
        """What the daemon said to the last one that it refused in words."""

    def eat(self, count: int) -> None:
        """Try to follow the events so often, by turns on the unix socket and from many addresses."""
        for number in range(count):
            self._follow_on_the_socket()
            self._follow_over_http(f"127.0.0.{2 + number % 40}")

    def close(self) -> None:
        """Leave."""
        for connection in self._open:
            connection.close()
        self._open.clear()

    def _follow_on_the_socket(self) -> None:
        connection = wait_for(lambda: connected_to(self._daemon.socket), "room in the queue of the socket")
        with suppress(OSError):  # it was refused before it could ask
            connection.sendall(FOLLOW)
        self._keep(connection)

    def _follow_over_http(self, source: str) -> None:
        connection = socket.create_connection(
            ("127.0.0.1", self._daemon.port), timeout=DEADLINE_S, source_address=(source, 0)
        )
        with suppress(OSError):
            connection.sendall(EVENTS)
        self._keep(connection)

    def _keep(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._open.append(connection)

    def look(self) -> None:
        """Notice who was refused."""
        for connection in [*self._open]:
            with suppress(BlockingIOError):
                try:
                    said = connection.recv(1 << 16)
                except ConnectionError:
                    said = b""
                self.words = said if b'"error"' in said else self.words
                if not said or b'"error"' in said:
                    self.refused += 1
                    self._open.remove(connection)
                    connection.close()


def connected_to(path: Path) -> socket.socket | None:
    """A connection to a unix socket; None while as many as the kernel keeps wait to be accepted."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(DEADLINE_S)
    try:
        connection.connect(str(path))
    except BlockingIOError:
        connection.close()
        return None
    return connection


@pytest.fixture
def few_files(tmp_path: Path, kernel_log: FakeKernelLog) -> Iterator[Daemon]:
    """A daemon that may open few files, and never more."""
    limit = ["prlimit", f"--nofile={FEW_FILES}:{FEW_FILES}"]
    daemon = Daemon(tmp_path, kmsg=kernel_log.path, wrapper=limit)
    try:
        yield daemon.start()
    finally:
        assert daemon.stop() == 0
    assert "Traceback" not in daemon.log.read_text()


@fault(
    "clients open more connections than the daemon may open files",
    promise=3,
    promised="who is connected goes on hearing; who comes too late is refused, which is said",
)
def test_clients_that_eat_every_descriptor_leave_the_daemon_its_own(
    few_files: Daemon, kernel_log: FakeKernelLog, happened: Happened
) -> None:
    glutton, most = Glutton(few_files), 0
    with Bystander(few_files, kernel_log) as bystander:
        bystander.hears()
        before = open_files(few_files)
        with ExitStack() as stack:
            stack.callback(glutton.close)
            for _ in range(10):
                glutton.eat(GREEDY // 10)
                glutton.look()
                bystander.hears()
                most = max(most, open_files(few_files))
        assert most < FEW_FILES
        assert glutton.refused > GREEDY
        assert b"too many connections of this process" in glutton.words
        wait_for(lambda: open_files(few_files) == before, "the files to be closed")
        bystander.hears()
        bystander.asks()
        bystander.check_that_all_is_kept()
    logged = few_files.log.read_text()
    assert "too many connections" in logged
    assert "too many open files" not in logged
    happened(
        f"{2 * GREEDY} streams asked for under a limit of {FEW_FILES} open files: at most {most} were open, "
        f"{glutton.refused} clients were refused; all {len(bystander.printed)} faults printed meanwhile were "
        f"told to the one who was there before, and kept; afterwards {before} files were open, as before"
    )


@fault(
    "not one descriptor is left",
    promise=1,
    promised="hearing, journal and open streams go on; new clients are hung up on; it recovers by itself",
)
def test_without_a_free_descriptor_it_hears_keeps_and_tells_on(
    tmp_path: Path, kernel_log: FakeKernelLog, happened: Happened
) -> None:
    daemon = Daemon(tmp_path, kmsg=kernel_log.path, flags=["--gpu", "off"])
    times = rounds(short=3, long=100)
    tried = refused = 0
    try:
        daemon.start()
        with Bystander(daemon, kernel_log) as bystander:
            bystander.hears()
            for _ in range(times):
                with no_free_descriptor(daemon):
                    for _ in range(20):
                        tried += 1
                        refused += is_refused(daemon)
                    for _ in range(3):
                        bystander.hears()
                bystander.asks()
            bystander.check_that_all_is_kept()
        told = daemon.log.read_text()
    finally:
        assert daemon.stop() == 0
    assert refused == tried
    assert told.count("no new connections: too many open files") in (1, 2)  # on the socket of either kind
    assert "Traceback" not in told
    assert len(told) < 10_000
    happened(
        f"{times} times none was left: {tried} new clients of both sockets were hung up on, with {len(told)} "
        f"bytes of log; all {len(bystander.printed)} faults were told on the open stream and kept; with "
        "descriptors again, the next client was served each time"
    )


@contextmanager
def no_free_descriptor(daemon: Daemon) -> Iterator[None]:
    """While the block runs, the daemon can open nothing more: its limit is what it has open, and readers of
    events have taken the numbers below that were free."""
    before = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    limit = 1 + max(int(entry.name) for entry in Path(f"/proc/{daemon.pid}/fd").iterdir())
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    looks = 0
    with ExitStack() as stack:
        stack.callback(resource.prlimit, daemon.pid, resource.RLIMIT_NOFILE, before)

        def is_full() -> bool:
            nonlocal looks
            if open_files(daemon) >= limit:
                looks += 1
                return looks > STEADY_LOOKS
            looks = 0
            address = ("127.0.0.1", daemon.port)
            reader = stack.enter_context(socket.create_connection(address, timeout=DEADLINE_S))
            with suppress(ConnectionError):
                reader.sendall(EVENTS)
            return False

        wait_for(is_full, "every descriptor to be taken", pause_s=0.05)
        yield


def is_refused(daemon: Daemon) -> bool:
    """Whether a new client of either socket is hung up on, rather than left to wait."""
    over_tcp = socket.create_connection(("127.0.0.1", daemon.port), timeout=DEADLINE_S)
    on_the_socket = wait_for(lambda: connected_to(daemon.socket), "room in the queue of the socket")
    with over_tcp, on_the_socket:
        return all(map(is_hung_up, (over_tcp, on_the_socket)))


def is_hung_up(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True
