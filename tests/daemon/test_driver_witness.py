"""The driver's own tracepoint beside the log: one event, delays right, and no two repeats merged."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.driver_witness import LOG_WAIT_US
from daemon.event import Event, Severity
from daemon.pipeline import Pipeline
from probes.line import KernelLine, Origin, Reached
from tests.support.records import BOOT, Heard, record

AHEAD_US = 31_000
"""How far CLOCK_MONOTONIC is ahead of the log's clock in these tests."""
MESSAGE = "channel 0x0000000a, intr 00000000. MMU Fault: ENGINE GRAPHICS"
LOGGED = f"NVRM: Xid (PCI:0000:91:00): 31, pid=446, name=fault, {MESSAGE}"
REPORTED = f"NVRM: Xid (PCI:0000:91:00): 31, {MESSAGE}"


def by_driver(printed_us: int, text: str = REPORTED, *, delay_us: int = 60) -> KernelLine:
    """The driver's word, 4 µs after a line of kernel time `printed_us`."""
    stamp = printed_us + AHEAD_US + 4
    return record(text, stamp, arrival_us=stamp + delay_us, probe="driver")


def by_bpf(printed_us: int, text: str = LOGGED, *, delay_us: int = 50) -> KernelLine:
    stamp = printed_us + AHEAD_US
    return record(text, stamp, arrival_us=stamp + delay_us, origin=Origin.UNKNOWN, probe="bpf")


def by_kmsg(
    printed_us: int,
    text: str = LOGGED,
    *,
    delay_us: int = 500,
    origin: Origin = Origin.KERNEL,
    seq: int = 360,
) -> KernelLine:
    arrival_us = printed_us + AHEAD_US + delay_us
    return record(text, printed_us, arrival_us=arrival_us, origin=origin, seq=seq)


def witnesses(event: Event) -> dict[str, int]:
    return {witness.probe: witness.delay_us for witness in event.witnesses}


def in_order(lines: list[KernelLine]) -> list[KernelLine]:
    """The lines of one probe with arrivals in the order of the log."""
    arrivals = sorted(line.arrival_us for line in lines)
    return [replace(line, arrival_us=at_us) for line, at_us in zip(lines, arrivals, strict=True)]


def only(ears: Heard) -> Event:
    ears.pass_time(60_000_000)
    [event] = ears.events()
    return event


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_three_witnesses_in_any_order_are_one_event(order: tuple[int, ...]) -> None:
    ears = Heard()
    lines = (by_bpf(1_000_000), by_kmsg(1_000_000), by_driver(1_000_000))
    for index in order:
        ears.take(lines[index])
    event = only(ears)
    assert (event.count, event.origin, event.lines) == (1, Origin.KERNEL, (LOGGED,))
    assert set(witnesses(event)) == {"bpf", "kmsg", "driver"}
    assert event.process is not None
    assert event.process.pid == 446


def test_the_delays_are_those_to_the_first_witness() -> None:
    ears = Heard()
    for line in (by_bpf(1_000_000), by_kmsg(1_000_000), by_driver(1_000_000, delay_us=3_000)):
        ears.take(line)
    assert witnesses(only(ears)) == {"bpf": 0, "kmsg": 450, "driver": 2_954}


def test_two_real_repeats_stay_two() -> None:
    ears = Heard()
    for printed_us in (1_000_000, 1_000_900):
        ears.take(by_kmsg(printed_us, delay_us=50, seq=printed_us))
        ears.take(by_driver(printed_us))
    assert only(ears).count == 2


def test_repeats_of_which_the_log_lost_one_are_both_counted() -> None:
    ears = Heard()
    ears.take(by_driver(1_000_000))
    ears.take(by_kmsg(1_000_000, seq=1))
    ears.take(by_driver(1_500_000))
    ears.pass_time(60_000_000)
    # Of the second nobody knows the pid, so it may be another process's.
    assert [(event.count, event.process is None) for event in ears.events()] == [(1, False), (1, True)]
    assert ears.pipeline.counters.driver_alone == 1


def test_with_the_log_switched_off_it_stands_alone_and_is_proved() -> None:
    ears = Heard()
    report = by_driver(1_000_000, REPORTED.replace(": 31,", ": 79,"))
    assert ears.take(report) == []
    assert ears.pass_time(report.arrival_us + LOG_WAIT_US - 1) == []
    [event] = ears.pass_time(report.arrival_us + LOG_WAIT_US)
    assert (event.code, event.origin, event.severity) == (79, Origin.KERNEL, Severity.FATAL)
    assert (witnesses(event), event.process) == ({"driver": 0}, None)


