"""Clients that leave without a word, on every transport: in the middle of a request, a body or a stream."""

from __future__ import annotations

import json
import random
import socket
import struct
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from tests.clients.curl import call, modern, notification, request
from tests.delivery.crowd import Kind, open_stream
from tests.delivery.readers import CLIENT, EVENTS, JSON_HEADERS
from tests.support.bystander import Bystander, open_files
from tests.support.daemon import Daemon
from tests.support.fault_lab import Happened, fault, rounds
from tests.support.kernel_log import FakeKernelLog
from tests.support.memory import rss_kib
from tests.support.metrics import metric
from tests.support.waiting import DEADLINE_S, wait_for

AT_ONCE = 25
"""Clients that are there together before some of them leave."""
GROWTH_KIB = 40 * 1024
"""What the daemon may grow by: 30 MB as in a storm (DESIGN section 7), and what 8 sessions of /mcp keep."""
RESET = struct.pack("ii", 1, 0)
"""`struct linger`: close() sends a RST and drops what was not sent."""


def http(method: str, path: str, body: object = None, headers: Sequence[str] = ()) -> bytes:
    """One request."""
    data = b"" if body is None else json.dumps(body).encode()
    given = [f"{name}: {value}" for name, value in JSON_HEADERS.items()]
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *given, *headers, f"Content-Length: {len(data)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def posted(body: object, *headers: str) -> bytes:
    """A message to /mcp."""
    return http("POST", "/mcp", body, headers)


def lines(*messages: object) -> bytes:
    """Messages for the unix socket."""
    return b"".join(json.dumps(message).encode() + b"\n" for message in messages)


WAIT: dict[str, Any] = {"name": "wait_for_xid", "arguments": {"timeout_s": 600}}
OVER_TCP = {
    "/events": http("GET", "/events?since=0"),
    "/events.json": http("GET", "/events.json?since=0&limit=1000"),
    "/sse": http("GET", "/sse"),
    "/metrics": http("GET", "/metrics"),
    "a new session": posted(request("initialize", **CLIENT)),
    "wait_for_xid": posted(*modern("tools/call", **WAIT)),
    "listen": posted(*modern("subscriptions/listen", notifications={"resourceSubscriptions": [EVENTS]})),
    "a long body": posted({"x": "y" * 200_000}),
}
ON_THE_SOCKET = {
    "tail": lines({"xidwatch": {"want": "events", "since": 0, "follow": True}}),
    "status": lines({"xidwatch": {"want": "status"}}),
    "mcp": lines(
        request("initialize", **CLIENT),
        notification("notifications/initialized"),
        call("get_xid_events", since=0, limit=1000),
        request("tools/call", **WAIT),
    ),
}


def approach(daemon: Daemon, name: str, rng: random.Random) -> socket.socket:
    """A client that has said what it wants, or only the beginning of it."""
    connection: socket.socket
    if name in OVER_TCP:
        words = OVER_TCP[name]
        connection = socket.create_connection(("127.0.0.1", daemon.port), timeout=DEADLINE_S)
    else:
        words = ON_THE_SOCKET[name]
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(DEADLINE_S)
        connection.connect(str(daemon.socket))
    with suppress(ConnectionError):  # refused before all was said
        connection.sendall(words[: rng.choice([len(words), rng.randrange(len(words))])])
    return connection


def vanish(connection: socket.socket, rng: random.Random) -> None:
    """Leave: with a FIN or a RST, with answers unread or after having read a little of them."""
    connection.setblocking(False)
    with suppress(OSError):
        connection.recv(rng.choice([1, 100, 1 << 16]))
    if rng.random() < 0.5 and connection.family == socket.AF_INET:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    connection.close()


def open_clients(daemon: Daemon) -> list[float]:
    """How many clients there are on each transport, this question apart."""
    names = ("events", "mcp", "sse", "socket")
    return [metric(daemon, f'xidwatch_clients{{transport="{name}"}}') for name in names]


@fault(
    "clients vanish in the middle of a request, a body or a stream",
    promise=3,
    promised="others are not held up; clients and descriptors return to what they were",
)
def test_clients_that_vanish_at_any_moment_leave_nothing_behind(
    tmp_path: Path, kernel_log: FakeKernelLog, happened: Happened
) -> None:
    seed, times = random.randrange(2**32), rounds(short=500, long=50_000)
    rng, vanished, present = random.Random(seed), Counter[str](), []
    daemon = Daemon(tmp_path, kmsg=kernel_log.path)
    with ExitStack() as stack:
        stack.callback(daemon.stop)
        daemon.start()
        bystander = stack.enter_context(Bystander(daemon, kernel_log))
        for _ in range(20):
            bystander.hears()
        for kind in (Kind.SESSION, Kind.SSE):  # what a first use takes for good is taken now
            open_stream(kind, daemon).connection.close()
        there, files, kib = wait_for(lambda: alone(daemon), "the first clients to be gone")
        for number in range(times):
            name = rng.choice([*OVER_TCP, *ON_THE_SOCKET])
            present.append(approach(daemon, name, rng))
            vanished[name] += 1
            if len(present) == AT_ONCE:
                rng.shuffle(present)
                while len(present) > AT_ONCE // 2:
                    vanish(present.pop(), rng)
            if number % 50 == 0:
                bystander.hears()
                bystander.asks()
        for connection in present:
            vanish(connection, rng)
        wait_for(
            lambda: open_clients(daemon) == there and open_files(daemon) <= files,
            f"all to be gone (seed {seed})",
            pause_s=0.1,
        )
        growth_kib = rss_kib(daemon) - kib
        bystander.hears()
        bystander.check_that_all_is_kept()
    assert growth_kib < GROWTH_KIB, seed
    assert "Traceback" not in daemon.log.read_text(), seed
    happened(
        f"{times:,} clients of {len(vanished)} sorts vanished, by FIN or RST; {files} files and "
        f"{sum(there):.0f} client were left, as before; memory grew by {max(0, growth_kib) / 1024:.0f} MiB"
    )


def alone(daemon: Daemon) -> tuple[list[float], int, int] | None:
    """Clients, open files and memory, once only the bystander is there; None before."""
    there = open_clients(daemon)
    return (there, open_files(daemon), rss_kib(daemon)) if sum(there) == 1 else None
