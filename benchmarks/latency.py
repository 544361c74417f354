"""From a line through /dev/kmsg to a client of /events, against a bare poll loop that reads the same.

Lines are written into the real /dev/kmsg as drills, at random distances of about 95 ms, so that
they fall everywhere between two timer ticks: printk wakes its readers at the next tick. Twelve
faults take turns. Before the measurement each has become an event; from then on each line is the
next revision of an event that has been quiet for more than a second, so it is pushed at once and
nothing of the daemon's throttling is measured. (New events alone would not do: drills may cause
twenty in ten seconds.) The bare loop runs beside the daemon and sees the same lines.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import kernel_log, peers
from benchmarks.clients import Subscriber
from benchmarks.figure import Figure, Plan, Unavailable, median, spread
from tests.support.daemon import Daemon

CODES = 12
PAUSE_S = (0.088, 0.102)
"""Twelve of them are more than the second that lies between two revisions of one event."""
FLAGS = ("--allow-drills", "--quiet-gap", "1h")
SET_UP_S = 40.0
"""Other drills may use up the allowance of new events; it is twenty in ten seconds."""


def measure(plan: Plan) -> Sequence[Figure]:
    """The ratio of the two medians."""
    kernel_log.require_kmsg()
    flags = [*FLAGS, "--ebpf", "off"]
    daemon = Daemon(plan.directory, kmsg=kernel_log.KMSG, flags=flags).start()
    try:
        return [_measure(daemon, plan.samples(200, 40))]
    finally:
        daemon.stop()


class _Faults:
    """The faults that take turns, written and awaited."""

    def __init__(self, subscriber: Subscriber) -> None:
        self.codes = kernel_log.one_line_codes(CODES)
        self._lines = {code: kernel_log.drill_line(code, os.getpid()) for code in self.codes}
        self._are_events: set[int] = set()
        self._subscriber = subscriber

    def become_events(self) -> None:
        """Repeat each until it is an event of its own. Raises Unavailable when that takes too long."""
        until = time.monotonic() + SET_UP_S
        self._subscriber.socket.settimeout(0.5)
        while missing := [code for code in self.codes if code not in self._are_events]:
            if time.monotonic() > until:
                raise Unavailable("other processes write so many Xids that ours become no events")
            kernel_log.write(self._lines[missing[0]])
            with contextlib.suppress(TimeoutError):
                self._listen(missing[0])
        self._subscriber.socket.settimeout(5)
        time.sleep(1.5)

    def again(self, code: int) -> tuple[int, int]:
        """Let it happen once more; when the line was written and when the event was there, in ns of
        CLOCK_MONOTONIC. Raises Unavailable."""
        began = kernel_log.write(self._lines[code])
        try:
            return began, self._listen(code)
        except TimeoutError:
            raise Unavailable(f"Xid {code} did not come within 5 s") from None

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
class Series:
    """The same lines, from their writing to their arrival, in ms."""

    ours: Sequence[float]
    """At a client of /events."""
    bare: Sequence[float]
    """In a bare poll loop on /dev/kmsg."""


def series(daemon: Daemon, samples: int) -> Series:
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
    return Series(ours, [(there - began) / 1e6 for there, began in zip(read, written, strict=True)])


def _measure(daemon: Daemon, samples: int) -> Figure:
    found = series(daemon, samples)
    behind = [mine - base for mine, base in zip(found.ours, found.bare, strict=True)]
    return Figure(
        "kernel line → client on /events",
        median(found.ours) / median(found.bare),
        "x",
        must=1.5,
        reach=1.2,
        beside=f"ms: {spread(found.ours)}; bare loop on /dev/kmsg: {spread(found.bare)}; "
        f"behind it, line for line: {spread(behind)}; {samples} lines",
    )