def test_a_line_that_the_log_shows_after_that_completes_the_event() -> None:
    ears = Heard()
    ears.take(by_driver(1_000_000))
    ears.pass_time(1_100_000)
    ears.take(by_kmsg(1_000_000, delay_us=200_000))
    event = only(ears)
    assert (event.count, event.lines) == (1, (LOGGED,))
    assert event.process is not None
    assert event.process.pid == 446
    assert list(witnesses(event)) == ["driver", "kmsg"]


def test_after_a_restart_the_log_shows_it_and_it_is_not_told_again() -> None:
    before = Heard()
    before.take(by_driver(1_000_000))
    before.pass_time(1_100_000)
    ears = Heard()
    ears.revisions = list(before.revisions)
    ears.pipeline.restore(before.pipeline.snapshot(), boot_id=BOOT, now_us=2_000_000)
    ears.take(by_kmsg(1_000_000, delay_us=1_500_000))
    assert only(ears).count == 1


def test_it_proves_what_only_ebpf_heard() -> None:
    ears = Heard()
    ears.take(by_bpf(1_000_000, LOGGED.replace(": 31,", ": 79,")))
    [event] = ears.take(by_driver(1_000_000, REPORTED.replace(": 31,", ": 79,")))
    assert (event.origin, event.severity) == (Origin.KERNEL, Severity.FATAL)
    assert only(ears).count == 1
    assert ears.pipeline.counters.unconfirmed == 0


def test_it_raises_what_had_gone_out_unconfirmed() -> None:
    ears = Heard()
    ears.take(by_bpf(1_000_000, LOGGED.replace(": 31,", ": 79,")))
    ears.pass_time(1_100_000)
    ears.take(by_driver(1_000_000, REPORTED.replace(": 31,", ": 79,"), delay_us=90_000))
    event = only(ears)
    assert (event.origin, event.severity, event.count) == (Origin.KERNEL, Severity.FATAL, 1)


def test_it_does_not_vouch_for_a_line_of_another_device_or_code() -> None:
    for forged in (LOGGED.replace("91:00", "1b:00"), LOGGED.replace(": 31,", ": 79,")):
        ears = Heard()
        ears.take(by_bpf(1_000_000, forged))
        ears.take(by_driver(1_000_000))
        ears.pass_time(60_000_000)
        origins = {event.origin for event in ears.events() if forged in event.lines}
        assert origins == {Origin.UNKNOWN}


def test_what_a_process_wrote_is_forged_whatever_the_driver_says() -> None:
    ears = Heard()
    ears.take(by_kmsg(1_000_000, origin=Origin.USERSPACE, seq=1))
    ears.take(by_driver(1_000_400))
    ears.take(by_kmsg(1_000_400, seq=2))
    event = only(ears)
    assert (event.count, set(witnesses(event))) == (1, {"kmsg", "driver"})
    assert ears.pipeline.counters.forged == 1


def test_an_sxid_is_matched_without_the_number_of_the_switch() -> None:
    ears = Heard()
    rest = "SXid (PCI:0000:a9:00.0): 20034, Fatal, Link 30 LTSSM Fault Up (First)"
    ears.take(by_kmsg(1_000_000, f"nvidia-nvswitch3: {rest}"))
    ears.take(by_driver(1_000_000, f"nvidia-nvswitch: {rest}"))
    event = only(ears)
    assert (event.kind, event.count, set(witnesses(event))) == ("sxid", 1, {"kmsg", "driver"})


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.integers(10, 40_000), *[st.integers(0, 15_000)] * 3), max_size=10))
def test_any_order_of_the_three_counts_each_line_once(drawn: list[tuple[int, int, int, int]]) -> None:
    at_us = 1_000_000
    heard: dict[str, list[KernelLine]] = {"bpf": [], "kmsg": [], "driver": []}
    for n, (after_us, bpf_us, kmsg_us, driver_us) in enumerate(drawn):
        at_us += 3_000 + after_us
        heard["bpf"].append(by_bpf(at_us, delay_us=bpf_us))
        heard["kmsg"].append(by_kmsg(at_us, delay_us=kmsg_us, seq=n))
        heard["driver"].append(by_driver(at_us, delay_us=driver_us))
    ears = Heard(Pipeline(node="test-node"))
    ears.pipeline.reached(Reached(None, None), 0)
    every = [line for lines in heard.values() for line in in_order(lines)]
    for line in sorted(every, key=lambda line: line.arrival_us):
        ears.pass_time(line.arrival_us - 1)
        ears.take(line)
    ears.pass_time(60_000_000)
    assert sum(event.count for event in ears.events()) == len(drawn)
    assert {event.origin for event in ears.events()} <= {Origin.KERNEL}
