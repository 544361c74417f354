"""`python -m benchmarks.profile [--lines N] [--against DIR]`: what one line costs on its way to a reader.

The daemon's own objects do the work in this process: the probe reads records of a FIFO, and the pipeline, the
store with its journal on disk, and one reader of the stream follow. Around each stage stands a clock of the
thread's processor time, so that waiting costs nothing; a stage does not count what it calls of another one.
The medians over many lines are printed in µs, by what kind of line it was, in two ways:

* *warm*: one line right after the other;
* *cold*: before each line the caches of every CPU are filled with something else. A fault comes to a daemon
  that has slept: this is what it costs then.

With `--against DIR` the checkout there is measured too, by this same program, in turns with this one.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.figure import median
from daemon import (
    commits,
    event,
    incidents,
    intake,
    journal,
    pipeline,
    retention,
    store,
    stream,
    testimony,
    writer,
)
from daemon.filter import EVERYTHING
from mcp_server import reading
from probes import kernel, kmsg
from probes.line import Batch, KernelLine, Origin
from tests.support.kernel_log import FakeKernelLog

GPU = "0000:91:00"
CODES = (31, 43, 45, 48, 62, 63, 64, 74, 79, 92, 94, 119)
"""Twelve faults of one GPU: with them open, its incident has twelve members."""
PAUSE_US = 95_000
"""Between two lines, on the clock that the daemon is given. Twelve of them are more than the second that lies
between two revisions of one event; the incident, which all of them change, speaks with every eleventh."""
SECOND_US = 1_100_000
TWO_DAYS_US = 2 * 86_400_000_000
"""By then nothing is open any more."""
BETWEEN_S = 0.004
TURNS_BETWEEN = 500
"""Turns of the event loop, some ms of them: a CPU that sleeps does not stay warm."""
STORM_PIDS = range(5000, 5050)
STORM_LINES = 2_000
CACHE_BYTES = 48 << 20
"""More than the last cache of most machines."""
DEADLINE_S = 20.0

STAGES: Sequence[tuple[str, object, str]] = (
    ("read and parse the record", kmsg.KmsgProbe, "_turn"),
    ("take the batch", intake.Intake, "take"),
    ("decode, confirm, witness, coalesce", pipeline.Pipeline, "feed"),
    ("decode, confirm, witness, coalesce", testimony.Testimony, "take"),
    ("incidents", incidents.Incidents, "take"),
    ("state that changed, as text", pipeline.Pipeline, "take_changes"),
    ("the event as JSON", event.Item, "of"),
    ("cursor, backlog", store.Store, "put"),
    ("hand to the writer", commits.Commits, "_send"),
    ("commit", journal.Journal, "commit"),
    ("around the commit", writer.Writer, "write"),
    ("tidy", writer.Writer, "tidy"),
    ("back in the event loop, ring", commits.Commits, "_on_written"),
)
"""What a stage is called, and the method in which it happens. Several may have one name."""
READER = "a reader's frame"
WHOLE = "from the line to the reader, by the clock on the wall"


class Stopwatch:
    """Processor time by stage: in each thread what is on top of its stack runs."""

    def __init__(self) -> None:
        self.spent_ns: defaultdict[str, int] = defaultdict(int)
        self._stacks = threading.local()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what happens inside to this stage, and not to the one around it."""
        stack: list[int] = self._stacks.__dict__.setdefault("inner_ns", [])
        stack.append(0)
        began = time.thread_time_ns()
        try:
            yield
        finally:
            took = time.thread_time_ns() - began
            self.spent_ns[name] += took - stack.pop()
            if stack:
                stack[-1] += took

    @contextmanager
    def around(self, stages: Sequence[tuple[str, object, str]]) -> Iterator[None]:
        """Have the methods timed while the block runs. One that this checkout lacks is left out."""
        found = [(name, owner, method) for name, owner, method in stages if method in vars(owner)]
        before = [(owner, method, vars(owner)[method]) for _, owner, method in found]
        for name, owner, method in found:
            setattr(owner, method, self._timed(name, vars(owner)[method]))
        try:
            yield
        finally:
            for owner, method, original in before:
                setattr(owner, method, original)

    def _timed(self, name: str, method: Any) -> Any:
        if isinstance(method, classmethod):
            return classmethod(self._timed(name, method.__func__))

        @functools.wraps(method)
        def timed(*arguments: Any, **named: Any) -> Any:
            with self.stage(name):
                return method(*arguments, **named)

        return timed


class Clock:
    """This machine's clocks, put on between two lines: nothing waits for a second to pass."""

    def __init__(self) -> None:
        self._real = kernel.SystemClock()
        self.ahead_us = 0

    def monotonic_us(self) -> int:
        """As `probes.kernel.Clock`."""
        return self._real.monotonic_us() + self.ahead_us

    def wall_us(self) -> int:
        """As `probes.kernel.Clock`."""
        return self._real.wall_us() + self.ahead_us


