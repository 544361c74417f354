"""Equal lines in a flood, milliseconds apart: what the log and eBPF both hear is counted once each, also
where a CPU stood still between the two stamps of a line."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.event import Kind
from probes.klog import LogLine, Look
from probes.line import KernelLine, Origin, Reached
from tests.support.records import Heard, lost, record, xid

AHEAD_US = 31_000
"""How far CLOCK_MONOTONIC is ahead of the log's clock in these tests."""
TEXT = xid(31, "pid=8, name=other, Ch 00000008")
LAST_DEADLINE_US = 1_000_000_000


class Printed(NamedTuple):
    """One line: when the log stamped it, and how much later eBPF heard it, in µs."""

    at_us: int
    late_us: int


def ears() -> Heard:
    """A pipeline that hears both, and knows how far their clocks are apart."""
    found = Heard()
    found.pipeline.reached(Reached(None, 1_000_000 + AHEAD_US), 0)
    found.pipeline.log_clock(AHEAD_US, 1_000_000)
    found.pipeline.begin_to_confirm(900_000)
    return found


def by_ebpf(line: Printed, arrival_us: int) -> KernelLine:
    stamp = line.at_us + AHEAD_US + line.late_us
    return record(TEXT, stamp, arrival_us=arrival_us, origin=Origin.UNKNOWN, probe="bpf")


def by_the_log(line: Printed, seq: int, arrival_us: int) -> KernelLine:
    return record(TEXT, line.at_us, arrival_us=arrival_us, seq=seq)


def counted(heard: Heard) -> int:
    heard.pass_time(LAST_DEADLINE_US)
    return sum(event.count for event in heard.events() if event.kind is not Kind.GAP)


FIRST, SECOND = Printed(1_002_600, 2_821), Printed(1_007_921, 4)
"""eBPF hears the first one nearer to the second one's stamp in the log than to its own."""
READ_US = 1_054_050


def test_a_line_that_ebpf_hears_late_is_not_taken_for_the_next_equal_one() -> None:
    heard = ears()
    heard.take(by_ebpf(FIRST, READ_US))
    heard.take(by_the_log(FIRST, 0, READ_US))
    heard.take(by_the_log(SECOND, 1, READ_US))
    heard.pipeline.reached(Reached(SECOND.at_us, READ_US), READ_US)
    heard.pass_time(READ_US + 100_000)
    heard.take(by_ebpf(SECOND, READ_US + 118_000))
    assert counted(heard) == 2


def test_a_look_does_not_take_a_late_line_for_the_next_equal_one() -> None:
    heard = ears()
    heard.take(by_ebpf(FIRST, READ_US))
    shown = [LogLine(Origin.KERNEL, line.at_us, TEXT) for line in (FIRST, SECOND)]
    heard.revisions += heard.kept(heard.pipeline.looked(Look(shown, SECOND.at_us), READ_US)[1])
    heard.take(by_ebpf(SECOND, READ_US + 100))
    for seq, line in enumerate((FIRST, SECOND)):
        heard.take(by_the_log(line, seq, READ_US + 200))
    assert counted(heard) == 2


class Daemon:
    """A daemon that gets little of the CPU: it reads either log now and then, and some records at a time."""

    def __init__(self, lines: Sequence[Printed], gone: frozenset[int], chance: Random) -> None:
        self.heard = ears()
        self._lines, self._gone, self._chance = lines, gone, chance
        self._by_ebpf = self._by_the_log = self._next_seq = 0
        self._last_us: int | None = None
        self._end_us = 0

    @property
    def has_read_all(self) -> bool:
        return min(self._by_ebpf, self._by_the_log) == len(self._lines)

    def wake(self, now_us: int) -> None:
        """Do what a turn of the event loop does."""
        deadline = self.heard.pipeline.next_deadline()
        if deadline is not None and deadline <= now_us:
            self.read_log(now_us)  # a deadline comes after what is readable by then
            self.heard.pass_time(now_us)
        if self._chance.random() < 0.5:
            self.read_ring(now_us)
        else:
            self.read_log(now_us)

    def read_ring(self, now_us: int) -> None:
        until = min(self._by_ebpf + self._chance.randint(1, 8), len(self._lines))
        for line in self._lines[self._by_ebpf : until]:
            if line.at_us + AHEAD_US + line.late_us > now_us:
                break
            self._by_ebpf += 1
            self.heard.take(by_ebpf(line, now_us))
        if self.heard.pipeline.unconfirmed():
            self.read_log(now_us)

    def read_log(self, now_us: int) -> None:
        most = self._chance.randint(1, 8)
        while self._by_the_log < len(self._lines) and most:
            number, line = self._by_the_log, self._lines[self._by_the_log]
            if line.at_us + AHEAD_US > now_us:
                break
            self._by_the_log += 1
            if number in self._gone:
                continue
            if number > self._next_seq:
                self.heard.take(lost(self._next_seq, number - 1, now_us))
            self._next_seq = number + 1
            self.heard.take(by_the_log(line, number, now_us))
            self._last_us, most = line.at_us, most - 1
        if most:
            self._end_us = now_us
        news = self.heard.pipeline.reached(Reached(self._last_us, self._end_us), now_us)
        self.heard.revisions += self.heard.kept(news)


@pytest.mark.parametrize("loss", [0.0, 0.3])
@settings(max_examples=60, deadline=None)
@given(st.integers())
def test_a_slow_daemon_counts_equal_lines_as_often_as_they_were_printed(loss: float, seed: int) -> None:
    chance = Random(seed)
    at_us, lines = 1_000_000, []
    for _ in range(40):
        late_us = chance.randint(20, 3_900) if chance.random() < 0.1 else chance.randint(0, 20)
        at_us += chance.choice([2_400, 2_500, 2_700])
        lines.append(Printed(at_us, late_us))
        at_us += late_us  # one writer: its CPU stood still before the next line
    gone = frozenset(number for number in range(len(lines)) if chance.random() < loss)
    daemon, now_us = Daemon(lines, gone, chance), 1_000_000 + AHEAD_US
    while not daemon.has_read_all:
        now_us += chance.choice([500, 3_000, 20_000, 95_000])
        daemon.wake(now_us)
    assert counted(daemon.heard) == len(lines)
