"""`get_xid_events` answered from memory, over HTTP in both protocol eras, the unix socket, and stdio.

One client on one kept-alive connection, plain sockets. Over HTTP and stdio it is measured against the MCP
SDK's smallest server, whose one tool returns a word; over the unix socket against an asyncio
server that parses a line of JSON and answers with it. The answer holds ten events. On stdio the relay is
asked, `xidwatch stdio`, which asks the daemon.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks import peers
from benchmarks.clients import HttpCaller, LineCaller, StdioCaller
from benchmarks.figure import Figure, Plan, median, spread
from benchmarks.outcome import Part
from benchmarks.samples import Samples
from tests.support.daemon import Daemon
from tests.support.kernel_log import FakeKernelLog
from tests.support.waiting import wait_for

EVENTS = 100
QUIET_S = 2.5
"""Longer than the second within which the last revision of an event goes out: a push among the calls would be
taken for an answer."""
LEGACY, MODERN = "2025-11-25", "2026-07-28"
_CLIENT = {"name": "bench", "version": "1"}
_META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientInfo": _CLIENT,
    "io.modelcontextprotocol/clientCapabilities": {},
}
HELLO = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": _CLIENT},
}
"""The first message of a session."""
_INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}


def measure(plan: Plan) -> Sequence[Part]:
    """Median time of a call on each way in."""
    calls = plan.samples(500, 50, 1_000)
    with FakeKernelLog(plan.directory / "kmsg") as log:
        daemon = Daemon(plan.directory, kmsg=log.path).start()
        try:
            _make_events(daemon, log)
            with peers.peer("smallest_mcp") as smallest:
                port = int(peers.first_line(smallest))
                http = [_over_http(daemon.port, port, calls, modern=modern) for modern in (True, False)]
            parts = (*http, _over_socket(daemon, plan, calls), _over_stdio(daemon, calls))
            return [part for parts_of_one in parts for part in parts_of_one] + [_full_page(daemon, calls)]
        finally:
            daemon.stop()


def _make_events(daemon: Daemon, log: FakeKernelLog) -> None:
    """As many events as a page holds by default, of ten GPUs; until nothing more is told of them."""
    for bus in range(1, 11):
        log.write(f"NVRM: GPU at PCI:0000:{bus:02x}:00: GPU-{bus:08x}-0000-0000-0000-000000000000")
        for pid in range(10):
            log.write(f"NVRM: Xid (PCI:0000:{bus:02x}:00): 43, pid={5000 + pid}, name=python3, Ch 00000008")
    query = "since=0&limit=1000&kind=xid"
    wait_for(lambda: len(daemon.events(query)) == EVENTS, f"{EVENTS} events")
    newest, since = 0, time.monotonic()

    def is_quiet() -> bool:
        nonlocal newest, since
        now = json.loads(daemon.get("/events.json?limit=1")[1])["newest_cursor"]
        if now != newest:
            newest, since = now, time.monotonic()
        return time.monotonic() - since >= QUIET_S

    wait_for(is_quiet, "their last revisions", pause_s=0.2)


def _over_http(port: int, baseline_port: int, calls: int, *, modern: bool) -> Sequence[Part]:
    ours, theirs = HttpCaller(port), HttpCaller(baseline_port)
    ask = _modern if modern else _legacy
    question = {"name": "get_xid_events", "arguments": {"limit": 10}}
    mine, base = ask(ours, question), ask(theirs, {"name": "hello", "arguments": {}})
    assert b"next_cursor" in ours.exchange(mine)
    assert b"hello" in theirs.exchange(base)
    times, base_times = _alternate(lambda: ours.exchange(mine), lambda: theirs.exchange(base), calls)
    ours.close()
    theirs.close()
    era = "modern" if modern else "legacy session"
    return [
        Figure(
            f"tool call, HTTP {era}: median",
            median(times),
            "ms",
            must=6,
            reach=1.5,
            beside=_against(times, base_times, "the SDK's smallest server"),
        ),
        _chart("HTTP", {f"xidwatch, {era}": times}, {f"SDK's smallest server, {era}": base_times}),
    ]


def _modern(caller: HttpCaller, params: dict[str, Any]) -> bytes:
    headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": params["name"]}
    return caller.request(_call({**params, "_meta": _META}), headers)


def _legacy(caller: HttpCaller, params: dict[str, Any]) -> bytes:
    answer = caller.exchange(caller.request(HELLO, {}))
    fields = dict(
        line.lower().split(b": ", 1) for line in answer.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    )
    session = {"Mcp-Session-Id": fields[b"mcp-session-id"].decode(), "MCP-Protocol-Version": LEGACY}
    caller.exchange(caller.request(_INITIALIZED, session))
    return caller.request(_call(params), session)


def _over_socket(daemon: Daemon, plan: Plan, calls: int) -> Sequence[Part]:
    ours = _session(daemon)
    question = _question(10)
    answer = ours.exchange(question)
    assert b"next_cursor" in answer
    path = plan.directory / "echo"
    with peers.peer("json_echo", str(path)) as echo:
        peers.first_line(echo)
        theirs = LineCaller(path)
        times, base_times = _alternate(
            lambda: ours.exchange(question), lambda: theirs.exchange(answer.rstrip()), calls
        )
        theirs.close()
    ours.close()
    return [
        Figure(
            "tool call, unix socket: median",
            median(times),
            "ms",
            must=2,
            reach=0.5,
            beside=_against(times, base_times, "an asyncio server that echoes the answer as JSON"),
        ),
        _chart("a unix socket", {"xidwatch": times}, {"asyncio server that echoes JSON": base_times}),
    ]


def _over_stdio(daemon: Daemon, calls: int) -> Sequence[Part]:
    ours = StdioCaller((sys.executable, "-m", "xidwatch", "stdio", "--socket", str(daemon.socket)))
    theirs = StdioCaller(peers.command("smallest_mcp_stdio"))
    for caller in (ours, theirs):
        initialize(caller)
    question, hello = _question(10), json.dumps(_call({"name": "hello", "arguments": {}})).encode()
    assert b"next_cursor" in ours.exchange(question)
    assert b"hello" in theirs.exchange(hello)
    times, base_times = _alternate(lambda: ours.exchange(question), lambda: theirs.exchange(hello), calls)
    ours.close()
    theirs.close()
    return [
        Figure(
            "tool call, stdio relay: median",
            median(times),
            "ms",
            beside=_against(times, base_times, "the SDK's smallest server on stdio"),
        ),
        _chart("stdio", {"xidwatch stdio": times}, {"SDK's smallest server": base_times}),
    ]


def _against(times: Sequence[float], base: Sequence[float], what: str) -> str:
    return f"{spread(times)}; {median(times) / median(base):.2f} x {what} ({spread(base)})"


def _chart(over: str, ours: Mapping[str, Sequence[float]], base: Mapping[str, Sequence[float]]) -> Samples:
    name = f"calls-{over.rpartition(' ')[2].lower()}"
    return Samples(name, f"A tool call over {over}", "time until answered, ms", ours, base)


def _full_page(daemon: Daemon, calls: int) -> Figure:
    ours = _session(daemon)
    question = _question(EVENTS)
    size = len(ours.exchange(question))
    times = [_timed(lambda: ours.exchange(question)) for _ in range(calls // 5)]
    ours.close()
    return Figure(
        f"tool call, unix socket, {EVENTS} events: median",
        median(times),
        "ms",
        beside=f"{spread(times)}; an answer of {size / 1000:.0f} kB",
    )


def initialize(caller: LineCaller | StdioCaller) -> None:
    """Open a session. Raises AssertionError when the answer is an error."""
    assert b'"result"' in caller.exchange(json.dumps(HELLO).encode())
    caller.send(json.dumps(_INITIALIZED).encode())


def _session(daemon: Daemon) -> LineCaller:
    caller = LineCaller(daemon.socket)
    initialize(caller)
    return caller


def _question(limit: int) -> bytes:
    return json.dumps(_call({"name": "get_xid_events", "arguments": {"limit": limit}})).encode()


def _call(params: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


def _alternate(
    ours: Callable[[], object], theirs: Callable[[], object], calls: int
) -> tuple[list[float], list[float]]:
    """Times in ms of both, one after the other, so that what disturbs the machine hits both."""
    for _ in range(10):
        ours()
        theirs()
    pairs = [(_timed(ours), _timed(theirs)) for _ in range(calls)]
    return [mine for mine, _ in pairs], [base for _, base in pairs]


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000
