"""One record of the log that several calls of printk() made: eBPF hears each call, the log shows one text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.event import Event, Severity
from daemon.fragment import beginning, is_fragment, place_of
from daemon.nvml_witness import NvmlEvent, NvmlEventKind
from daemon.pipeline import Pipeline
from probes.line import KernelLine, Origin, Reached
from tests.support.records import BOOT, EPOCH_US, GPU, Heard, record, xid

AHEAD_US = 31_000
"""How far CLOCK_MONOTONIC is ahead of the log's clock in these tests."""
XID = xid(31, "pid=8, name=other, channel 0x0000000a, intr 00000000. MMU Fault: ENGINE GRAPHICS")
BEHIND = f"usb 1-1: new device {XID}"
"""The Xid behind a line that another one had not finished."""
OPTION = f"tmpfs: Unknown parameter '{XID}'"
"""The kernel quotes what a process gave it, in one call."""
SAID = xid(31, "channel 0x0000000a, intr 00000000. MMU Fault: ENGINE GRAPHICS")


def by_bpf(
    text: str, printed_us: int = 1_000_000, *, delay_us: int = 100, origin: Origin = Origin.UNKNOWN
) -> KernelLine:
    stamp = printed_us + AHEAD_US
    return record(text, stamp, arrival_us=stamp + delay_us, origin=origin, probe="bpf")


def by_kmsg(
    text: str,
    printed_us: int = 1_000_000,
    *,
    delay_us: int = 500,
    origin: Origin = Origin.KERNEL,
    seq: int = 360,
) -> KernelLine:
    return record(text, printed_us, arrival_us=printed_us + AHEAD_US + delay_us, origin=origin, seq=seq)


def by_klog(text: str, printed_us: int = 1_000_000) -> KernelLine:
    arrival_us = printed_us + AHEAD_US + 700_000
    return record(text, printed_us, arrival_us=arrival_us, probe="klog")


def by_driver(printed_us: int = 1_000_000) -> KernelLine:
    stamp = printed_us + AHEAD_US + 4
    return record(SAID, stamp, arrival_us=stamp + 160, probe="driver")


def heard(
    *lines: KernelLine, measured: bool = True, allow_drills: bool = False, kmsg_lags: bool = False
) -> list[Event]:
    """The events that come of these, in their last form. `kmsg_lags`: /dev/kmsg is read, but late."""
    ears = Heard(Pipeline(node="test-node", allow_drills=allow_drills))
    if kmsg_lags:
        ears.pipeline.reached(Reached(0, 1), 1)
    if measured:
        ears.pipeline.log_clock(AHEAD_US, 1_000_000)
    for line in sorted(lines, key=lambda each: each.arrival_us):
        ears.pass_time(line.arrival_us - 1)
        ears.take(line)
    ears.pass_time(60_000_000)
    return ears.events()


def told(events: Sequence[Event]) -> list[tuple[int | None, str, Severity, int, list[str]]]:
    return [
        (event.code, event.origin, event.severity, event.count, sorted(w.probe for w in event.witnesses))
        for event in events
    ]


DOUBTED = (31, Origin.UNKNOWN, Severity.WARNING)


@pytest.mark.parametrize("measured", [False, True])
@pytest.mark.parametrize("kmsg_us", [50, 500, 90_000], ids=["before eBPF", "soon", "late"])
def test_a_piece_that_ebpf_heard_is_the_glued_record_of_the_log(measured: bool, kmsg_us: int) -> None:
    events = heard(by_bpf(XID), by_kmsg(BEHIND, 999_950, delay_us=kmsg_us), measured=measured)
    assert told(events) == [(*DOUBTED, 1, ["bpf", "kmsg"])]


def test_it_may_have_been_printed_a_while_after_the_text_before_it() -> None:
    events = heard(by_bpf(XID, 1_003_000), by_kmsg(BEHIND, 1_000_000, delay_us=3_500))
    assert told(events) == [(*DOUBTED, 1, ["bpf", "kmsg"])]


def test_syslog_shows_the_same_record() -> None:
    assert told(heard(by_bpf(XID), by_klog(BEHIND))) == [(*DOUBTED, 1, ["bpf", "klog"])]


@pytest.mark.parametrize("record", [f"{XID}, more of it", f"{XID} usb 1-1: new device"])
def test_a_line_that_was_continued_is_one_event_too_and_the_kernels(record: str) -> None:
    for lines in permutations((by_bpf(XID), by_kmsg(record))):
        [event] = heard(*lines)
        assert (event.origin, event.count, event.lines) == (Origin.KERNEL, 1, (record,))


def test_a_piece_with_text_on_both_sides_is_one_event() -> None:
    assert told(heard(by_bpf(XID), by_kmsg(f"{BEHIND},mems_allowed=0"))) == [(*DOUBTED, 1, ["bpf", "kmsg"])]


