"""Bytes that are no HTTP, or only nearly: a list of known attacks, and more of the kind made by hypothesis.

Each is answered with a status below 500, or hung up on; nobody else notices, and nothing is left behind.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.bystander import Bystander, open_files
from tests.support.daemon import Daemon
from tests.support.fault_lab import Happened, fault, rounds
from tests.support.kernel_log import FakeKernelLog
from tests.support.memory import rss_kib
from tests.support.waiting import DEADLINE_S, wait_for

OUR_HOST = b"Host: localhost\r\n"
JSON = b"Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
GROWTH_KIB = 30 * 1024
"""What the daemon may grow by: as much as in a storm (DESIGN section 7)."""
PROBE = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
"""Sent behind an attack: the answer to it ends the connection."""
QUIET_S = 0.15
"""A client that was told nothing for so long leaves. What it did not see, the daemon's log would tell."""


def request(line: bytes, *headers: bytes, host: bytes = OUR_HOST, body: bytes = b"") -> bytes:
    """A request of these raw parts."""
    return line + b" HTTP/1.1\r\n" + host + b"".join(header + b"\r\n" for header in headers) + b"\r\n" + body


KNOWN = {
    "no-version": b"GET /events\r\n\r\n",
    "http-0.9": b"GET /\r\n",
    "http-9": b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
    "http-2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\x06\x04\0\0\0\0\0" + b"\0" * 6,
    "h2c": request(
        b"GET /nope", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMA"
    ),
    "websocket": request(
        b"GET /nope", b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13"
    ),
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 508,
    "ssh": b"SSH-2.0-OpenSSH_9.9\r\n",
    "smtp": b"EHLO example.org\r\nMAIL FROM:<>\r\n",
    "redis": b"*1\r\n$4\r\nPING\r\n",
    "nul": b"\0" * 4096,
    "long-line": b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
    "header-bomb": b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"a: b\r\n" * 50_000 + b"\r\n",
    "long-header": request(b"GET /", b"X: " + b"y" * 200_000),
    "folded": request(b"GET /nope", b"X: a\r\n b"),
    "no-colon": request(b"GET /", b"nonsense"),
    "space-before-colon": request(b"GET /", b"Content-Length : 4", body=b"abcd"),
    "nul-in-header": request(b"GET /", b"X: a\0b"),
    "bare-cr": request(b"GET /", b"X: a\rb"),
    "no-host": request(b"GET /version", host=b""),
    "two-hosts": request(b"GET /version", b"Host: example.org"),
    "foreign-host": request(b"GET /version", host=b"Host: example.org\r\n"),
    "host-userinfo": request(b"GET /version", host=b"Host: localhost@example.org\r\n"),
    "host-port": request(b"GET /version", host=b"Host: localhost:99999\r\n"),
    "host-bracket": request(b"GET /version", host=b"Host: [::1\r\n"),
    "host-unicode": request(b"GET /version", host="Host: localhost\u2100\r\n".encode()),
    "origin-null": request(b"GET /version", b"Origin: null"),
    "origin-foreign": request(b"GET /version", b"Origin: https://example.org"),
    "origin-bracket": request(b"GET /version", b"Origin: http://["),
    "absolute": request(b"GET http://example.org/version"),
    "absolute-bracket": request(b"GET http://[/version"),
    "authority": request(b"CONNECT example.org:443"),
    "asterisk": request(b"OPTIONS *"),
    "bracket": request(b"GET ["),
    "two-slashes": request(b"GET //[/"),
    "dots": request(b"GET /../../etc/passwd"),
    "escapes": request(b"GET /%00%ff%zz%2e%2e"),
    "redirect-crlf": request(b"GET /version%0d%0aSet-Cookie:a/"),
    "two-lengths": request(b"POST /mcp", b"Content-Length: 4", b"Content-Length: 5", body=b"abcde"),
    "negative-length": request(b"POST /mcp", b"Content-Length: -1"),
    "signed-length": request(b"POST /mcp", b"Content-Length: +4", body=b"abcd"),
    "huge-length": request(b"POST /mcp", b"Content-Length: " + b"9" * 40),
    "list-of-lengths": request(b"POST /mcp", b"Content-Length: 4, 5", body=b"abcd"),
    "te-then-cl": request(
        b"POST /mcp",
        b"Transfer-Encoding: chunked",
        b"Content-Length: 4",
        JSON[:-2],
        body=b"0\r\n\r\n" + PROBE,
    ),
    "cl-then-te": request(
        b"POST /nope", b"Content-Length: 6", b"Transfer-Encoding: chunked", body=b"0\r\n\r\nG"
    ),
    "unknown-te": request(b"POST /mcp", b"Transfer-Encoding: gzip, chunked"),
    "te-twice": request(b"POST /mcp", b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"),
    "te-hidden": request(b"POST /mcp", b"Transfer-Encoding: \x0bchunked"),
    "chunk-of-words": request(b"POST /mcp", b"Transfer-Encoding: chunked", body=b"zz\r\n\r\n"),
    "chunk-huge": request(b"POST /mcp", b"Transfer-Encoding: chunked", body=b"f" * 40 + b"\r\nab"),
    "chunk-negative": request(b"POST /mcp", b"Transfer-Encoding: chunked", body=b"-1\r\n"),
    "chunk-longer": request(b"POST /mcp", b"Transfer-Encoding: chunked", body=b"3\r\nabcdef\r\n0\r\n\r\n"),
    "chunk-extension": request(
        b"POST /mcp", b"Transfer-Encoding: chunked", body=b"1;" + b"x" * 100_000 + b"\r\na\r\n0\r\n\r\n"
    ),
    "trailers": request(
        b"POST /nope", b"Transfer-Encoding: chunked", body=b"0\r\n" + b"a: b\r\n" * 50_000 + b"\r\n"
    ),
    "body-of-megabytes": request(b"POST /mcp", b"Content-Length: 20000000", body=b"x" * 2_000_000),
    "unasked-body": request(b"GET /nope", b"Content-Length: 5", body=b"abcde"),
    "session-of-bytes": request(b"GET /mcp", b"Mcp-Session-Id: \xff\xfe", b"Accept: text/event-stream"),
    "version-of-bytes": request(
        b"POST /mcp",
        b"MCP-Protocol-Version: \xff",
        b"Mcp-Method: \xfe",
        JSON[:-2],
        b"Content-Length: 2",
        body=b"{}",
    ),
    "cursor-of-bytes": request(b"GET /events", b"Last-Event-ID: \xb2"),
    "query-of-bytes": request(b"GET /events.json?%00=%d8&since=%ff"),
    "query-of-thousands": request(b"GET /events.json?" + b"&".join([b"code=1"] * 8000)),
    "messages-of-nobody": request(b"POST /messages/?session_id=%00%ff", b"Content-Length: 0"),
    "methods": request(b"BREW /mcp") + request(b"PATCH /events") + request(b"TRACE /sse"),
}
"""Attacks by name, none of which anybody may be served for."""


@dataclass(frozen=True, slots=True)
class Victim:
    """A daemon under attack, and somebody who should not notice."""

    daemon: Daemon
    bystander: Bystander


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    """One daemon for all the attacks of this file."""
    directory: Path = tmp_path_factory.mktemp("http")
    with FakeKernelLog(directory / "kmsg") as log:
        daemon = Daemon(directory, kmsg=log.path)
        try:
            daemon.start()
            with Bystander(daemon, log) as bystander:
                yield Victim(daemon, bystander)
                bystander.hears()
                bystander.asks()
                bystander.check_that_all_is_kept()
        finally:
            assert daemon.stop() == 0
        assert "Traceback" not in daemon.log.read_text()


def answers_to(daemon: Daemon, *pieces: bytes) -> list[int]:
    """The statuses with which these bytes are answered before the connection ends; [] for a bare hang-up.

    A request that ends the connection is sent behind them. Where it is taken for a part of what came before,
    and the daemon waits for more, the client leaves.
    """
    received = b""
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=DEADLINE_S) as connection:
        with suppress(ConnectionError):  # hung up on, maybe while it was still sending
            for piece in pieces:
                connection.sendall(piece)
            connection.sendall(PROBE)
        connection.settimeout(QUIET_S)
        with suppress(ConnectionError, TimeoutError):
            while data := connection.recv(1 << 16):
                received += data
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


