"""One client that asks for ten thousand subscriptions, in each way that there is to ask for one."""

from __future__ import annotations

import json
import selectors
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from typing import Any

import pytest

from mcp_server.descriptors import for_http
from mcp_server.listener import MAX_CONNECTIONS
from mcp_server.sessions import MOST_SUBSCRIPTIONS
from tests.clients.curl import request
from tests.delivery.faults import FIRST_PID, GPUS, introduce
from tests.mcp_server.speaking import modern
from tests.support.bystander import Bystander
from tests.support.daemon import Daemon
from tests.support.fault_lab import Happened, fault, rounds
from tests.support.kernel_log import FakeKernelLog
from tests.support.mcp_wires import SocketWire
from tests.support.memory import rss_kib
from tests.support.readers import everything_kept
from tests.support.waiting import DEADLINE_S, wait_for

MANY = 10_000
KNOWN = 400
"""Events that can be subscribed to: more than one client may."""
GROWTH_KIB = 30 * 1024
"""What the daemon may grow by for subscriptions in one session: as much as in a storm (DESIGN section 7)."""
READER_KIB = 116
"""What a subscriber may cost at most (measured: 42 to 116 KB)."""
OPEN_FILES = 4_096
"""What the daemon may open: a limit of many nodes, under which an address's share is reached soon."""
EVENT_FRAME = b'\ndata: {"schema"'


@dataclass(frozen=True, slots=True)
class Scene:
    """A daemon with many events, and somebody who should not notice."""

    daemon: Daemon
    log: FakeKernelLog
    bystander: Bystander
    uris: list[str]
    """Resources that exist, as many as events were told."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One daemon for all the subscriptions of this file."""
    directory = tmp_path_factory.mktemp("many")
    with FakeKernelLog(directory / "kmsg") as log, ExitStack() as stack:
        introduce(log)
        limit = ["prlimit", f"--nofile={OPEN_FILES}:{OPEN_FILES}"]
        daemon = Daemon(directory, kmsg=log.path, flags=["--gpu", "off"], wrapper=limit)
        stack.callback(daemon.stop)
        daemon.start()
        for number in range(KNOWN):
            gpu = GPUS[number % len(GPUS)]
            log.time_us += 100_000
            log.write(f"NVRM: Xid (PCI:{gpu}): 43, pid={FIRST_PID + number}, name=python3, Ch 00000008")
        told = wait_for(lambda: faults_of(daemon), "every fault to be told")
        yield Scene(
            daemon,
            log,
            stack.enter_context(Bystander(daemon, log)),
            [f"xid://events/{one['id']}" for one in told],
        )
        daemon.stop()
        assert "Traceback" not in daemon.log.read_text()


def faults_of(daemon: Daemon) -> list[dict[str, Any]] | None:
    """The events of all faults; None before each was told."""
    told = [item for item in everything_kept(daemon) if item["kind"] == "xid"]
    return told if len(told) >= KNOWN else None


@fault(
    f"{MANY:,} subscriptions asked for in one MCP session",
    promise=3,
    promised="bounded, refused in words; others are served; memory is bounded",
)
def test_one_session_gets_a_bounded_number_of_subscriptions(scene: Scene, happened: Happened) -> None:
    session, before_kib = SocketWire(scene.daemon), rss_kib(scene.daemon)
    times, taken, refused = rounds(short=1_000, long=MANY), set[str](), 0
    try:
        for number in range(times):
            uri = scene.uris[number] if number < KNOWN else f"{scene.uris[number % KNOWN]}x{number}"
            message = request("resources/subscribe", uri=uri)
            [answer] = session.exchange(json.dumps(message).encode(), wants_answer=True)
            assert answer["id"] == message["id"]
            if "result" in answer:
                taken.add(uri)
            else:
                refused += 1
                says = f"{MOST_SUBSCRIPTIONS} resources at most" if number < KNOWN else "Unknown resource"
                assert says in answer["error"]["message"]
        scene.bystander.hears()
        scene.bystander.asks()
        growth_kib = rss_kib(scene.daemon) - before_kib
    finally:
        session.close()
    assert taken == set(scene.uris[:MOST_SUBSCRIPTIONS])
    assert growth_kib < GROWTH_KIB
    happened(
        f"of {times:,} subscriptions {len(taken)} were taken and {refused:,} refused in words; memory grew "
        f"by {max(0, growth_kib) / 1024:.0f} MiB; another client heard the next fault"
    )