def test_repeats_are_joined_one_for_one() -> None:
    times = (1_000_000, 1_010_000, 1_020_000)
    lines = [by_bpf(XID, at_us) for at_us in times]
    lines += [by_kmsg(BEHIND, at_us, seq=n) for n, at_us in enumerate(times)]
    assert told(heard(*lines)) == [(*DOUBTED, 3, ["bpf", "kmsg"])]
    assert told(heard(*lines[:-1])) == [(*DOUBTED, 3, ["bpf", "kmsg"])]


def test_a_true_record_beside_a_glued_one_keeps_its_own_witness() -> None:
    events = heard(
        by_bpf(XID),
        by_bpf(XID, 1_000_100),
        by_kmsg(BEHIND, 999_990, seq=1),
        by_kmsg(XID, 1_000_100, seq=2),
    )
    assert sorted(told(events)) == [
        (31, Origin.KERNEL, Severity.WARNING, 1, ["bpf", "kmsg"]),
        (*DOUBTED, 1, ["bpf", "kmsg"]),
    ]


class TestNobodyRaisesAnAlarmThatWay:
    """The kernel prints names that a process chose by calls of their own, too: a cgroup's behind
    `cpuset=` when memory runs out. Such a piece begins with the marker as one of the driver does."""

    LOST = xid(79, "pid=7, name=fault, GPU has fallen off the bus.")

    def test_a_piece_that_begins_with_the_marker_proves_nothing(self) -> None:
        report = f"oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset={self.LOST},mems_allowed=0"
        for lines in permutations((by_bpf(self.LOST), by_kmsg(report))):
            [event] = heard(*lines)
            assert (event.origin, event.severity, event.count) == (Origin.UNKNOWN, Severity.WARNING, 1)

    def test_text_that_the_kernel_quotes_in_one_call_proves_nothing(self) -> None:
        assert told(heard(by_bpf(OPTION), by_kmsg(OPTION))) == [(*DOUBTED, 1, ["bpf", "kmsg"])]

    def test_a_quoted_copy_of_a_true_line_takes_nothing_from_it(self) -> None:
        """The kernel quotes it so far behind in the line that eBPF does not look there."""
        events = heard(by_bpf(XID), by_kmsg(OPTION, 999_950, seq=1), by_kmsg(XID, seq=2))
        assert (31, Origin.KERNEL, Severity.WARNING, 1, ["kmsg"]) in told(events)
        assert sum(event.count for event in events) == 2

    def test_what_a_process_wrote_in_one_piece_is_forged(self) -> None:
        assert heard(by_bpf(BEHIND), by_kmsg(BEHIND, origin=Origin.USERSPACE)) == []

    def test_a_piece_in_a_record_that_a_process_began_is_not_taken_back(self) -> None:
        """Only the kernel continues a record: what stands there behind a process's text is not that
        process's, and what is in it is nobody's word."""
        events = heard(by_bpf(XID), by_kmsg(BEHIND, origin=Origin.USERSPACE))
        assert told(events) == [(*DOUBTED, 1, ["bpf"])]


class TestProof:
    def test_the_drivers_own_word_proves_a_glued_line(self) -> None:
        for lines in ((by_kmsg(BEHIND),), (by_bpf(XID), by_kmsg(BEHIND))):
            for order in permutations((*lines, by_driver())):
                [event] = heard(*order)
                assert (event.origin, event.count) == (Origin.KERNEL, 1)
                assert event.lines == (SAID,)

    def test_nvml_proves_it_as_it_does_what_only_ebpf_heard(self) -> None:
        ears = Heard()
        ears.pipeline.log_clock(AHEAD_US, 1_000_000)
        ears.take(by_bpf(XID))
        ears.take(by_kmsg(BEHIND, 999_950))
        at_us = 1_040_000 + AHEAD_US
        said = NvmlEvent(NvmlEventKind.XID, 31, f"{GPU}.0", None, at_us, EPOCH_US + at_us, BOOT)
        ears.revisions += ears.kept(ears.pipeline.nvml_said(said))
        ears.pass_time(60_000_000)
        [event] = ears.events()
        assert (event.origin, event.count) == (Origin.KERNEL, 1)
        assert [witness.probe for witness in event.witnesses] == ["bpf", "kmsg", "nvml"]

    def test_a_hook_that_is_told_the_facility_of_the_piece_proves_it_whichever_comes_first(self) -> None:
        piece = by_bpf(XID, origin=Origin.KERNEL)
        for kmsg_us in (50, 500):
            [event] = heard(piece, by_kmsg(BEHIND, 999_950, delay_us=kmsg_us))
            assert (event.origin, event.count, event.lines) == (Origin.KERNEL, 1, (XID,))
            assert {witness.probe for witness in event.witnesses} == {"bpf", "kmsg"}