@fault(
    f"{len(KNOWN)} known attacks with bytes that are no HTTP, or only nearly",
    promise=4,
    promised="each is answered 4xx or hung up on, never 500; nobody else is held up",
)
def test_known_attacks_are_refused_and_nobody_else_notices(victim: Victim, happened: Happened) -> None:
    daemon, bystander = victim.daemon, victim.bystander
    bystander.hears()
    before, hung_up_on = open_files(daemon), 0
    for name, attack in KNOWN.items():
        first = answers_to(daemon, attack)[:1]
        assert all(300 <= status < 500 for status in first), (name, first)
        hung_up_on += not first
    bystander.hears()
    bystander.asks()
    wait_for(lambda: open_files(daemon) <= before, "the connections to be closed")
    happened(f"{len(KNOWN) - hung_up_on} were answered 3xx or 4xx, {hung_up_on} hung up on; none got a 5xx")


def test_what_a_proxy_may_read_as_two_requests_is_never_served_as_two(victim: Victim) -> None:
    smuggled = PROBE
    both = (b"Content-Length: 0", b"Transfer-Encoding: chunked")
    for headers in (both, both[::-1]):
        attack = request(b"GET /version", *headers, body=b"0\r\n\r\n" + smuggled)
        assert answers_to(victim.daemon, attack) == [400]


