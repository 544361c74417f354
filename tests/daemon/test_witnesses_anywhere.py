"""Promises 1 and 5 together: whichever probes hear a log, in whatever order, and wherever a process is killed
and the next one goes on, what is told is what /dev/kmsg alone would have given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.event import Event, Kind, Severity
from daemon.passed import Passed
from daemon.pipeline import Pipeline
from probes.line import KernelLine, Origin, Reached
from tests.support.records import BOOT, EPOCH_US, Heard, lost, record, xid

AHEAD_US = 31_000
"""How far CLOCK_MONOTONIC is ahead of the log's clock in these tests."""
MESSAGES = {
    31: ("pid=8, name=other, ", "channel 0x0000000a, intr 00000000. MMU Fault: ENGINE GRAPHICS"),
    79: ("pid=7, name=fault, ", "GPU has fallen off the bus."),
}
STEPS = st.tuples(
    st.sampled_from([400, 3_000, 12_000, 40_000, 150_000, 1_200_000, 6_000_000]),
    st.sampled_from(sorted(MESSAGES)),
    st.sampled_from(["plain", "plain", "behind other text", "continued", "forged", "forged"]),
)


@dataclass(frozen=True)
class Node:
    """Which probes hear, and how late, in µs."""

    kmsg_late_us: int = 15_000
    has_klog: bool = False
    has_driver: bool = False
    is_told_facility: bool = False
    """eBPF sits where it is told who printed a line."""
    is_killed: bool = True
    kmsg_loses: bool = False


@dataclass
class Log:
    """What each probe brings of one log."""

    kmsg: list[KernelLine] = field(default_factory=list)
    bpf: list[KernelLine] = field(default_factory=list)
    klog: list[KernelLine] = field(default_factory=list)
    driver: list[KernelLine] = field(default_factory=list)
    forged: Counter[int] = field(default_factory=Counter)


def printed(steps: Sequence[tuple[int, int, str]], node: Node, chance: Random) -> Log:
    log, at_us = Log(), 1_000_000
    for seq, (after_us, code, how) in enumerate(steps):
        at_us += after_us
        call = xid(code, "".join(MESSAGES[code]))
        around = {"behind other text": ("usb 1-1: new device ", ""), "continued": ("", ", more")}
        before, behind = around.get(how, ("", ""))
        text = f"{before}{call}{behind}"
        is_forged = how == "forged"
        log.forged[code] += is_forged
        origin = Origin.USERSPACE if is_forged else Origin.KERNEL
        stamp = at_us + AHEAD_US
        late_us = stamp + 20 + chance.randint(0, node.kmsg_late_us)
        log.kmsg.append(record(text, at_us, arrival_us=late_us, origin=origin, seq=seq))
        known = origin if node.is_told_facility and how != "continued" else Origin.UNKNOWN
        log.bpf.append(
            record(call, stamp, arrival_us=stamp + chance.randint(1, 3_000), origin=known, probe="bpf")
        )
        if node.has_klog:
            looked_us = stamp + chance.randint(50, 700_000)
            log.klog.append(record(text, at_us, arrival_us=looked_us, origin=origin, probe="klog"))
        if node.has_driver and not is_forged:
            said_us = stamp + 6 + chance.randint(50, 2_000)
            said = xid(code, MESSAGES[code][1])
            log.driver.append(record(said, stamp + 6, arrival_us=said_us, probe="driver"))
    return log


def in_order(lines: Sequence[KernelLine]) -> list[KernelLine]:
    """The lines of one probe with arrivals in the order of the log."""
    arrivals = sorted(line.arrival_us for line in lines)
    return [
        replace(line, arrival_us=at_us, wall_us=EPOCH_US + at_us)
        for line, at_us in zip(lines, arrivals, strict=True)
    ]


def by_kmsg_alone(log: Log) -> Heard:
    ears = Heard()
    for line in in_order(log.kmsg):
        ears.pass_time(line.arrival_us - 1)
        ears.take(line)
    ears.pass_time(1_000_000_000)
    return ears