@dataclass(slots=True)
class Way:
    """The objects through which a line goes, from the FIFO to one reader."""

    log: FakeKernelLog
    clock: Clock
    probe: kmsg.KmsgProbe
    intake: intake.Intake
    watch: Stopwatch
    read: asyncio.Event = field(default_factory=asyncio.Event)
    counts: dict[str, int] = field(default_factory=dict)
    """The newest count of each event that the reader has had, incidents left out."""
    read_at: float = 0.0

    def say(self, code: int, pid: int) -> None:
        """The driver prints a line."""
        self.log.write(
            f"NVRM: Xid (PCI:{GPU}): {code}, pid={pid}, name=bench, Ch 00000008", time_us=self.now_us
        )

    @property
    def now_us(self) -> int:
        """The time of the kernel's log."""
        return self.clock.monotonic_us()

    def pass_time(self, us: int = PAUSE_US) -> None:
        """Let so much time pass, in µs."""
        self.clock.ahead_us += us

    async def until(self, lines: int) -> None:
        """Wait until the reader has had so many lines."""
        async with asyncio.timeout(DEADLINE_S):
            while sum(self.counts.values()) < lines:
                self.read.clear()
                await self.read.wait()

    async def follow(self, events: stream.EventStream) -> None:
        """The reader: what `/events` does, without the socket."""
        async for page in reading.follow_pages(events, 0, EVERYTHING):
            with self.watch.stage(READER):
                frames = [f"id: {item.cursor}\ndata: {item.json}\n\n".encode() for item in page.items]
            assert all(frames)
            self.read_at = time.monotonic()
            self.counts |= {item.event.id: item.event.count for item in page.items if item.event.lines}
            self.read.set()


@asynccontextmanager
async def way(directory: Path, watch: Stopwatch) -> AsyncIterator[Way]:
    """A way through objects of its own, with an empty journal."""
    clock = Clock()
    with FakeKernelLog(directory / "kmsg") as log:
        kept = store.Store.open(directory / "state", retention=retention.Retention())
        line = pipeline.Pipeline(node="bench", quiet_gap_us=3_600_000_000)
        into = intake.Intake(line, kept, boot_id=kernel.boot_id(), clock=clock, proc=directory)
        into.start()
        probe = kmsg.KmsgProbe(log.path, into.take, clock=clock)
        probe.start()
        found = Way(log, clock, probe, into, watch)
        reader = asyncio.create_task(found.follow(kept.stream))
        log.write(f"NVRM: GPU at PCI:{GPU}: GPU-11111111-2222-3333-4444-555555555555", time_us=found.now_us)
        try:
            yield found
        finally:
            probe.close()
            into.close()
            await kept.close()
            await reader


Line = Callable[[Way, int], None]
"""Makes the log show the n-th line of a kind."""


async def _one_by_one(directory: Path, lines: int, line: Line, *, is_cold: bool) -> dict[str, float]:
    """The median of each stage over so many lines, after one line of each fault."""
    watch, told = Stopwatch(), len(CODES)
    spent: defaultdict[str, list[float]] = defaultdict(list)
    with watch.around(STAGES):
        async with way(directory, watch) as found:
            for number, code in enumerate(CODES):
                found.pass_time(SECOND_US)
                found.say(code, 7)
                await found.until(number + 1)
            found.pass_time(SECOND_US)
            for number in range(lines):
                found.pass_time()
                await _settle(is_cold=is_cold)
                watch.spent_ns.clear()
                began = time.monotonic()
                line(found, number)
                await found.until(told + number + 1)
                for stage, ns in watch.spent_ns.items():
                    spent[stage].append(ns / 1e3)
                spent[WHOLE].append((found.read_at - began) * 1e6)
    return {stage: median(values) for stage, values in spent.items()}


async def _storm(directory: Path, lines: int) -> dict[str, float]:
    """The mean of each stage over the lines of a storm of fifty processes on one GPU."""
    watch = Stopwatch()
    with watch.around(STAGES):
        async with way(directory, watch) as found:
            watch.spent_ns.clear()
            began = time.monotonic()
            for number in range(lines):
                found.say((31, 43, 94)[number % 3], STORM_PIDS[number % len(STORM_PIDS)])
                if number % kmsg.ITEMS_A_TURN == 0:
                    found.probe.read_now()
                    await asyncio.sleep(0)
            await asyncio.sleep(0.2)
            found.pass_time(SECOND_US)
            found.say(31, STORM_PIDS[0])
            await found.until(lines + 1)
        spent = {stage: ns / 1e3 / lines for stage, ns in watch.spent_ns.items()}
        return spent | {WHOLE: (found.read_at - began) * 1e6 / lines}


def _text(code: int, pid: int) -> str:
    return f"NVRM: Xid (PCI:{GPU}): {code}, pid={pid}, name=bench, Ch 00000008"


def _a_first_event(found: Way, number: int) -> None:
    found.pass_time(TWO_DAYS_US)
    found.say(31, 10_000 + number)