def test_asked_for_the_head_of_a_stream_it_gives_that_and_takes_the_next_request(victim: Victim) -> None:
    assert answers_to(victim.daemon, request(b"HEAD /events")) == [200, 200]
    assert answers_to(victim.daemon, request(b"HEAD /events?since=x")) == [400, 200]


CHUNKED = b"Transfer-Encoding: chunked"


@pytest.mark.parametrize("path", [b"/nope", b"/events", b"/events.json", b"/sse", b"/mcp"])
def test_a_body_that_turns_out_to_be_no_http_ends_its_connection_quietly(victim: Victim, path: bytes) -> None:
    rubbish = b"rubbish\r\n" * 4
    for method in (b"GET ", b"POST ", b"HEAD "):
        assert answers_to(victim.daemon, request(method + path, CHUNKED, body=rubbish)) == [400]
    # The stream of events has begun when the rubbish comes: it ends, and 400 is said nowhere in it.
    with socket.create_connection(("127.0.0.1", victim.daemon.port), timeout=DEADLINE_S) as connection:
        connection.sendall(request(b"GET /events", CHUNKED))
        with connection.makefile("rb") as stream, suppress(ConnectionError):
            while b"event: hello" not in stream.readline():
                pass
            connection.sendall(rubbish)
            assert b"HTTP/1.1 400" not in stream.read()


