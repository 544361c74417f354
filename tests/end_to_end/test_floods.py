"""Thousands of connections that want nothing: who is connected goes on hearing, and who asks is answered."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mcp_server.listener import MAX_WAITING_CONNECTIONS
from tests.support import fault_lab
from tests.support.bad_input import fault
from tests.support.certificates import Https
from tests.support.daemon import Daemon
from tests.support.fault_lab import Happened
from tests.support.flood import FILES, HALF_OF_HTTP, HALF_OF_TLS, Flood, has_files
from tests.support.kernel_log import FakeKernelLog
from tests.support.memory import rss_kib
from tests.support.waiting import DEADLINE_S, wait_for

OTHER_FILES = 100
"""Open files of the daemon beside the flood's connections."""
GROWTH_KIB = 150 * 1024
"""How much memory ten thousand connections may cost; over TLS it was 87 MB."""


@dataclass
class Scene:
    """A daemon, somebody who listens to it, and the means to be somebody else."""

    daemon: Daemon
    kernel_log: FakeKernelLog
    client: ssl.SSLContext | None
    stack: ExitStack
    lags_s: list[float] = field(default_factory=list)
    """From a line of the kernel log to the listener."""
    answers_s: list[float] = field(default_factory=list)
    """From the beginning of a new connection to the answer."""

    @property
    def kind(self) -> str:
        """What is spoken there."""
        return "HTTP" if self.client is None else "HTTPS"

    def listen(self) -> None:
        """Follow /events from now on."""
        plain = self.stack.enter_context(
            socket.create_connection(("127.0.0.1", self.daemon.port), timeout=DEADLINE_S)
        )
        reader = (
            plain
            if self.client is None
            else self.stack.enter_context(self.client.wrap_socket(plain, server_hostname="127.0.0.1"))
        )
        reader.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self._lines = reader.makefile("rb")
        self._until("event: hello")

    def hear_a_fault(self) -> None:
        """Print a fault, and wait until the listener has it."""
        self.kernel_log.time_us += 60_000_000  # a fault of its own, not a repeat
        begun = time.monotonic()
        seq = self.kernel_log.write(fault(43, self.kernel_log.next_seq))
        self._until(f'"kmsg_seq": {seq},')
        self.lags_s.append(time.monotonic() - begun)

    def ask(self) -> None:
        """Ask /healthz as a client of an address that nobody has."""
        begun = time.monotonic()
        source = ("127.0.1.1", 0)
        host, port = "127.0.0.1", self.daemon.port
        connection = (
            http.client.HTTPConnection(host, port, timeout=DEADLINE_S, source_address=source)
            if self.client is None
            else http.client.HTTPSConnection(
                host, port, timeout=DEADLINE_S, source_address=source, context=self.client
            )
        )
        with closing(connection):
            connection.request("GET", "/healthz")
            assert connection.getresponse().status == 200
        self.answers_s.append(time.monotonic() - begun)

    def open_files(self) -> int:
        """How many files the daemon has open."""
        return len(list(Path(f"/proc/{self.daemon.pid}/fd").iterdir()))

    def figures(self) -> str:
        """What was measured, for a person."""
        lags, answers = sorted(self.lags_s), sorted(self.answers_s)
        return (
            f"lag p50 {lags[len(lags) // 2] * 1000:.1f} ms, worst {lags[-1] * 1000:.1f} ms; "
            f"answer p50 {answers[len(answers) // 2] * 1000:.1f} ms, worst {answers[-1] * 1000:.1f} ms; "
            f"{self.open_files()} open files, {rss_kib(self.daemon) // 1024} MB"
        )

    def _until(self, wanted: str) -> None:
        while wanted.encode() not in self._lines.readline():
            pass


@pytest.fixture(params=["http", "https"])
def scene(request: pytest.FixtureRequest, tmp_path: Path, kernel_log: FakeKernelLog) -> Iterator[Scene]:
    """A daemon with a listener."""
    https = Https(tmp_path) if request.param == "https" else None
    client = None if https is None else https.client()
    daemon = Daemon(tmp_path, kmsg=kernel_log.path, flags=https.flags if https else [], tls=client)
    with ExitStack() as stack:
        try:
            there = Scene(daemon.start(), kernel_log, client, stack)
            there.listen()
            yield there
        finally:
            assert daemon.stop() == 0
        assert "Traceback" not in daemon.log.read_text()


@pytest.fixture
def flood(scene: Scene) -> Iterator[Flood]:
    """One that has not begun."""
    start = HALF_OF_HTTP if scene.client is None else HALF_OF_TLS
    with closing(Flood(scene.daemon.port, start, addresses=16)) as flooding:
        yield flooding


@pytest.mark.slow
@pytest.mark.skipif(not has_files(), reason=f"this process may not open {FILES} files")
@fault_lab.fault(
    "ten thousand connections that never bring a whole request or handshake",
    promise=3,
    promised="who listens hears on, who asks is answered, and memory and descriptors are bounded",
)
def test_ten_thousand_connections_stop_nobody(scene: Scene, flood: Flood, happened: Happened) -> None:
    scene.hear_a_fault()
    before_kib = rss_kib(scene.daemon)
    for _ in range(40):
        flood.add(250)
        scene.hear_a_fault()
        scene.ask()
        assert scene.open_files() < MAX_WAITING_CONNECTIONS + OTHER_FILES

    def all_connected() -> bool:
        flood.pump(0.1)
        return flood.connected == flood.attempts

    wait_for(all_connected, "all to be connected")
    flood.drip()
    scene.hear_a_fault()
    scene.ask()
    print(f"{flood.cut} of {flood.attempts} cut; {scene.figures()}")  # noqa: T201  (worth reading: pytest -s)
    assert flood.open <= MAX_WAITING_CONNECTIONS
    growth_kib = rss_kib(scene.daemon) - before_kib
    assert growth_kib < GROWTH_KIB
    happened(
        f"{scene.kind}: {flood.attempts:,} connections, {flood.cut:,} cut to make room; all "
        f"{len(scene.lags_s)} faults were heard and {len(scene.answers_s)} others answered meanwhile; memory "
        f"grew by {growth_kib // 1024} MiB"
    )


@pytest.mark.slow
@fault_lab.fault(
    "slow bytes: 500 clients that send one now and then",
    promise=3,
    promised="who listens hears on, who asks is answered; the slow ones are cut off",
)
def test_a_slow_loris_is_cut_while_others_are_served(scene: Scene, flood: Flood, happened: Happened) -> None:
    flood.add(500)

    def all_cut() -> bool:
        flood.drip()
        flood.pump(0.5)
        scene.hear_a_fault()
        scene.ask()
        return flood.open == 0

    wait_for(all_cut, "the slow connections to be cut")
    print(scene.figures())  # noqa: T201  (worth reading: pytest -s)
    assert flood.connected == 500
    wait_for(lambda: scene.open_files() < OTHER_FILES, "their files to be closed")
    happened(
        f"{scene.kind}: all {flood.connected} were cut off; {len(scene.lags_s)} faults were heard and "
        f"{len(scene.answers_s)} others answered meanwhile"
    )