def test_a_piece_told_before_a_restart_is_the_record_that_the_log_shows_after_it() -> None:
    ears = Heard()
    ears.pipeline.log_clock(AHEAD_US, 1_000_000)
    ears.take(by_bpf(XID))
    ears.pass_time(1_500_000)
    after = Heard()
    after.revisions = [*ears.revisions]
    after.revisions += after.pipeline.restore(ears.pipeline.snapshot(), boot_id=BOOT, now_us=3_000_000)
    after.take(by_kmsg(BEHIND, 999_950, delay_us=2_100_000))
    after.pass_time(60_000_000)
    assert told(after.events()) == [(*DOUBTED, 1, ["bpf", "kmsg"])]


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([XID, xid(79, "pid=7, name=fault, GPU has fallen off the bus.")]),
            st.sampled_from(["", "", "usb 1-1: new device "]),
            st.sampled_from(["", "", ", more"]),
            st.booleans(),
            st.integers(3_000, 40_000),
            st.integers(0, 15_000),
            st.integers(0, 15_000),
        ),
        max_size=10,
    )
)
def test_whatever_is_glued_to_what_both_probes_give_the_events_of_kmsg_alone(
    drawn: list[tuple[str, str, str, bool, int, int, int]],
) -> None:
    """`is_whole`: one call printed all of it."""
    at_us, kmsg, bpf = 1_000_000, [], []
    for n, (text, before, behind, is_whole, after_us, bpf_us, kmsg_us) in enumerate(drawn):
        at_us += after_us
        record_text = f"{before}{text}{behind}"
        kmsg.append(by_kmsg(record_text, at_us - 20, delay_us=20 + kmsg_us, seq=n))
        bpf.append(by_bpf(record_text if is_whole else text, at_us, delay_us=bpf_us))
    both = heard(*in_order(kmsg), *in_order(bpf))
    alone = heard(*in_order(kmsg))
    assert said_by(both) == said_by(alone)
    assert all({witness.probe for witness in event.witnesses} == {"bpf", "kmsg"} for event in both)


def in_order(lines: Sequence[KernelLine]) -> list[KernelLine]:
    """The lines of one probe with arrivals in the order of the log."""
    arrivals = sorted(line.arrival_us for line in lines)
    return [replace(line, arrival_us=at_us) for line, at_us in zip(lines, arrivals, strict=True)]


def said_by(events: Sequence[Event]) -> Sequence[object]:
    return sorted((event.id, event.count, event.origin, event.severity, event.lines) for event in events)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (XID, 0),
        (BEHIND, len("usb 1-1: new device ")),
        (f"NVRM: loading NVRM: not yet {XID}", len("NVRM: loading NVRM: not yet ")),
        (f"{XID} NVRM: Xid (PCI:{GPU}): 45, more", 0),
        ("usb 1-1: NVRM: Xid nonsense", 0),
        ("", 0),
    ],
)
def test_the_place_of_a_fault_in_a_record(text: str, place: int) -> None:
    assert place_of(text) == place


def test_a_piece_is_what_stands_where_the_record_tells_of_its_fault() -> None:
    assert is_fragment(XID, BEHIND)
    assert is_fragment(XID, f"{XID}, more")
    assert not is_fragment(XID, XID)
    assert not is_fragment(BEHIND, f"{BEHIND}, more of it")
    assert not is_fragment("", BEHIND)
    assert beginning(XID) == beginning(BEHIND) == beginning(f"{XID}\nmore")
    assert beginning(XID) != beginning(xid(13, "pid=8"))


def test_a_piece_is_told_by_the_wall_clock_of_its_first_witness() -> None:
    [event] = heard(by_bpf(XID), by_kmsg(BEHIND))
    assert event.time_us == EPOCH_US + 1_000_000 + AHEAD_US + 100


def test_a_line_that_two_probes_say_another_printed_is_two_lines() -> None:
    """The kernel's, glued, which the log shows late, beside a process's of the same text."""
    piece = by_bpf(XID, 1_003_000, origin=Origin.KERNEL)
    forged = by_kmsg(XID, 1_000_000, delay_us=500_000, origin=Origin.USERSPACE, seq=1)
    [event] = heard(piece, forged, by_kmsg(BEHIND, 1_002_980, delay_us=500_000, seq=2))
    assert (event.origin, event.count) == (Origin.KERNEL, 1)
    assert [witness.probe for witness in event.witnesses] == ["bpf", "kmsg"]


def test_a_piece_of_which_the_driver_spoke_keeps_its_record_from_a_forged_copy() -> None:
    lost = xid(79, "pid=7, name=fault, GPU has fallen off the bus.")
    said = record(xid(79, "GPU has fallen off the bus."), 1_031_006, arrival_us=1_031_400, probe="driver")
    copies = (1_000_200, 1_000_250)
    lines = [by_bpf(lost), *(by_bpf(lost, at_us, delay_us=200) for at_us in copies), said]
    shown = [by_kmsg(f"usb 1-1: new device {lost}", 999_980, delay_us=600_000, seq=1)]
    shown += [by_kmsg(lost, at_us, delay_us=700_000, origin=Origin.USERSPACE) for at_us in copies]
    assert sum(event.count for event in heard(*lines, *shown, kmsg_lags=True) if not event.drill) == 1
