"""What one more event costs beside much that is open: incidents, members of one incident, faults, devices.

A real daemon reads lines of kernel origin from a FIFO. For each size it is brought into a state (so many open
incidents, and so on), and then hears some new faults one by one: how long each takes to a client of
`/events`, and how much processor time the daemon needs for it, in which its coalescing, correlation, the
journal and the push are contained. Kernel time is set so that no fault is one too many of its device.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.clients import Subscriber, status
from benchmarks.figure import Plan
from benchmarks.process import cpu_s
from benchmarks.scaling_filling import announce, xid_line
from benchmarks.series import Lines, Order, Series
from tests.support.daemon import Daemon
from tests.support.kernel_log import FakeKernelLog
from tests.support.waiting import wait_for

INCIDENTS = (1, 4, 16, 64)
"""The daemon follows 64 at once."""
MEMBERS = (1, 10, 30, 100, 300)
FAULTS = (10, 100, 1_000, 5_000)
DEVICES = (1, 4, 16, 64)
STORM_LINES = 20_000
SAMPLES = 60
FLAGS = ("--ebpf", "off", "--gpu", "off", "--quiet-gap", "5s")
GPUS = tuple(f"0000:{number:02x}:00" for number in range(1, 129))
LOST, MILD, OPENING = 79, 43, 13
APART_US = 600_000
"""Kernel time between two faults of a device, of which it may have twenty in ten seconds."""
SETTLED_S = 0.3
"""Without a new line: what is said late of the faults before has been said."""

TIME, CPU = "line to a client on /events", "processor time of the daemon"


@dataclass(frozen=True, slots=True)
class _Node:
    """A running daemon and the log it reads."""

    daemon: Daemon
    log: FakeKernelLog

    def fault(self, gpu: str, code: int, pid: int, apart_us: int = APART_US) -> None:
        """One Xid."""
        self.log.write(xid_line(gpu, code, pid), time_us=self.log.time_us + apart_us)

    def heard(self, lines: int) -> None:
        """Wait until so many faults were counted, and nothing is left to be said of them."""
        wait_for(lambda: status(self.daemon.socket)["counters"]["faults"] >= lines, f"{lines:,} faults")
        newest = -1
        while newest != (now := status(self.daemon.socket)["newest_cursor"]):
            newest = now
            time.sleep(SETTLED_S)


def measure(plan: Plan) -> Sequence[Series]:
    """The series over what is open."""
    return [*(_grown(plan, state) for state in _STATES), _storm(plan)]


def _open_incidents(node: _Node, size: int) -> int:
    """So many GPUs that fell off the bus, far apart in time, so that each is an incident of its own."""
    for gpu in GPUS[:size]:
        node.fault(gpu, LOST, 5_000, 120_000_000)
    return size


def _members(node: _Node, size: int) -> int:
    """One lost GPU, and what was reported of it later."""
    node.fault(GPUS[0], LOST, 5_000)
    for number in range(1, size):
        node.fault(GPUS[0], MILD, 5_000 + number)
    return size


def _open_faults(node: _Node, size: int) -> int:
    """So many faults on all GPUs but the last, by turns: each is remembered for 30 s of arrival time."""
    others = GPUS[:-1]
    for number in range(size):
        node.fault(others[number % len(others)], MILD, 5_000 + number, APART_US // len(others))
    return size


@contextmanager
def _node(directory: Path) -> Iterator[_Node]:
    directory.mkdir(parents=True)
    with FakeKernelLog(directory / "kmsg") as log:
        daemon = Daemon(directory, kmsg=log.path, flags=FLAGS).start()
        try:
            announce(log, GPUS)
            yield _Node(daemon, log)
        finally:
            daemon.stop()


@dataclass(frozen=True, slots=True)
class _State:
    """What a node is brought into before it hears one more fault."""

    name: str
    title: str
    x: str
    sizes: Sequence[int]
    reach: Callable[[_Node, int], int]
    """Write what leads to a state of this size; how many faults these were."""
    gpu: str
    """Whose further faults are measured."""
    codes: Sequence[int]
    """Their Xids, by turns."""
    expected: Order
    why: str


def _grown(plan: Plan, state: _State) -> Series:
    lines = Lines({TIME: state.expected, CPU: state.expected})
    for size in state.sizes[:2] if plan.quick else state.sizes:
        with _node(plan.directory / state.name / str(size)) as node:
            node.heard(state.reach(node, size))
            times, cpu_ms = _further(node, state, plan.samples(SAMPLES, 5))
            lines.add(TIME, size, times)
            lines.add(CPU, size, cpu_ms)
    growth = lines.growth(judged=not plan.quick)
    return Series(f"open-{state.name}", state.title, state.x, "time, ms", lines.points, growth, state.why)


def _further(node: _Node, state: _State, samples: int) -> tuple[Sequence[float], float]:
    """Times of new faults in ms, and the daemon's processor time for one."""
    times = []
    with closing(Subscriber(node.daemon.port, f"/events?gpu={state.gpu}&kind=xid")) as subscriber:
        subscriber.wait_for_hello()
        before = cpu_s(node.daemon.pid)
        for number in range(samples):
            pid = 100_000 + number
            began = time.perf_counter()
            node.fault(state.gpu, state.codes[number % len(state.codes)], pid)
            while not any(event["process"]["pid"] == pid for event in subscriber.frames()):
                subscriber.receive()
            times.append((time.perf_counter() - began) * 1000)
        used = cpu_s(node.daemon.pid) - before
    return times, used * 1000 / samples


def _storm(plan: Plan) -> Series:
    """The same number of lines, printed of ever more GPUs."""
    lines = Lines({CPU: Order.CONSTANT})
    count = plan.samples(STORM_LINES, 500)
    for size in DEVICES[:2] if plan.quick else DEVICES:
        with _node(plan.directory / "devices" / str(size)) as node:
            before = cpu_s(node.daemon.pid)
            for number in range(count):
                gpu = GPUS[number % size]
                node.log.write(xid_line(gpu, MILD, 5_000 + number // size % 150))
            node.heard(count)
            lines.add(CPU, size, (cpu_s(node.daemon.pid) - before) * 1e6 / count)
    return Series(
        "storm-devices",
        f"A line of a storm of {count:,} Xids, by the number of GPUs it is spread over",
        "GPUs",
        "processor time a line, µs",
        lines.points,
        lines.growth(judged=not plan.quick),
        "A line finds its fault by device, code and process in a table. Each device adds up to twenty events "
        "and one that counts the rest, and these are written once a second.",
    )


_STATES = (
    _State(
        "incidents",
        "One more fault beside open incidents",
        "open incidents",
        INCIDENTS,
        _open_incidents,
        GPUS[-1],
        (MILD,),
        Order.LINEAR,
        "A fault is held against every open incident, of which there are 64 at most.",
    ),
    _State(
        "members",
        "One more fault that joins an incident",
        "events of the incident",
        MEMBERS,
        _members,
        GPUS[0],
        (MILD,),
        Order.CONSTANT,
        "An incident lists 32 members at most, and its row and its event are written with all of them.",
    ),
    _State(
        "faults",
        "One more fault beside open ones",
        "faults remembered",
        FAULTS,
        _open_faults,
        GPUS[-1],
        (MILD, OPENING),
        Order.CONSTANT,
        "A fault is found by device, code and process. What no longer happens is forgotten after 30 s.",
    ),
)
