"""What the process tracker costs: nothing where files are opened, and how long where processes end.

The kernel itself times its programs (sysctl kernel.bpf_stats_enabled, put back afterwards). Beside that
stands what a whole fork, exit and wait of the same process costs in the same run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figure import Figure, Plan, Unavailable
from probes.bpf import tracker, tracker_load, unavailable
from probes.bpf.ring import RingBuffer
from probes.bpf.syscalls import update

OPENS_MUST = 1.10
"""The tracker hooks no open: what is left is this machine's noise."""
FORK_MUST = 1.10
_STATS = Path("/proc/sys/kernel/bpf_stats_enabled")
_FORKS = (  # in a process of its own: the benchmark's memory would be most of what a fork costs
    "import os, sys, time\n"
    "begin = time.perf_counter_ns()\n"
    "for _ in range(int(sys.argv[1])):\n"
    "    child = os.fork()\n"
    "    if not child: os._exit(0)\n"
    "    os.waitpid(child, 0)\n"
    "print(time.perf_counter_ns() - begin)\n"
)


@dataclass(frozen=True, slots=True)
class _Runs:
    count: int
    ns: int


def measure(plan: Plan) -> Sequence[Figure]:
    """Ratios with and without the tracker, and the time its program takes by what ends."""
    rounds, opens, forks = plan.samples(25, 3), plan.samples(2_000, 500), plan.samples(100, 20)
    without: dict[str, list[float]] = {"open": [], "fork": []}
    beside: dict[str, list[float]] = {"open": [], "fork": []}
    for _ in range(rounds):
        for found in (without, beside):
            with _tracker(wanted=found is beside):
                found["open"].append(_open_ns(opens))
                found["fork"].append(_fork_ns(forks))
    # The best of each: what disturbs on a shared machine only ever adds.
    opened, forked = min(beside["open"]), min(beside["fork"])
    bare_open, bare_fork = min(without["open"]), min(without["fork"])
    return [
        Figure(
            "ends: openat beside the tracker",
            opened / bare_open,
            "x",
            must=OPENS_MUST,
            reach=1.0,
            beside=f"open and close {opened:.0f} ns, without {bare_open:.0f} ns",
        ),
        Figure(
            "ends: fork, exit and wait beside the tracker",
            forked / bare_fork,
            "x",
            must=FORK_MUST,
            reach=1.02,
            beside=f"{forked / 1000:.0f} us, without {bare_fork / 1000:.0f} us",
        ),
        *_program(plan.samples(1_000, 100)),
    ]


def _program(count: int) -> Iterator[Figure]:
    """What the program itself takes, as the kernel times it."""
    with _timed(), _tracker(wanted=True) as running:
        assert running is not None
        program = running.descriptors.programs[0]

        def cost(what: str, work: Callable[[], object]) -> Figure:
            before = _runs(program)
            work()
            after = _runs(program)
            calls = after.count - before.count
            return Figure(
                f"ends: {what}", (after.ns - before.ns) / max(calls, 1), "ns", beside=f"{calls} calls"
            )

        yield cost("a thread", lambda: _threads(count))
        yield cost("a process that is not told of", lambda: _fork_ns(count))
        yield cost("a process that is told of, and wakes the reader", lambda: _told(running, count))
        held = [*running.descriptors.programs, running.descriptors.ring, running.descriptors.counts]
        locked = sum(_number(fd, "memlock") for fd in (*held, running.watched))
        yield Figure("ends: memory in the kernel", locked / 1e6, "MB", must=2.0)


@contextmanager
def _tracker(*, wanted: bool) -> Iterator[tracker_load.Tracker | None]:
    """A running tracker, if it is wanted."""
    if not wanted:
        yield None
        return
    found = tracker.attach()
    if isinstance(found, unavailable.Unavailable):
        raise Unavailable(found.reason)
    try:
        yield found
    finally:
        found.descriptors.close()
        os.close(found.watched)


@contextmanager
def _timed() -> Iterator[None]:
    """Let the kernel time its programs."""
    try:
        before = _STATS.read_text()
        _STATS.write_text("1")
    except OSError as error:
        raise Unavailable(f"{_STATS}: {error.strerror}") from error
    try:
        yield
    finally:
        _STATS.write_text(before)


def _open_ns(count: int) -> float:
    begin = time.perf_counter_ns()
    for _ in range(count):
        os.close(os.open("/etc/passwd", os.O_RDONLY))
    return (time.perf_counter_ns() - begin) / count


def _fork_ns(count: int) -> float:
    command = (sys.executable, "-I", "-S", "-c", _FORKS, str(count))
    return int(subprocess.run(command, capture_output=True, check=True).stdout) / count


def _threads(count: int) -> None:
    for _ in range(count):
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()


def _told(running: tracker_load.Tracker, count: int) -> None:
    """Processes that were asked for, one after the other."""
    ring = RingBuffer(running.descriptors.ring, running.descriptors.ring_bytes)
    try:
        for _ in range(count):
            begun, may_end = os.pipe()
            child = os.fork()
            if not child:
                os.read(begun, 1)
                os._exit(0)
            update(running.watched, child, (1).to_bytes(4, sys.byteorder))
            os.write(may_end, b"\n")
            os.waitpid(child, 0)
            os.close(begun)
            os.close(may_end)
            ring.read(1)
    finally:
        ring.close()


def _runs(program: int) -> _Runs:
    return _Runs(_number(program, "run_cnt"), _number(program, "run_time_ns"))


def _number(fd: int, name: str) -> int:
    """A number that the kernel shows of a BPF descriptor."""
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value)
    raise Unavailable(f"this kernel does not show {name} of a BPF program")