@fault(
    f"one listen stream about {MANY:,} resources, and streams without end",
    promise=3,
    promised="bounded, refused in words; others are served; memory is bounded",
)
def test_one_listen_stream_is_about_a_bounded_number_of_resources(scene: Scene, happened: Happened) -> None:
    before_kib = rss_kib(scene.daemon)
    too_many = [f"xid://events/{number}" for number in range(MANY)]
    with modern(scene.daemon.port, listen(1, too_many)) as answer:
        error = answer.json()["error"]
    assert f"{MOST_SUBSCRIPTIONS} resources at most" in error["message"]
    most = scene.uris[:MOST_SUBSCRIPTIONS]
    with ExitStack() as stack:
        streams = [
            stack.enter_context(modern(scene.daemon.port, listen(number, most))).messages()
            for number in range(rounds(short=50, long=500))
        ]
        for stream in streams:
            honoured = next(stream)["params"]["notifications"]["resourceSubscriptions"]
            assert honoured == most
        scene.bystander.hears()
        scene.bystander.asks()
        growth_kib = rss_kib(scene.daemon) - before_kib
    assert growth_kib < GROWTH_KIB + len(streams) * READER_KIB
    happened(
        f"{MANY:,} were refused in words; {len(streams)} streams about {MOST_SUBSCRIPTIONS} resources each "
        f"were opened beside one that heard on; memory grew by {max(0, growth_kib) / 1024:.0f} MiB"
    )


def listen(number: int, uris: list[str]) -> dict[str, Any]:
    """A listen request about these resources."""
    params = {"notifications": {"resourceSubscriptions": uris}}
    return {"jsonrpc": "2.0", "id": number, "method": "subscriptions/listen", "params": params}


class Readers:
    """Readers of /events from one address, in one thread, which count the events they are told."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._selector = selectors.DefaultSelector()
        self.told: dict[socket.socket, int] = {}
        """Events told to each that is served."""
        self.refused = 0
        """Those that were hung up on instead."""
        self._gone: set[socket.socket] = set()

    def add(self, count: int) -> None:
        """So many more, of which each is served or refused when this returns."""
        new = {self._ask() for _ in range(count)}

        def answered() -> bool:
            self.read()
            return new <= self.told.keys() | self._gone

        wait_for(answered, "each to be served or refused")

    def read(self) -> None:
        """Take what is there."""
        for key, _ in self._selector.select(0.05):
            reader = key.fileobj
            assert isinstance(reader, socket.socket)
            try:
                data = reader.recv(1 << 16)
            except ConnectionError:
                data = b""
            if data:
                self.told[reader] = self.told.get(reader, 0) + data.count(EVENT_FRAME)
            else:
                self.refused += 1
                self._gone.add(reader)
                self.told.pop(reader, None)
                self._selector.unregister(reader)
                reader.close()

    def close(self) -> None:
        """All leave."""
        for key in [*self._selector.get_map().values()]:
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()

    def _ask(self) -> socket.socket:
        reader = socket.create_connection(("127.0.0.1", self._port), timeout=DEADLINE_S)
        with suppress(ConnectionError):  # it was hung up on first
            reader.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        reader.setblocking(False)
        self._selector.register(reader, selectors.EVENT_READ)
        return reader


@fault(
    "connections to /events without end from one address",
    promise=3,
    promised="it gets its share and is hung up on beyond it; its readers and all others hear on",
)
def test_one_address_gets_its_share_of_readers(scene: Scene, happened: Happened) -> None:
    wanted, before_kib = rounds(short=1_500, long=MANY), rss_kib(scene.daemon)
    with closing(Readers(scene.daemon.port)) as readers:
        for _ in range(wanted // 250):
            readers.add(250)
            scene.bystander.hears()
            scene.bystander.asks()
        served = len(readers.told)
        growth_kib = rss_kib(scene.daemon) - before_kib
        for reader in readers.told:
            readers.told[reader] = 0
        scene.bystander.hears()

        def all_heard() -> bool:
            readers.read()
            return all(readers.told.values())

        wait_for(all_heard, "each to hear the fault")
        assert len(readers.told) == served
    assert served + readers.refused == wanted // 250 * 250
    assert served <= for_http(OPEN_FILES, MAX_CONNECTIONS) // 2
    assert readers.refused > 0
    assert growth_kib < served * READER_KIB
    assert "too many connections" in scene.daemon.log.read_text()
    happened(
        f"of {wanted:,} connections {served:,} were served and {readers.refused:,} hung up on, as logged; "
        f"all that were served, and one of another address, heard the next fault; "
        f"{growth_kib / served:.0f} KiB each"
    )