def by_all(log: Log, node: Node, chance: Random) -> Heard:
    """Every probe in its own order; now and then the process is killed. What eBPF and the driver had printed
    by then and not handed over is gone, and the logs are read on."""
    gone = {line.seq for line in log.kmsg if node.kmsg_loses and chance.random() < 0.4}
    lines = [*in_order(log.bpf), *in_order(log.klog), *in_order(log.driver)]
    lines += [line for line in in_order(log.kmsg) if line.seq not in gone]
    lines.sort(key=lambda line: line.arrival_us)
    ears, passed, next_seq, begun_us = Heard(), Passed(BOOT, None), 0, 0
    begin(ears)
    for line in lines:
        if node.is_killed and chance.random() < 0.12:
            begun_us = line.arrival_us
            passed = Passed(BOOT, passed.dump())
            saved, ears.pipeline = ears.pipeline.snapshot(), Pipeline(node="test-node")
            ears.revisions += ears.kept(ears.pipeline.restore(saved, boot_id=BOOT, now_us=begun_us))
            begin(ears)
            was_printed = (each.kernel_us or 0 for each in log.kmsg)
            ears.pipeline.begin_to_confirm(
                max((at_us for at_us in was_printed if at_us + AHEAD_US < begun_us), default=0)
            )
        if line.probe in ("bpf", "driver") and (line.kernel_us or 0) < begun_us:
            continue
        if line.probe in ("kmsg", "klog"):
            if passed.was_done(line):
                ears.pipeline.learn(line)
                continue
            (passed.note if line.probe == "klog" else passed.shown)(line)
        ears.pass_time(line.arrival_us - 1)
        if line.seq is not None:
            if line.seq > next_seq:
                ears.take(lost(next_seq, line.seq - 1, line.arrival_us))
            next_seq = line.seq + 1
        ears.take(line)
        if line.seq is not None:
            end = Reached(line.kernel_us, (line.kernel_us or 0) + AHEAD_US)
            ears.revisions += ears.kept(ears.pipeline.reached(end, line.arrival_us))
    ears.pass_time(1_000_000_000)
    return ears


def begin(ears: Heard) -> None:
    ears.pipeline.reached(Reached(None, None), 0)
    ears.pipeline.log_clock(AHEAD_US, 1_000_000)


def faults(ears: Heard) -> list[Event]:
    return [event for event in ears.events() if event.kind is not Kind.GAP and not event.drill]


def told(ears: Heard) -> Counter[object]:
    events = faults(ears)
    return Counter((each.code, each.device, each.count, each.origin, each.severity) for each in events)


def counts(ears: Heard) -> Counter[int | None]:
    found: Counter[int | None] = Counter()
    for event in faults(ears):
        found[event.code] += event.count
    return found


def assert_sound(ears: Heard) -> None:
    """What nobody has proved is a warning at most, and no revision is skipped or told twice."""
    published: dict[str, int] = {}
    for event in ears.revisions:
        assert event.origin == Origin.KERNEL or event.severity.rank <= Severity.WARNING.rank
        assert event.revision == published.get(event.id, 0) + 1
        published[event.id] = event.revision


LAGS = [15_000, 900_000]


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, min_size=1, max_size=8), st.sampled_from(LAGS), st.booleans(), st.integers())
def test_what_the_log_and_ebpf_tell_is_what_the_log_alone_would(
    steps: list[tuple[int, int, str]], late_us: int, has_klog: bool, seed: int
) -> None:
    chance, node = Random(seed), Node(kmsg_late_us=late_us, has_klog=has_klog)
    log = printed(steps, node, chance)
    ears = by_all(log, node, chance)
    assert_sound(ears)
    assert counts(ears) == counts(by_kmsg_alone(log))
    if late_us < 20_000 and not has_klog:
        assert told(ears) == told(by_kmsg_alone(log))


@pytest.mark.parametrize("late_us", LAGS)
@pytest.mark.parametrize("who", ["driver", "facility"])
@settings(max_examples=100, deadline=None)
@given(st.lists(STEPS, min_size=1, max_size=8), st.integers())
def test_whoever_proves_a_line_counts_no_more_and_no_less(
    late_us: int, who: str, steps: list[tuple[int, int, str]], seed: int
) -> None:
    chance = Random(seed)
    node = Node(kmsg_late_us=late_us, has_driver=who == "driver", is_told_facility=who == "facility")
    log = printed(steps, node, chance)
    ears = by_all(log, node, chance)
    assert_sound(ears)
    assert counts(ears) == counts(by_kmsg_alone(log))


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, min_size=1, max_size=8), st.integers())
def test_what_the_log_lost_is_told_once_and_forgeries_among_it_are_warnings(
    steps: list[tuple[int, int, str]], seed: int
) -> None:
    """Equal lines within the tolerance of the clocks may be taken for one where each probe lost one: here
    eBPF loses none."""
    chance, node = Random(seed), Node(is_killed=False, kmsg_loses=True)
    log = printed(steps, node, chance)
    ears, true = by_all(log, node, chance), counts(by_kmsg_alone(log))
    assert_sound(ears)
    found = counts(ears)
    assert all(true[code] <= found[code] <= true[code] + log.forged[code] for code in MESSAGES)
