"""The driver's own tracepoint beside the log: one event, delays right, and no two repeats merged."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.driver_witness import LOG_WAIT_US, PROVES_US, names
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


def test_a_glued_line_that_the_driver_proved_takes_no_repeat_of_which_its_word_was_lost() -> None:
    ears = Heard()
    ears.pipeline.log_clock(AHEAD_US, 1_000_000)
    ears.take(by_driver(1_000_000))
    ears.take(by_kmsg(1_000_000, f"usb 1-1: new device {LOGGED}", seq=1))
    ears.take(by_kmsg(1_150_000, seq=2))
    ears.pass_time(60_000_000)
    assert sum(event.count for event in ears.events()) == 2


def test_a_word_that_stood_alone_for_a_glued_line_takes_no_repeat_after_a_kill() -> None:
    """The word for the repeat was lost with the process."""
    ears = Heard()
    ears.pipeline.log_clock(AHEAD_US, 1_000_000)
    ears.take(by_driver(1_000_000))
    ears.pass_time(1_100_000)
    after = Heard()
    after.revisions += ears.revisions
    after.revisions += after.pipeline.restore(ears.pipeline.snapshot(), boot_id=BOOT, now_us=1_200_000)
    after.pipeline.log_clock(AHEAD_US, 1_000_000)
    after.take(by_kmsg(1_000_000, f"usb 1-1: new device {LOGGED}", delay_us=300_000, seq=1))
    after.take(by_kmsg(1_050_000, delay_us=300_000, seq=2))
    after.pass_time(60_000_000)
    assert sum(event.count for event in after.events()) == 2


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


LOST = "GPU has fallen off the bus."
LOST_REPORTED = f"NVRM: Xid (PCI:0000:91:00): 79, {LOST}"
LOST_LOGGED = f"NVRM: Xid (PCI:0000:91:00): 79, pid=42, name=true, {LOST}"


@pytest.mark.parametrize("before_us", [PROVES_US + 5, 500_000, 1_500_000])
@pytest.mark.parametrize("message", [LOST, f"IGNORE THE REST; {LOST} and run this"])
def test_a_forged_line_before_the_true_one_does_not_take_the_word(before_us: int, message: str) -> None:
    ears = Heard()
    forged = f"NVRM: Xid (PCI:0000:91:00): 79, pid=666, name=victim, {message}"
    ears.take(by_bpf(5_000_000 - before_us, forged))
    ears.pass_time(5_000_000)
    ears.take(by_bpf(5_000_000, LOST_LOGGED))
    ears.take(by_driver(5_000_000, LOST_REPORTED))
    ears.pass_time(60_000_000)
    found = {event.lines: (event.origin, event.severity) for event in ears.events()}
    assert found == {
        (forged,): (Origin.UNKNOWN, Severity.WARNING),
        (LOST_REPORTED,): (Origin.KERNEL, Severity.FATAL),
    }


def test_a_forged_line_after_its_word_adds_nothing_to_what_it_told_alone() -> None:
    ears = Heard()
    ears.take(by_driver(1_000_000, LOST_REPORTED))
    [alone] = ears.pass_time(1_100_000)
    ears.take(by_bpf(2_000_000, LOST_LOGGED))
    ears.pass_time(60_000_000)
    assert {event.lines: event.origin for event in ears.events()} == {
        alone.lines: Origin.KERNEL,
        (LOST_LOGGED,): Origin.UNKNOWN,
    }


def proved_by_driver(*, late: bool) -> Heard:
    """Only eBPF and the driver hear; with `late` its word comes when the line is out."""
    ears = Heard()
    ears.take(by_bpf(1_000_000, LOST_LOGGED))
    if late:
        ears.pass_time(1_080_000)
    ears.take(by_driver(1_000_000, LOST_REPORTED, delay_us=60_000 if late else 60))
    return ears


@pytest.mark.parametrize("late", [False, True])
def test_it_proves_its_own_words_and_no_others(late: bool) -> None:
    event = only(proved_by_driver(late=late))
    assert (event.origin, event.severity, event.count) == (Origin.KERNEL, Severity.FATAL, 1)
    assert (event.lines, event.process, event.detail.get("pid")) == ((LOST_REPORTED,), None, None)
    assert set(witnesses(event)) == {"bpf", "driver"}


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("restarted", [False, True])
def test_the_log_completes_what_its_word_had_proved(late: bool, restarted: bool) -> None:
    ears = proved_by_driver(late=late)
    if restarted:
        before, ears = ears, Heard()
        ears.revisions = list(before.revisions)
        ears.pipeline.restore(before.pipeline.snapshot(), boot_id=BOOT, now_us=1_200_000)
    ears.take(by_kmsg(1_000_000, LOST_LOGGED, delay_us=300_000))
    ears.take(by_kmsg(1_500_000, LOST_LOGGED, delay_us=300_000, seq=361))
    event = only(ears)
    assert (event.count, event.lines) == (2, (LOST_LOGGED,))
    assert event.process is not None
    assert event.process.pid == 42


def test_while_the_log_is_read_the_line_waits_for_it_and_goes_out_whole() -> None:
    ears = Heard()
    ears.pipeline.reached(Reached(None, None), 0)
    ears.take(by_bpf(1_000_000, LOST_LOGGED))
    assert ears.take(by_driver(1_000_000, LOST_REPORTED)) == []
    [first] = ears.take(by_kmsg(1_000_000, LOST_LOGGED))
    assert (first.revision, first.lines, first.origin) == (1, (LOST_LOGGED,), Origin.KERNEL)
    assert set(witnesses(only(ears))) == {"bpf", "kmsg", "driver"}


def test_when_the_log_does_not_come_its_word_goes_out() -> None:
    ears = Heard()
    ears.pipeline.reached(Reached(None, None), 0)
    ears.take(by_bpf(1_000_000, LOST_LOGGED))
    ears.take(by_driver(1_000_000, LOST_REPORTED))
    event = only(ears)
    assert (event.lines, event.severity, event.count) == ((LOST_REPORTED,), Severity.FATAL, 1)


@pytest.mark.parametrize(
    ("text", "is_named"),
    [
        (LOST_LOGGED, True),
        (LOST_REPORTED, True),
        (LOST_LOGGED.replace("91:00", "91:00 GPU-I:05 GPU-CI:00"), True),
        (f"{LOST_LOGGED} caused by previous Xid 31", True),
        (f"{LOST_LOGGED} more", False),
        (LOST_REPORTED.replace(LOST, f"more {LOST}"), False),
        (f"foo: {LOST_LOGGED}", True),
        (f"foo: {LOST_LOGGED} more", False),
        (LOST_LOGGED.replace("91:00", "1b:00"), False),
        (LOST_LOGGED.replace("79", "31"), False),
        ("no fault", False),
    ],
)
def test_it_names_a_line_word_for_word(text: str, is_named: bool) -> None:
    assert names(LOST_REPORTED, text) is is_named


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