def _one_more_event(found: Way, number: int) -> None:
    found.pass_time(10_000_000)  # a device may cause twenty new events in 10 s
    found.say(63, 10_000 + number)


def _a_repeat(found: Way, number: int) -> None:
    found.say(CODES[number % len(CODES)], 7)


def _a_repeat_that_ebpf_hears(found: Way, number: int) -> None:
    found.say(CODES[number % len(CODES)], 7)
    text = _text(CODES[number % len(CODES)], 7)
    at_us, wall_us = found.clock.monotonic_us(), found.clock.wall_us()
    boot_id = kernel.boot_id()
    heard = KernelLine(text, Origin.UNKNOWN, boot_id, None, at_us, at_us, wall_us, False, "bpf")
    found.intake.take(Batch("bpf", boot_id, (heard,), None))
    found.probe.read_now()


KINDS: Mapping[str, Line] = {
    "a new event, nothing open": _a_first_event,
    "a repeat, its incident has twelve members": _a_repeat,
    "the same, heard by eBPF first": _a_repeat_that_ebpf_hears,
    "a new event, its incident is full": _one_more_event,
}


async def _settle(*, is_cold: bool) -> None:
    """Let what is behind the last line, such as tidying, come to its end."""
    if is_cold:
        await asyncio.sleep(BETWEEN_S)
        _evict()
        return
    for _ in range(TURNS_BETWEEN):
        await asyncio.sleep(0)


def _evict() -> None:
    """Fill the caches of every CPU that this process may use with something else."""
    with ThreadPoolExecutor(1) as pool:
        for cpu in os.sched_getaffinity(0):
            pool.submit(_evict_on, cpu).result()


def _evict_on(cpu: int) -> None:
    os.sched_setaffinity(0, {cpu})
    zlib.adler32(_OTHER_BYTES)


_OTHER_BYTES = bytes(CACHE_BYTES)


def measure(lines: int) -> dict[str, dict[str, float]]:
    """µs by stage, by kind of line and `cold` or `warm`."""
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="xw-") as parent:
        for number, (kind, line) in enumerate(KINDS.items()):
            for is_cold in (True, False):
                directory = Path(parent, f"{number}{is_cold:d}")
                directory.mkdir()
                name = f"{kind}, {'cold' if is_cold else 'warm'}"
                found[name] = asyncio.run(_one_by_one(directory, lines, line, is_cold=is_cold))
        directory = Path(parent, "storm")
        directory.mkdir()
        found["a line of a storm"] = asyncio.run(_storm(directory, STORM_LINES))
    return found


def _measure_checkout(directory: Path, lines: int) -> dict[str, dict[str, float]]:
    """The same of another checkout, by this program and that one's code."""
    done = subprocess.run(
        [sys.executable, "-P", __file__, "--json", "--lines", str(lines)],
        env={**os.environ, "PYTHONPATH": str(directory)},
        stdout=subprocess.PIPE,
        check=True,
    )
    found: dict[str, dict[str, float]] = json.loads(done.stdout)
    return found


def _table(rounds: Sequence[Mapping[str, Mapping[str, float]]]) -> str:
    """Each kind of line, its stages largest first, and a column for each checkout."""
    lines = []
    for kind in rounds[0]:
        stages = sorted(rounds[0][kind], key=lambda stage: (stage == WHOLE, -rounds[0][kind][stage]))
        lines += ["", kind]
        for stage in stages:
            cells = "".join(f"{each[kind].get(stage, 0):10.1f}" for each in rounds)
            lines.append(f"  {stage:<55}{cells}")
        sums = (sum(us for stage, us in each[kind].items() if stage != WHOLE) for each in rounds)
        lines.append(f"  {'all of it':<55}{''.join(f'{us:10.1f}' for us in sums)}")
    return "\n".join(lines)


def _middle(rounds: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    return {
        kind: {stage: median([each[kind].get(stage, 0) for each in rounds]) for stage in rounds[0][kind]}
        for kind in rounds[0]
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the profile; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profile", description="Cost of one line by stage."
    )
    parser.add_argument("--lines", type=int, default=120, help="lines of each kind (default 120)")
    parser.add_argument("--rounds", type=int, default=3, help="how often, with --against (default 3)")
    parser.add_argument("--against", type=Path, metavar="DIR", help="another checkout to measure in turns")
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    asked = parser.parse_args(arguments)
    if asked.against is None:
        found = measure(asked.lines)
        print(json.dumps(found) if asked.json else f"µs of processor time a line{_table([found])}")
        return 0
    here = Path(__file__).parents[1]
    rounds: dict[Path, list[dict[str, dict[str, float]]]] = {asked.against: [], here: []}
    for _ in range(asked.rounds):
        for directory, of_directory in rounds.items():
            of_directory.append(_measure_checkout(directory.absolute(), asked.lines))
    print(f"µs of processor time a line: {asked.against}, then {here}")
    print(_table([_middle(each) for each in rounds.values()]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
