"""What it costs to tell many: one event to all subscribers, and a tool call beside many sessions.

A crowd of clients in one process is connected to one real daemon and grows from size to size: subscribers of
`/events`, then MCP sessions of the 2025 era, to whose stream each event comes as a notification. The same
crowd measures a plain sse-starlette server that sends the same JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import peers, process
from benchmarks.figure import Plan, Unavailable
from benchmarks.scaling_clock import sampled_ms
from benchmarks.scaling_crowd import Crowd, subscribed
from benchmarks.scaling_filling import GPUS, announce
from benchmarks.scaling_sessions import Session, listening
from benchmarks.series import Lines, Order, Series
from tests.support.daemon import Daemon
from tests.support.kernel_log import FakeKernelLog
from tests.support.waiting import wait_for

SUBSCRIBERS = (1, 10, 100, 1_000, 2_000, 5_000)
SESSIONS = (1, 10, 100, 200, 400, 800)
"""The daemon has room for 1,024 sessions over HTTP."""
QUICK_SIZES = (2, 8)
ROUNDS = 10
FLAGS = ("--ebpf", "off", "--gpu", "off", "--rate-limit", "off")
CODE = 43

OURS, PLAIN, SESSION = "/events", "plain sse-starlette", "MCP sessions over HTTP"
CALL = "get_xid_events over the unix socket"


@dataclass(frozen=True, slots=True)
class _Told:
    """What is collected of one kind of client."""

    latency: Lines
    memory: Lines
    busy: Lines
    missing: MutableMapping[str, str]

    @contextmanager
    def noting(self, name: str) -> Iterator[None]:
        """What this machine does not allow is left out, and said."""
        try:
            yield
        except Unavailable as reason:
            self.missing[name] = str(reason)

    def events(self, name: str, crowd: Crowd, pid: int, rounds: int, cause: Callable[[], bytes]) -> None:
        """Cause some events, and note what they cost the server `pid` and when each client had them."""
        size = crowd.size
        crowd.latencies_ms(cause)
        before = process.cpu_s(pid)
        latencies = [latency for _ in range(rounds) for latency in crowd.latencies_ms(cause)]
        used_ms = (process.cpu_s(pid) - before) * 1000 / rounds
        self.latency.add(name, size, latencies)
        self.busy.add(name, size, used_ms)
        self.memory.add(name, size, process.rss_mb(pid))


def measure(plan: Plan) -> Sequence[Series]:
    """The series over the number of subscribers and sessions."""
    orders = {OURS: Order.LINEAR, PLAIN: None, SESSION: Order.LINEAR}
    told = _Told(Lines(orders), Lines(orders), Lines(orders), {})
    calls = Lines({CALL: Order.CONSTANT})
    rounds = plan.samples(ROUNDS, 2)
    with FakeKernelLog(plan.directory / "kmsg") as log:
        daemon = Daemon(plan.directory, kmsg=log.path, flags=FLAGS).start()
        try:
            announce(log)
            fault = _Fault(log)
            sample = _sample(daemon, fault())
            with told.noting(OURS), closing(Crowd(daemon.port, subscribed)) as crowd:
                for size in QUICK_SIZES if plan.quick else SUBSCRIBERS:
                    crowd.grow_to(size)
                    told.events(OURS, crowd, daemon.pid, rounds, fault)
            daemon.stop()
            daemon.start()  # what thousands have left behind in its allocator is not the sessions'
            with told.noting(SESSION), closing(Crowd(daemon.port, listening)) as crowd:
                for size in QUICK_SIZES if plan.quick else SESSIONS:
                    crowd.grow_to(size)
                    told.events(SESSION, crowd, daemon.pid, rounds, fault)
                    calls.add(CALL, size, _calls(daemon.socket, plan.samples(200, 5)))
        finally:
            daemon.stop()
    with told.noting(PLAIN):
        _baseline(plan, sample, told, rounds)
    return _series(told, calls, judged=not plan.quick)


class _Fault:
    """A new fault with each call: an Xid of a process that had none, on one GPU after the other."""

    def __init__(self, log: FakeKernelLog) -> None:
        self._log = log
        self._number = 0

    def __call__(self) -> bytes:
        """Write its line; the word that only its event holds."""
        self._number += 1
        name, gpu = f"bench{self._number:06d}", GPUS[self._number % len(GPUS)]
        pid = 100_000 + self._number
        self._log.write(f"NVRM: Xid (PCI:{gpu}): {CODE}, pid={pid}, name={name}, Ch 00000008")
        return name.encode()


def _sample(daemon: Daemon, marker: bytes) -> tuple[bytes, bytes]:
    """The JSON of one event, and the word in it that changes from event to event."""

    def text() -> bytes:
        body = daemon.get("/events.json?limit=1&kind=xid")[1]
        return body[body.index(b"[") + 1 : body.rindex(b'], "next_cursor"')]

    wait_for(lambda: marker in text(), "the first event")
    return text(), marker


def _calls(path: Path, samples: int) -> list[float]:
    with closing(Session(path)) as session:
        return sampled_ms(lambda: session.call("get_xid_events", {"limit": 10}), samples)


def _baseline(plan: Plan, sample: tuple[bytes, bytes], told: _Told, rounds: int) -> None:
    text, marker = sample
    with peers.peer("sse_broadcast") as server:
        port = int(peers.first_line(server))
        assert server.stdin is not None
        stdin = server.stdin
        number = 0

        def send() -> bytes:
            nonlocal number
            number += 1
            word = b"plain%06d" % number
            stdin.write(text.replace(marker, word) + b"\n")
            stdin.flush()
            return word

        with closing(Crowd(port, subscribed)) as crowd:
            for size in QUICK_SIZES if plan.quick else SUBSCRIBERS:
                crowd.grow_to(size)
                told.events(PLAIN, crowd, server.pid, rounds, send)


def _series(told: _Told, calls: Lines, *, judged: bool) -> Sequence[Series]:
    return [
        Series(
            name,
            title,
            x,
            y,
            lines.points,
            lines.growth(judged=judged),
            why,
            missing=told.missing if name.startswith("readers") else {},
        )
        for name, title, x, y, lines, why in (
            (
                "readers-latency",
                "One event to all clients",
                "clients",
                "time until each has it, ms",
                told.latency,
                "One process writes to one client after the other, so the median client waits for half of "
                "them, and the last one for all.",
            ),
            (
                "readers-cpu",
                "Processor time of the server for one event",
                "clients",
                "processor time, ms",
                told.busy,
                "The JSON of an event is made once; each client costs a wake-up of its task and a write to "
                "its socket.",
            ),
            (
                "readers-memory",
                "Resident memory of the server",
                "clients",
                "resident memory, MB",
                told.memory,
                "A client is a cursor, a task and a connection, without a queue of its own.",
            ),
            (
                "sessions-call",
                "A tool call beside other sessions",
                "open MCP sessions over HTTP",
                "time, ms",
                calls,
                "A session is found by its id, and one that is quiet has nothing to be looked at.",
            ),
        )
    ]
