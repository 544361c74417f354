"""From a line through /dev/kmsg to a client of /events, against a bare poll loop that reads the same.

Lines are written into the real /dev/kmsg as drills, at random distances of about 95 ms, so that
they fall everywhere between two timer ticks: printk wakes its readers at the next tick. Twelve
faults take turns. Before the measurement each has become an event; from then on each line is the
next revision of an event that has been quiet for more than a second, so it is pushed at once and
nothing of the daemon's throttling is measured. (New events alone would not do: drills may cause
twenty in ten seconds.) The bare loop runs beside the daemon and sees the same lines. The other
ways to hear a line are a row of their own, and measured each by itself: side by side they would
take the processors from each other.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks import kernel_log, listeners, peers
from benchmarks.clients import Subscriber
from benchmarks.figure import Absent, Figure, Plan, Unavailable, median, spread
from benchmarks.outcome import Part
from benchmarks.samples import Samples
from tests.support.daemon import Daemon

CODES = 12
PAUSE_S = (0.088, 0.102)
"""Twelve of them are more than the second that lies between two revisions of one event."""
FLAGS = ("--allow-drills", "--quiet-gap", "1h")
SET_UP_S = 40.0
"""Other drills may use up the allowance of new events; it is twenty in ten seconds."""


def measure(plan: Plan) -> Sequence[Part]:
    """The ratio of the two medians."""
    kernel_log.require_kmsg()
    samples = plan.samples(200, 12, 300)
    flags = [*FLAGS, "--ebpf", "off"]
    daemon = Daemon(plan.directory, kmsg=kernel_log.KMSG, flags=flags).start()
    try:
        found = delays(daemon, samples)
    finally:
        daemon.stop()
    return [_figure(found), chart("xidwatch, kmsg alone", found.ours)]


def measure_others(plan: Plan) -> Sequence[Part]:
    """The delays of the other ways to hear a line, each by itself."""
    kernel_log.require_kmsg()
    parts: list[Part] = []
    for listener in (listeners.PYTHON, listeners.C, listeners.DMESG, listeners.BPFTRACE):
        what = f"kernel line → {listener.name}, by itself"
        try:
            found = listeners.delays_ms(listener, plan.directory, plan.samples(100, 6, 200), PAUSE_S)
        except Unavailable as reason:
            parts.append(Absent(what, str(reason)))
            continue
        parts.append(Figure(what, median(found), "ms", beside=f"ms: {spread(found)}"))
        parts.append(_chart({}, {f"{listener.name}, by itself": found}))
    return parts


def chart(line: str, ours: Sequence[float]) -> Samples:
    """Delays of one way in which xidwatch hears, for the plot that all of them share."""
    return _chart({line: ours}, {})


class _Faults:
    """The faults that take turns, written and awaited."""

    def __init__(self, subscriber: Subscriber) -> None:
        self.codes = kernel_log.one_line_codes(CODES)
        self._channels = itertools.count(8)
        self._are_events: set[int] = set()
        self._subscriber = subscriber

    def become_events(self) -> None:
        """Repeat each until it is an event of its own. Raises Unavailable when that takes too long."""
        until = time.monotonic() + SET_UP_S
        self._subscriber.socket.settimeout(0.5)
        while missing := [code for code in self.codes if code not in self._are_events]:
            if time.monotonic() > until:
                raise Unavailable("other processes write so many Xids that ours become no events")
            self._write(missing[0])
            with contextlib.suppress(TimeoutError):
                self._listen(missing[0])
        self._subscriber.socket.settimeout(5)
        time.sleep(1.5)

    def again(self, code: int) -> tuple[int, int]:
        """Let it happen once more; when the line was written and when the event was there, in ns of
        CLOCK_MONOTONIC. Raises Unavailable."""
        began = self._write(code)
        try:
            return began, self._listen(code)
        except TimeoutError:
            raise Unavailable(f"Xid {code} did not come within 5 s") from None

    def _write(self, code: int) -> int:
        """A line that the daemon has not read before: it remembers what the last ones said."""
        return kernel_log.write(kernel_log.drill_line(code, os.getpid(), next(self._channels)))

    def _listen(self, code: int) -> int:
        """Take in what comes until there is news of this fault; when it came."""
        while True:
            self._subscriber.receive()
            now = time.monotonic_ns()
            is_news = False
            for event in self._subscriber.frames():
                process = event["process"] or {}
                if (process.get("pid"), process.get("name")) == (os.getpid(), "bench"):
                    self._are_events.add(event["code"])
                    is_news |= event["code"] == code
            if is_news:
                return now


@dataclass(frozen=True, slots=True)
class Delays:
    """The same lines, from their writing to their arrival, in ms."""

    ours: Sequence[float]
    """At a client of /events."""
    bare: Sequence[float]
    """In a bare poll loop on /dev/kmsg."""


def delays(daemon: Daemon, samples: int) -> Delays:
    """Write so many lines, and note when each arrives. Raises Unavailable."""
    subscriber = Subscriber(daemon.port)
    subscriber.wait_for_hello()
    ours, written = [], []
    with peers.peer("bare_kmsg", f"pid={os.getpid()}, name=bench") as bare:
        faults = _Faults(subscriber)
        faults.become_events()
        peers.first_line(bare)
        for index in range(samples):
            time.sleep(random.uniform(*PAUSE_S))
            began, there = faults.again(faults.codes[index % CODES])
            written.append(began)
            ours.append((there - began) / 1e6)
        time.sleep(PAUSE_S[1])  # through eBPF a client has the last line before the bare loop is woken
        read = [at for at in json.loads(peers.ended(bare)) if at > written[0]]
    subscriber.close()
    if len(read) != samples:
        raise Unavailable("the bare loop lost records: something else floods the kernel log")
    return Delays(ours, [(there - began) / 1e6 for there, began in zip(read, written, strict=True)])


def _figure(found: Delays) -> Figure:
    behind = [mine - base for mine, base in zip(found.ours, found.bare, strict=True)]
    return Figure(
        "kernel line → client on /events",
        median(found.ours) / median(found.bare),
        "x",
        must=1.5,
        reach=1.2,
        beside=f"ms: {spread(found.ours)}; bare loop on /dev/kmsg: {spread(found.bare)}; "
        f"behind it, line for line: {spread(behind)}; {len(behind)} lines",
    )


def _chart(ours: Mapping[str, Sequence[float]], baselines: Mapping[str, Sequence[float]]) -> Samples:
    return Samples("latency", "From a kernel line to whoever wants to know", "delay, ms", ours, baselines)
