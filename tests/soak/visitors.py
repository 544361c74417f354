"""Clients that come, ask, and go, well or badly: every transport, every tool, both eras.

What they are told is not compared with the model (`readers.py` does that); but an answer that no client
should get is noted.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from mcp_server.identity import Scope
from mcp_server.tokens import new_secret, token_of
from tests.soak.place import Orders, Place, Told
from tests.soak.wire import (
    Conversation,
    HttpSession,
    Modern,
    RefusedError,
    RelaySession,
    SocketSession,
    SseSession,
    call,
    get,
    request,
)
from tests.support.command import xidwatch
from tests.support.fake_nvml import uuid
from tests.support.token_file import TokenFileOnDisk

KEPT_SESSIONS: Final = 24
"""Sessions of /mcp whose clients have vanished, at most: the daemon keeps them for half an hour."""
RESOURCES: Final = (
    "xid://events",
    "xid://incidents",
    "node://status",
    "gpu://inventory",
    f"gpu://{uuid(0)}/health",
    f"gpu://{uuid(1)}/events",
    "xid://catalog/79",
)
SUBSCRIBED: Final = RESOURCES[:5]
TOOLS: Final[Sequence[tuple[str, dict[str, Any]]]] = (
    ("get_xid_events", {"limit": 20}),
    ("wait_for_xid", {"timeout_s": 0.5}),
    ("explain_xid", {"code": "79"}),
    ("analyze_xid_errors", {}),
    ("get_incident_report", {}),
    ("describe_gpu_node", {}),
    ("get_daemon_status", {}),
    ("get_gpu_inventory", {}),
    ("get_gpu_health", {}),
    ("get_gpu_processes", {}),
    ("get_nvlink_topology", {}),
)
_LOOK_S: Final = 2.0
_LOOKS: Final = 5
"""So few wrong tokens in so long a time do not shut the door for this address."""


def _use(client: Conversation, chance: random.Random, told: Told, place: Place, *, asks: int) -> None:
    """Some of what a client can ask for."""
    for _ in range(asks):
        match chance.randrange(8):
            case 0:
                client.ask("resources/read", uri=chance.choice(RESOURCES))
            case 1:
                client.ask("prompts/list")
            case 2:
                client.ask("tools/list")
            case 3:
                since = place.since + chance.randrange(-100_000, 100_000)
                with suppress(RefusedError):  # a cursor ahead of the newest is refused, as it should be
                    call(client, "get_xid_events", since=max(0, since))
            case _:
                tool, arguments = chance.choice(TOOLS)
                call(client, tool, **arguments)
                told.counts[tool] += 1
        told.counts["requests"] += 1


def _visits(
    place: Place, orders: Orders, visit: Callable[[random.Random, Told], None], pause_s: float
) -> Told:
    """Visit after visit, with a pause between two."""
    told, chance = Told(), orders.chance()
    while not orders.pause(chance.uniform(0.5, 1.5) * pause_s):
        told.counts["visits"] += 1
        try:
            visit(chance, told)
        except RefusedError as error:
            told.complain(str(error))
        except Exception as error:  # whatever a client met is told at the end; the load goes on
            told.complain(f"{type(error).__name__}: {error}")
    return told


def old_sessions(place: Place, orders: Orders) -> Told:
    """Sessions of 2025 on /mcp, with subscriptions and a stream of pushes; a part of them vanishes."""
    left_behind: list[HttpSession] = []

    def visit(chance: random.Random, told: Told) -> None:
        session = HttpSession(place)
        session.listen()
        client: Conversation = session
        for uri in chance.sample(SUBSCRIBED, 2):
            client.ask("resources/subscribe", uri=uri)
        client.ask("logging/setLevel", level=chance.choice(("debug", "error")))
        _use(client, chance, told, place, asks=chance.randrange(1, 8))
        if len(left_behind) < KEPT_SESSIONS and chance.random() < 0.2:
            session.begin("tools/call", name="wait_for_xid", arguments={"timeout_s": 5}).close()
            session.vanish()
            left_behind.append(session)
            told.counts["vanished"] += 1
        else:
            session.leave()

    told = _visits(place, orders, visit, 0.7)
    for session in left_behind:
        with suppress(RefusedError):  # it was idle for long: the daemon has ended it
            session.leave()
    return told


def modern_clients(place: Place, orders: Orders) -> Told:
    """Clients of 2026-07-28, and streams of `subscriptions/listen`."""

    def visit(chance: random.Random, told: Told) -> None:
        client = Modern(place)
        wanted = {"resourceSubscriptions": list(SUBSCRIBED), "toolsListChanged": True}
        stream = client.begin("subscriptions/listen", notifications=wanted)
        try:
            next(stream.messages())
            _use(client, chance, told, place, asks=chance.randrange(1, 6))
            told.counts["listened"] += 1
        finally:
            stream.close()

    return _visits(place, orders, visit, 0.7)


def sse_sessions(place: Place, orders: Orders) -> Told:
    """The older transport."""

    def visit(chance: random.Random, told: Told) -> None:
        session = SseSession(place)
        try:
            _use(session, chance, told, place, asks=chance.randrange(1, 6))
        finally:
            session.leave()

    return _visits(place, orders, visit, 1.5)


def socket_sessions(place: Place, orders: Orders) -> Told:
    """The unix socket, both eras."""

    def visit(chance: random.Random, told: Told) -> None:
        session = SocketSession(place, modern=chance.random() < 0.5)
        try:
            _use(session, chance, told, place, asks=chance.randrange(1, 8))
        finally:
            session.leave()

    return _visits(place, orders, visit, 0.7)


def relays(place: Place, orders: Orders) -> Told:
    """`xidwatch stdio`, started and ended as hosts do; some are killed."""

    def visit(chance: random.Random, told: Told) -> None:
        relay = RelaySession(place)
        try:
            _use(relay, chance, told, place, asks=2)
        except BaseException:
            relay.vanish()
            raise
        if chance.random() < 0.3:
            relay.vanish()
        else:
            relay.leave()

    return _visits(place, orders, visit, 4.0)


def commands(place: Place, orders: Orders) -> Told:
    """What a person types, and what Prometheus and a load balancer ask."""

    def visit(chance: random.Random, told: Told) -> None:
        for path in ("/metrics", "/healthz", "/readyz", "/version", "/events.json?severity=fatal&limit=5"):
            get(place, path)
            told.counts["pages"] += 1
        if chance.random() < 0.3:
            words = chance.choice((("tail",), ("tail", "--since", "15m", "--json"), ("status",)))
            done = xidwatch(*words, "--socket", str(place.socket))
            told.counts["commands"] += 1
            if done.code != 0:
                told.complain(f"{words}: {done.code} {done.err}")

    return _visits(place, orders, visit, 1.0)


def stream_readers(place: Place, orders: Orders) -> Told:
    """Readers of /events with cursors of all ages, most of which hang up in the middle of something."""

    def visit(chance: random.Random, told: Told) -> None:
        since = chance.choice(
            ("", "?since=0", f"?since={place.since}", "?severity=critical", "?since=0&gpu=1")
        )
        stream = request(place, "GET", f"/events{since}")
        stream.wait_at_most(chance.uniform(0.2, 3))
        frames = stream.frames()
        try:
            for _ in range(chance.randrange(1, 200)):
                if next(frames, None) is None:
                    told.complain("a stream of events ended by itself")
                    break
                told.counts["frames"] += 1
        except TimeoutError:
            told.counts["readers that read all there was"] += 1
        finally:
            stream.close()

    return _visits(place, orders, visit, 0.4)


def stalled_readers(place: Place, orders: Orders) -> Told:
    """One at a time asks for everything and reads nothing, until it is cut off or leaves."""

    def visit(chance: random.Random, told: Told) -> None:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", place.port))
            connection.sendall(
                f"GET /events?since=0 HTTP/1.1\r\nHost: localhost\r\n"
                f"Authorization: Bearer {place.token}\r\n\r\n".encode()
            )
            orders.pause(chance.uniform(2, 10))

    return _visits(place, orders, visit, 1.0)


def bad_clients(place: Place, orders: Orders) -> Told:
    """No HTTP, no JSON, no method, half a request, silence; each has to be refused, or ignored."""
    lines = (
        b"GET / HTTP/1.1\r\nHost: x",
        b"\x16\x03\x01\x02\x00",
        b"POST /mcp HTTP/1.1\r\n\r\n",
        b"",
        b"\r\n" * 9,
    )

    def visit(chance: random.Random, told: Told) -> None:
        told.counts["half requests"] += 1
        with socket.create_connection(("127.0.0.1", place.port), timeout=10) as connection:
            connection.sendall(chance.choice(lines))
            orders.pause(chance.uniform(0, 0.5))
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(place.socket))
            connection.sendall(chance.choice((b"", b"no json\n", b'{"xidwatch": {"want": "tea"}}\n', b"{")))
        bodies: tuple[object, ...] = ({"jsonrpc": "2.0", "id": 1, "method": "nothing"}, [], {"id": 1}, "text")
        for body in bodies:
            try:
                request(place, "POST", "/mcp", body).close()
            except RefusedError:
                told.counts["refused"] += 1
            else:
                told.complain(f"{body} was taken")

    return _visits(place, orders, visit, 2.0)


def tokens(place: Place, orders: Orders) -> Told:
    """Tokens are added and taken away; each is good from the one to the other, and no longer."""

    def visit(chance: random.Random, told: Told) -> None:
        file = TokenFileOnDisk(place.token_file)
        kept = place.token_file.read_text()
        visitor = token_of(secret := new_secret(), "visitor", Scope.READ, None)
        file.write(f"{kept}{visitor.line()}\n")
        if not _until(orders, lambda: _status(place, secret) == 200):
            told.complain("a token that was added was refused")
        file.write(kept)
        if not _until(orders, lambda: _status(place, secret) == 401):
            told.complain("a token that was taken away was good")
        told.counts["reloads"] += 2

    return _visits(place, orders, visit, 10.0)


def _until(orders: Orders, condition: Callable[[], bool]) -> bool:
    """Whether it becomes true before long."""
    for _ in range(_LOOKS):
        orders.leave.wait(_LOOK_S)
        if condition():
            return True
    return False


def _status(place: Place, secret: str) -> int:
    """How a request that shows this token is answered."""
    try:
        request(place, "GET", "/version", headers={"Authorization": f"Bearer {secret}"}).close()
    except RefusedError as error:
        return int(str(error).split()[2])
    return 200


VISITORS: Final = (
    old_sessions,
    modern_clients,
    sse_sessions,
    socket_sessions,
    relays,
    commands,
    stream_readers,
    stalled_readers,
    bad_clients,
    tokens,
)