TOKENS = st.sampled_from(
    [
        *(
            b"GET",
            b"POST",
            b"HEAD",
            b"DELETE",
            b"OPTIONS",
            b"PRI",
            b" ",
            b"  ",
            b"\t",
            b"/",
            b"*",
            b"\r\n",
            b"\n",
        ),
        *(
            b"/mcp",
            b"/events",
            b"/events.json?",
            b"/sse",
            b"/messages/?session_id=",
            b"/healthz",
            b"/metrics",
        ),
        *(
            b" HTTP/1.1\r\n",
            b" HTTP/1.0\r\n",
            b" HTTP/2\r\n",
            OUR_HOST,
            b"Host: [\r\n",
            b"Host:\r\n",
            b"\r\n\r\n",
        ),
        *(
            b"Content-Length: ",
            b"Transfer-Encoding: chunked\r\n",
            b"Connection: close\r\n",
            b"Expect: 100-continue\r\n",
        ),
        *(
            b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
            b"Origin: http://[\r\n",
            b"Last-Event-ID: ",
            JSON,
        ),
        *(
            b"Mcp-Session-Id: x\r\n",
            b"MCP-Protocol-Version: 2026-07-28\r\n",
            b"Mcp-Method: ping\r\n",
            b"Accept: */*\r\n",
        ),
        *(
            b"0",
            b"5",
            b"-1",
            b"ffff\r\n",
            b"0\r\n\r\n",
            PING,
            b"{}",
            b"[]",
            b"\0",
            b"\xff",
            b": ",
            b";",
            b",",
            b"%00",
        ),
    ]
)
"""What HTTP is made of, and some of what it is not."""
PIECES = st.lists(st.one_of(TOKENS, st.binary(max_size=20)), max_size=30)
WELL_BEGUN = st.builds(
    lambda method, path, headers, rest: request(method + b" " + path, *headers) + rest,
    st.sampled_from([b"GET", b"POST", b"DELETE", b"PUT", b"HEAD"]),
    st.one_of(
        st.sampled_from(
            [b"/mcp", b"/events.json", b"/messages/", b"/version", b"/events.json?limit=", b"/nope"]
        ),
        st.binary(max_size=20).map(lambda raw: b"/" + re.sub(rb"[\x00-\x20\x7f]", b"%", raw)),
    ),
    st.lists(
        st.one_of(
            st.sampled_from(
                [b"Transfer-Encoding: chunked", b"Content-Length: 3", b"Expect: 100-continue", JSON[:-2]]
            ),
            st.builds(
                lambda name, value: name + b": " + value,
                st.sampled_from(
                    [b"Content-Length", b"Host", b"Origin", b"Last-Event-ID", b"Accept", b"Mcp-Session-Id"]
                ),
                st.binary(max_size=12).map(lambda raw: re.sub(rb"[\r\n\0]", b"", raw)),
            ),
        ),
        max_size=5,
    ),
    st.one_of(st.just(b""), st.binary(max_size=40), st.just(PING), st.just(b"3\r\nabc\r\n0\r\n\r\n")),
)


@fault(
    "random bytes in the shape of HTTP, whole and in pieces",
    promise=4,
    promised="never a 500 or a traceback; nobody else is held up; memory and descriptors as before",
)
def test_random_bytes_in_the_shape_of_http_break_nothing(victim: Victim, happened: Happened) -> None:
    daemon, bystander = victim.daemon, victim.bystander
    times = rounds(short=300, long=20_000)
    bystander.hears()
    before, before_kib = open_files(daemon), rss_kib(daemon)
    seen: dict[str, int] = {}

    @settings(max_examples=times, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.one_of(PIECES, WELL_BEGUN.map(lambda whole: [whole]), st.lists(WELL_BEGUN, max_size=4)))
    def attack(pieces: list[bytes]) -> None:
        statuses = answers_to(daemon, *pieces)
        assert all(status < 500 for status in statuses), statuses
        kind = f"{statuses[0] // 100}xx" if statuses else "hung up on"
        seen[kind] = seen.get(kind, 0) + 1
        if sum(seen.values()) % 100 == 0:
            bystander.hears()

    attack()
    bystander.asks()
    wait_for(lambda: open_files(daemon) <= before, "the connections to be closed")
    growth_kib = rss_kib(daemon) - before_kib
    assert growth_kib < GROWTH_KIB
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(seen.items()))
    happened(
        f"{sum(seen.values()):,} attacks: {kinds}; the daemon grew by {max(0, growth_kib) / 1024:.0f} MiB"
    )
