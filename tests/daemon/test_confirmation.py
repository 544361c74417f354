"""Promise 5: only the kernel raises an alarm, whichever probes hear a line and in whatever order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from daemon.confirmation import LAGGING_US, PATIENCE_US, STARTING_US
from daemon.event import Event, Kind, Severity
from daemon.pipeline import Pipeline
from probes.klog import LogLine, Look
from probes.line import KernelLine, Origin, Reached
from tests.support.records import BOOT, GPU, Heard, lost, record, xid

AHEAD_US = 31_000
"""How far CLOCK_MONOTONIC is ahead of the log's clock in these tests."""
LOST_GPU = xid(79, "pid=7, name=fault, GPU has fallen off the bus.")
OTHER = xid(31, "pid=8, name=other, channel 0x0000000a, intr 00000000. MMU Fault: ENGINE GRAPHICS")


def by_bpf(text: str, printed_us: int, *, delay_us: int = 100) -> KernelLine:
    """The line as eBPF hears it; all times here are the log's, for a line printed at `printed_us`."""
    stamp = printed_us + AHEAD_US
    return record(text, stamp, arrival_us=stamp + delay_us, origin=Origin.UNKNOWN, probe="bpf")


def by_kmsg(
    text: str, printed_us: int, *, origin: Origin = Origin.KERNEL, delay_us: int = 500, seq: int = 360
) -> KernelLine:
    arrival_us = printed_us + AHEAD_US + delay_us
    return record(text, printed_us, arrival_us=arrival_us, origin=origin, seq=seq)


def by_klog(text: str, printed_us: int, *, origin: Origin = Origin.KERNEL) -> KernelLine:
    arrival_us = printed_us + AHEAD_US + 700_000
    return record(text, printed_us, arrival_us=arrival_us, origin=origin, probe="klog")


def look(*lines: tuple[str, int, Origin]) -> Look:
    shown = [LogLine(origin, kernel_us, text) for text, kernel_us, origin in lines]
    return Look(shown, max((line.kernel_us or 0 for line in shown), default=None))


def heard(*, allow_drills: bool = False) -> Heard:
    return Heard(Pipeline(node="test-node", allow_drills=allow_drills))


def only(ears: Heard) -> Event:
    ears.pass_time(60_000_000)
    [event] = ears.events()
    return event


def witnesses(event: Event) -> list[tuple[str, int]]:
    return [(witness.probe, witness.delay_us) for witness in event.witnesses]


class TestTwoWitnesses:
    def test_a_line_heard_by_ebpf_goes_out_with_the_word_of_the_log(self) -> None:
        ears = heard()
        assert ears.take(by_bpf(LOST_GPU, 1_000_000)) == []
        first, *_ = ears.take(by_kmsg(LOST_GPU, 1_000_000))
        assert (first.origin, first.severity, first.kmsg_seq) == (Origin.KERNEL, Severity.FATAL, 360)
        event = only(ears)
        assert (event.count, event.drill) == (1, False)
        assert witnesses(event) == [("bpf", 0), ("kmsg", 400)]

    def test_a_line_of_the_log_does_not_wait_for_ebpf(self) -> None:
        ears = heard()
        [first] = ears.take(by_kmsg(LOST_GPU, 1_000_000, delay_us=50))
        assert first.severity is Severity.FATAL
        assert ears.take(by_bpf(LOST_GPU, 1_000_000)) == []
        event = only(ears)
        assert event.count == 1
        assert witnesses(event) == [("kmsg", 0), ("bpf", 50)]

    def test_an_event_has_the_same_id_whoever_heard_it_first(self) -> None:
        ids = set()
        for order in permutations((by_bpf(LOST_GPU, 1_000_000), by_kmsg(LOST_GPU, 1_000_000))):
            ears = heard()
            for line in order:
                ears.take(line)
            ids.add(only(ears).id)
        assert len(ids) == 1

    def test_two_real_repeats_stay_two(self) -> None:
        ears = heard()
        for line in (by_bpf, by_bpf, by_kmsg, by_kmsg):
            ears.take(line(LOST_GPU, 1_000_000))
        assert only(ears).count == 2

    def test_a_record_that_another_probe_shows_again_does_not_take_the_place_of_a_repeat(self) -> None:
        ears = heard()
        ears.take(by_kmsg(LOST_GPU, 1_000_000, seq=1))
        ears.take(by_bpf(LOST_GPU, 1_000_000))
        ears.take(by_bpf(LOST_GPU, 1_001_000))
        ears.take(by_klog(LOST_GPU, 1_000_000))
        ears.take(by_kmsg(LOST_GPU, 1_001_000, seq=2, delay_us=700_000))
        assert only(ears).count == 2

    @pytest.mark.parametrize(
        ("apart_us", "count"), [(200, 1), (2_000, 1), (20_000, 2)], ids=["at once", "soon", "later"]
    )
    def test_equal_lines_of_which_each_probe_lost_another_one_are_told_apart_by_time_alone(
        self, apart_us: int, count: int
    ) -> None:
        """So close together they count once; both losses are said all the same."""
        ears = heard()
        ears.pipeline.log_clock(AHEAD_US, 1_000_000)
        ears.take(by_bpf(OTHER, 1_000_000))
        seen_us = 1_000_000 + apart_us + AHEAD_US + 200
        ears.take(lost(360, 360, seen_us))
        ears.take(replace(lost(None, None, seen_us), probe="bpf", count=1))
        ears.take(by_kmsg(OTHER, 1_000_000 + apart_us, seq=361))
        ears.pass_time(60_000_000)
        assert sum(event.count for event in ears.events() if event.code == 31) == count
        gaps = [event for event in ears.events() if event.kind is Kind.GAP]
        assert {event.witnesses[0].probe: event.detail["lost_records"] for event in gaps} == {
            "kmsg": 1,
            "bpf": 1,
        }

    def test_repeats_of_which_each_probe_lost_another_one_stay_two(self) -> None:
        ears = heard()
        ears.take(by_bpf(OTHER, 500_000))
        ears.take(by_kmsg(OTHER, 500_000))  # from it the offset of the clocks is learned
        ears.take(by_bpf(LOST_GPU, 1_000_000))
        ears.take(by_kmsg(LOST_GPU, 1_008_000))
        ears.pass_time(60_000_000)
        about = [event for event in ears.events() if event.code == 79]
        assert sum(event.count for event in about) == 2


class TestWhileKmsgLags:
    """A storm: the reader of /dev/kmsg has not come as far as what eBPF hears."""

    def test_a_line_waits_for_it(self) -> None:
        ears = heard()
        ears.pipeline.reached(Reached(last_us=900_000, end_us=0), 0)
        line = by_bpf(LOST_GPU, 1_000_000)
        ears.take(line)
        assert ears.pass_time(line.arrival_us + 500_000) == []
        [first, *_] = ears.take(by_kmsg(LOST_GPU, 1_000_000, delay_us=600_000))
        assert (first.origin, first.severity) == (Origin.KERNEL, Severity.FATAL)
        assert only(ears).count == 1
        assert ears.pipeline.counters.unconfirmed == 0

    def test_but_not_for_ever(self) -> None:
        ears = heard()
        ears.pipeline.reached(Reached(last_us=900_000, end_us=0), 0)
        line = by_bpf(LOST_GPU, 1_000_000)
        ears.take(line)
        assert ears.pass_time(line.arrival_us + LAGGING_US - 1) == []
        [event] = ears.pass_time(line.arrival_us + LAGGING_US)
        assert event.origin is Origin.UNKNOWN

    def test_while_it_reads_what_was_there_before_a_line_overtakes_nothing_of_it(self) -> None:
        ears = heard()
        ears.pipeline.reached(Reached(last_us=900_000, end_us=None), 0)
        line = by_bpf(LOST_GPU, 20_000_000)
        ears.take(line)
        assert ears.pass_time(line.arrival_us + STARTING_US - 1) == []
        assert len(ears.pass_time(line.arrival_us + STARTING_US)) == 1

    def test_when_it_has_read_everything_printed_until_then_it_will_not_bring_the_line(self) -> None:
        ears = heard()
        line = by_bpf(LOST_GPU, 1_000_000)
        ears.pipeline.reached(Reached(last_us=None, end_us=0), 0)
        ears.take(line)
        now_us = line.arrival_us + PATIENCE_US
        assert ears.pass_time(now_us) == []
        [event] = ears.pipeline.reached(Reached(last_us=900_000, end_us=now_us), now_us + 1)
        assert event.origin is Origin.UNKNOWN

    def test_when_it_has_read_on_behind_the_line_the_line_was_lost_to_it(self) -> None:
        ears = heard()
        ears.pipeline.reached(Reached(last_us=400_000, end_us=0), 0)
        ears.take(by_bpf(OTHER, 500_000))
        ears.take(by_kmsg(OTHER, 500_000))  # from it the offset of the clocks is learned
        line = by_bpf(LOST_GPU, 1_000_000)
        ears.take(line)
        ears.pipeline.reached(Reached(last_us=1_010_000, end_us=0), line.arrival_us + 1)
        assert ears.pass_time(line.arrival_us + PATIENCE_US - 1) == []
        [event] = ears.pass_time(line.arrival_us + PATIENCE_US)
        assert (event.code, event.origin) == (79, Origin.UNKNOWN)

    def test_when_it_stops_hearing_the_line_goes_out_as_soon_as_without_it(self) -> None:
        ears = heard()
        ears.pipeline.reached(Reached(last_us=900_000, end_us=0), 0)
        line = by_bpf(LOST_GPU, 1_000_000)
        ears.take(line)
        ears.pass_time(line.arrival_us + 100_000)
        [event] = ears.pipeline.reached(None, line.arrival_us + 100_000)
        assert event.origin is Origin.UNKNOWN


class TestForgedLines:
    @pytest.mark.parametrize("order", list(permutations(range(3))))
    def test_what_a_process_wrote_is_never_published_as_real(self, order: Sequence[int]) -> None:
        lines = (
            by_bpf(LOST_GPU, 1_000_000),
            by_kmsg(LOST_GPU, 1_000_000, origin=Origin.USERSPACE),
            by_klog(LOST_GPU, 1_000_000, origin=Origin.USERSPACE),
        )
        ears = heard()
        for index in order:
            ears.take(lines[index])
        ears.pass_time(60_000_000)
        assert ears.events() == []
        assert ears.pipeline.counters.forged == 1

    def test_where_drills_are_allowed_it_is_one_drill(self) -> None:
        ears = heard(allow_drills=True)
        ears.take(by_bpf(LOST_GPU, 1_000_000))
        ears.take(by_kmsg(LOST_GPU, 1_000_000, origin=Origin.USERSPACE))
        event = only(ears)
        assert (event.drill, event.origin, event.count) == (True, Origin.USERSPACE, 1)

    def test_a_forged_copy_of_a_true_line_does_not_count(self) -> None:
        ears = heard()
        for n, origin in enumerate((Origin.KERNEL, Origin.USERSPACE)):
            ears.take(by_bpf(LOST_GPU, 1_000_000 + n * 10_000))
            ears.take(by_kmsg(LOST_GPU, 1_000_000 + n * 10_000, origin=origin))
        event = only(ears)
        assert (event.count, event.origin) == (1, Origin.KERNEL)
        assert ears.pipeline.counters.forged == 1

    def test_an_old_true_line_does_not_vouch_for_a_forged_copy(self) -> None:
        ears = heard()
        ears.take(by_kmsg(LOST_GPU, 1_000_000))
        ears.pass_time(20_000_000)
        copy = by_bpf(LOST_GPU, 30_000_000)
        ears.take(copy)
        shown = look(
            (LOST_GPU, 1_000_000, Origin.KERNEL),
            (LOST_GPU, 30_000_000, Origin.USERSPACE),
        )
        _, news = ears.pipeline.looked(shown, copy.arrival_us + 3_000)
        assert news == ()
        assert [event.count for event in ears.events()] == [1]
        assert ears.pipeline.counters.forged == 1

    def test_an_old_line_of_the_log_confirms_nothing_that_was_printed_since(self) -> None:
        ears = heard()
        line = by_bpf(LOST_GPU, 30_000_000)
        ears.take(line)
        shown = Look([LogLine(Origin.KERNEL, 1_000_000, LOST_GPU)], 30_000_000)
        assert ears.pipeline.looked(shown, line.arrival_us + 3_000) == ([], ())
        assert only(ears).origin is Origin.UNKNOWN


class TestOneLook:
    def test_where_kmsg_is_closed_one_look_confirms(self) -> None:
        ears = heard()
        line = by_bpf(LOST_GPU, 1_000_000)
        ears.take(line)
        assert list(ears.pipeline.unconfirmed()) == [LOST_GPU]
        shown = look((LOST_GPU, 1_000_000, Origin.KERNEL))
        news = ears.kept(ears.pipeline.looked(shown, line.arrival_us + 3_000)[1])
        [event] = news
        assert (event.origin, event.severity, witnesses(event)) == (
            Origin.KERNEL,
            Severity.FATAL,
            [("bpf", 0)],
        )
        assert list(ears.pipeline.unconfirmed()) == []

    def test_klog_and_kmsg_are_witnesses_of_what_a_look_confirmed(self) -> None:
        for later in (by_klog, by_kmsg):
            ears = heard()
            line = by_bpf(LOST_GPU, 1_000_000)
            ears.take(line)
            shown = look((LOST_GPU, 1_000_000, Origin.KERNEL))
            ears.revisions += ears.kept(ears.pipeline.looked(shown, line.arrival_us + 3_000)[1])
            ears.take(later(LOST_GPU, 1_000_000))
            event = only(ears)
            assert (event.count, len(event.witnesses)) == (1, 2)

    def test_it_finds_the_line_that_kmsg_brought_as_history(self) -> None:
        ears = heard()
        line = by_bpf(LOST_GPU, 1_000_000)
        ears.take(line)
        ears.take(replace(by_kmsg(LOST_GPU, 1_000_000), wall_is_estimate=True))
        ears.pipeline.looked(look((LOST_GPU, 1_000_000, Origin.KERNEL)), line.arrival_us + 3_000)
        event = only(ears)
        assert (event.count, [witness.probe for witness in event.witnesses]) == (1, ["kmsg", "bpf"])


class TestUnconfirmed:
    def test_a_line_that_the_log_gives_as_history_raises_it_if_it_was_printed_since_ebpf_began(self) -> None:
        ears = heard()
        ears.pipeline.begin_to_confirm(900_000)
        ears.take(by_bpf(LOST_GPU, 1_000_000))
        ears.pass_time(1_100_000)
        ears.take(replace(by_kmsg(LOST_GPU, 900_000, delay_us=400_000, seq=1), wall_is_estimate=True))
        ears.take(replace(by_kmsg(LOST_GPU, 1_000_000, delay_us=400_000, seq=2), wall_is_estimate=True))
        ears.pass_time(60_000_000)
        assert [(event.origin, event.count) for event in ears.events()] == [(Origin.KERNEL, 1)] * 2

    def test_it_goes_out_after_20_ms_as_a_warning_of_unknown_origin(self) -> None:
        ears = heard()
        line = by_bpf(LOST_GPU, 1_000_000)
        ears.take(line)
        assert ears.pass_time(line.arrival_us + PATIENCE_US - 1) == []
        [event] = ears.pass_time(line.arrival_us + PATIENCE_US)
        assert (event.origin, event.severity, event.drill) == (Origin.UNKNOWN, Severity.WARNING, False)
        assert event.incident is None

    def test_a_later_witness_raises_it(self) -> None:
        ears = heard()
        line = by_bpf(LOST_GPU, 1_000_000)
        ears.take(line)
        [before] = ears.pass_time(line.arrival_us + PATIENCE_US)
        [raised, *_] = ears.take(by_kmsg(LOST_GPU, 1_000_000, delay_us=60_000))
        assert (raised.id, raised.origin, raised.severity) == (before.id, Origin.KERNEL, Severity.FATAL)
        event = only(ears)
        assert (event.count, event.kmsg_seq) == (1, 360)
        assert witnesses(event) == [("bpf", 0), ("kmsg", 59_900)]

    def test_a_repeat_after_it_was_raised_is_counted_into_it(self) -> None:
        ears = heard()
        ears.take(by_bpf(LOST_GPU, 1_000_000))
        ears.pass_time(1_100_000)
        ears.take(by_kmsg(LOST_GPU, 1_000_000, delay_us=90_000))
        ears.take(by_kmsg(LOST_GPU, 1_200_000, seq=361))
        ears.take(by_bpf(LOST_GPU, 1_200_000))
        assert only(ears).count == 2

    def test_what_a_process_wrote_is_taken_back(self) -> None:
        ears = heard()
        ears.take(by_bpf(LOST_GPU, 1_000_000))
        ears.pass_time(1_100_000)
        ears.take(by_kmsg(LOST_GPU, 1_000_000, delay_us=90_000, origin=Origin.USERSPACE))
        event = only(ears)
        assert (event.origin, event.drill) == (Origin.USERSPACE, True)
        assert event.severity is Severity.WARNING
        assert ears.pipeline.counters.disproved == 1

    def test_a_proved_line_beside_a_forged_one_says_nothing_of_the_forged_one(self) -> None:
        smuggled = LOST_GPU.replace("GPU has fallen", "call 555-1234, GPU has fallen")
        ears = heard()
        ears.take(by_bpf(smuggled, 1_000_000))
        ears.take(by_bpf(LOST_GPU, 1_005_000))
        ears.pass_time(1_200_000)
        ears.take(by_kmsg(smuggled, 1_000_000, delay_us=190_000, origin=Origin.USERSPACE))
        ears.take(by_kmsg(LOST_GPU, 1_005_000, delay_us=190_000))
        event = only(ears)
        assert (event.origin, event.severity, event.count) == (Origin.KERNEL, Severity.FATAL, 1)
        assert event.lines == (LOST_GPU,)

    def test_what_only_ebpf_heard_in_a_gap_is_kept(self) -> None:
        ears = heard()
        line = by_bpf(LOST_GPU, 1_000_000)
        ears.take(line)
        ears.take(lost(100, 900, line.arrival_us + 1_000))
        ears.take(by_kmsg(OTHER, 1_040_000, seq=901))
        ears.pass_time(60_000_000)
        kinds = {(event.kind, event.code): event for event in ears.events()}
        assert kinds[Kind.XID, 79].origin is Origin.UNKNOWN
        assert kinds[Kind.XID, 31].origin is Origin.KERNEL
        assert kinds[Kind.GAP, None].detail["lost_records"] == 801

    def test_drill_lines_stay_drills(self) -> None:
        ears = heard(allow_drills=True)
        line = by_bpf(f"xidwatch-drill: xid (PCI:{GPU}): 79, pid=7, name=drill, gone", 1_000_000)
        ears.take(line)
        ears.pass_time(1_100_000)
        ears.take(by_kmsg(line.text, 1_000_000, delay_us=90_000, origin=Origin.USERSPACE))
        event = only(ears)
        assert (event.drill, event.count) == (True, 1)


def restarted(ears: Heard, at_us: int, *, allow_drills: bool = False) -> Heard:
    """What the next process hears after kill -9, with the events of the one before."""
    after = heard(allow_drills=allow_drills)
    after.revisions = list(ears.revisions)
    after.revisions += after.pipeline.restore(ears.pipeline.snapshot(), boot_id=BOOT, now_us=at_us)
    return after


class TestARestart:
    """kill -9 after a line went out unconfirmed: the log shows it to the next process."""

    @staticmethod
    def told_and_killed(*lines: KernelLine) -> Heard:
        ears = heard()
        for line in lines:
            ears.take(line)
        ears.pass_time(1_500_000)
        return restarted(ears, 3_000_000)

    def test_the_event_is_raised_in_place(self) -> None:
        ears = self.told_and_killed(by_bpf(LOST_GPU, 1_000_000))
        [before] = ears.events()
        ears.take(by_kmsg(LOST_GPU, 1_000_000, delay_us=2_000_000))
        event = only(ears)
        assert (event.id, event.origin, event.severity) == (before.id, Origin.KERNEL, Severity.FATAL)
        assert event.count == 1

    def test_what_a_process_wrote_is_taken_back(self) -> None:
        ears = self.told_and_killed(by_bpf(LOST_GPU, 1_000_000))
        ears.take(by_kmsg(LOST_GPU, 1_000_000, delay_us=2_000_000, origin=Origin.USERSPACE))
        event = only(ears)
        assert (event.drill, event.origin, event.count) == (True, Origin.USERSPACE, 1)

    def test_a_repeat_that_is_not_among_them_is_news(self) -> None:
        ears = self.told_and_killed(by_bpf(LOST_GPU, 1_000_000))
        for n, printed_us in enumerate((1_000_000, 1_100_000)):
            ears.take(by_kmsg(LOST_GPU, printed_us, delay_us=2_000_000, seq=n))
        assert only(ears).count == 2

    def test_each_of_several_is_recognised_once(self) -> None:
        lines = [by_bpf(LOST_GPU, at_us) for at_us in (1_000_000, 1_000_400, 1_090_000)]
        ears = self.told_and_killed(*lines)
        for n, at_us in enumerate((1_000_000, 1_000_400, 1_090_000, 1_120_000)):
            ears.take(by_kmsg(LOST_GPU, at_us, delay_us=2_000_000, seq=n))
        assert only(ears).count == 4

    def test_two_restarts_are_no_different(self) -> None:
        ears = restarted(self.told_and_killed(by_bpf(LOST_GPU, 1_000_000)), 4_000_000)
        ears.take(by_kmsg(LOST_GPU, 1_000_000, delay_us=3_500_000))
        event = only(ears)
        assert (event.origin, event.count) == (Origin.KERNEL, 1)

    def test_it_is_still_known_when_the_daemon_was_away_for_long(self) -> None:
        ears = restarted(self.told_and_killed(by_bpf(LOST_GPU, 1_000_000)), 900_000_000)
        ears.pass_time(900_500_000)
        ears.take(by_kmsg(LOST_GPU, 1_000_000, delay_us=899_500_000))
        assert [event.count for event in ears.events()] == [1]

    def test_once_the_log_has_shown_it_nothing_is_kept_of_it(self) -> None:
        ears = self.told_and_killed(by_bpf(LOST_GPU, 1_000_000))
        ears.take(by_kmsg(LOST_GPU, 1_000_000, delay_us=2_000_000))
        assert "ahead of the log" in ears.pipeline.take_changes().dropped
        ears = restarted(ears, 4_000_000)
        ears.take(by_kmsg(LOST_GPU, 1_000_900, delay_us=3_000_000))
        assert only(ears).count == 2


_TEXTS = (LOST_GPU, OTHER, xid(13, "pid=9, name=x, Graphics Exception: ESR 0x1=0x2", "0000:1b:00"))


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(_TEXTS),
            st.integers(3_000, 40_000),
            st.sampled_from([Origin.KERNEL, Origin.KERNEL, Origin.USERSPACE]),
            st.integers(0, 15_000),
            st.integers(0, 15_000),
        ),
        max_size=12,
    )
)
def test_any_order_of_the_witnesses_gives_the_events_of_kmsg_alone(
    drawn: list[tuple[str, int, Origin, int, int]],
) -> None:
    """As long as both hear everything within the 20 ms; each of them in the order of the log."""
    kmsg, bpf = read_twice(drawn)
    alone, both = heard(), heard()
    for line in in_order(kmsg):
        alone.pass_time(line.arrival_us)
        alone.take(line)
    for line in sorted([*in_order(kmsg), *in_order(bpf)], key=lambda each: each.arrival_us):
        both.pass_time(line.arrival_us - 1)
        both.take(line)
    for ears in (alone, both):
        ears.pass_time(120_000_000)
    assert told(both) == told(alone)
    assert both.pipeline.counters.forged == alone.pipeline.counters.forged


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(_TEXTS),
            st.integers(3_000, 400_000),
            st.sampled_from([Origin.KERNEL, Origin.KERNEL, Origin.USERSPACE]),
            st.integers(0, 200_000),
            st.integers(0, 200_000),
        ),
        max_size=12,
    )
)
def test_however_late_the_log_is_nothing_forged_stays_and_nothing_true_is_lost(
    drawn: list[tuple[str, int, Origin, int, int]],
) -> None:
    kmsg, bpf = read_twice(drawn)
    true = Counter({text: 0 for text, *_ in drawn})
    true.update(text for text, _, origin, *_ in drawn if origin is Origin.KERNEL)
    ears = heard()
    for line in sorted([*in_order(kmsg), *in_order(bpf)], key=lambda each: each.arrival_us):
        ears.pass_time(line.arrival_us - 1)
        ears.take(line)
    ears.pass_time(120_000_000)
    for event in ears.events():
        assert event.origin is not Origin.KERNEL or all(true[line] for line in event.lines)
    for text, times in true.items():
        proved = [event for event in ears.events() if text in event.lines and event.origin is Origin.KERNEL]
        assert bool(proved) == bool(times)
        assert sum(event.count for event in proved) == times


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(_TEXTS),
            st.integers(3_000, 400_000),
            st.sampled_from([Origin.KERNEL, Origin.KERNEL, Origin.USERSPACE]),
            st.integers(0, 200_000),
            st.integers(0, 200_000),
        ),
        max_size=12,
    ),
    st.integers(1_000_000, 4_000_000),
)
@example(
    # Killed between the proofs of two lines that had gone out as one unproved event.
    [(LOST_GPU, 3_000, Origin.KERNEL, 0, 0)] * 6
    + [(LOST_GPU, 3_000, Origin.KERNEL, 0, 23_001), (LOST_GPU, 3_000, Origin.KERNEL, 0, 20_002)],
    1_075_002,
)
@example(
    # The same where a process had written the second one, and the event had lost its place to another.
    [(LOST_GPU, 3_000, Origin.KERNEL, 0, 0)] * 6
    + [(LOST_GPU, 3_000, Origin.KERNEL, 0, 23_001), (LOST_GPU, 3_000, Origin.USERSPACE, 0, 20_002)],
    1_075_002,
)
def test_kill_9_at_any_moment_changes_no_count(
    drawn: list[tuple[str, int, Origin, int, int]], killed_us: int
) -> None:
    """eBPF does not hear again what it heard before; /dev/kmsg gives what it had not given."""
    kmsg, bpf = read_twice(drawn)
    true = Counter({text: 0 for text, *_ in drawn})
    true.update(text for text, _, origin, *_ in drawn if origin is Origin.KERNEL)
    ears, is_killed = heard(), False
    was_heard = [
        line for line in in_order(bpf) if line.arrival_us < killed_us or (line.kernel_us or 0) > killed_us
    ]
    for line in sorted([*in_order(kmsg), *was_heard], key=lambda each: each.arrival_us):
        if not is_killed and line.arrival_us >= killed_us:
            ears, is_killed = restarted(ears, killed_us), True
            ears.pipeline.begin_to_confirm(killed_us - AHEAD_US)
        ears.pass_time(line.arrival_us - 1)
        ears.take(line)
    ears.pass_time(120_000_000)
    for text, times in true.items():
        proved = [event for event in ears.events() if text in event.lines and event.origin == Origin.KERNEL]
        assert sum(event.count for event in proved) == times
    assert not [event for event in ears.events() if event.origin == Origin.UNKNOWN]


def read_twice(
    drawn: Sequence[tuple[str, int, Origin, int, int]],
) -> tuple[list[KernelLine], list[KernelLine]]:
    """Lines as /dev/kmsg and as eBPF bring them: text, µs since the last one, origin, and after how many µs
    eBPF and /dev/kmsg have it."""
    at_us, kmsg, bpf = 1_000_000, [], []
    for n, (text, after_us, origin, bpf_us, kmsg_us) in enumerate(drawn):
        at_us += after_us
        kmsg.append(by_kmsg(text, at_us, origin=origin, delay_us=kmsg_us, seq=n))
        bpf.append(by_bpf(text, at_us, delay_us=bpf_us))
    return kmsg, bpf


def in_order(lines: Sequence[KernelLine]) -> list[KernelLine]:
    """The lines with arrivals in the order of the log."""
    arrivals = sorted(line.arrival_us for line in lines)
    return [
        record(
            line.text,
            line.kernel_us or 0,
            arrival_us=arrival,
            origin=line.origin,
            seq=line.seq,
            probe=line.probe,
        )
        for line, arrival in zip(lines, arrivals, strict=True)
    ]


def told(ears: Heard) -> Sequence[object]:
    return sorted(
        (event.id, event.code, event.count, event.origin, event.severity, event.lines, event.drill)
        for event in ears.events()
    )


class TestWhereTheLogCannotTell:
    """syslog(2) shows a line that may go on with another record: its origin is unknown there."""

    def test_what_ebpf_hears_too_is_one_event_that_nobody_proved(self) -> None:
        ears = heard()
        ears.take(by_bpf(LOST_GPU, 1_000_000))
        ears.pass_time(1_100_000)
        ears.take(by_klog(LOST_GPU, 1_000_000, origin=Origin.UNKNOWN))
        event = only(ears)
        assert (event.count, event.origin, event.severity) == (1, Origin.UNKNOWN, Severity.WARNING)
        assert [probe for probe, _ in witnesses(event)] == ["bpf", "klog"]

    def test_a_look_that_cannot_tell_confirms_nothing(self) -> None:
        ears = heard()
        ears.take(by_bpf(LOST_GPU, 1_000_000))
        shown = look((LOST_GPU, 1_000_000, Origin.UNKNOWN))
        confirmed, _ = ears.pipeline.looked(shown, 1_000_000 + AHEAD_US + 5_000)
        assert confirmed == []
        [first, *_] = ears.take(by_kmsg(LOST_GPU, 1_000_000, delay_us=8_000))
        assert first.severity is Severity.FATAL

    @pytest.mark.parametrize("with_bpf", [False, True])
    @pytest.mark.parametrize("klog_first", [False, True])
    def test_kmsg_still_proves_it(self, with_bpf: bool, klog_first: bool) -> None:
        ears = heard()
        by_log = [by_kmsg(LOST_GPU, 1_000_000), by_klog(LOST_GPU, 1_000_000, origin=Origin.UNKNOWN)]
        if with_bpf:
            ears.take(by_bpf(LOST_GPU, 1_000_000))
        for line in reversed(by_log) if klog_first else by_log:
            ears.take(line)
        event = only(ears)
        assert (event.count, event.origin, event.severity) == (1, Origin.KERNEL, Severity.FATAL)

    def test_kmsg_still_disproves_it(self) -> None:
        ears = heard(allow_drills=True)
        ears.take(by_klog(LOST_GPU, 1_000_000, origin=Origin.UNKNOWN))
        ears.take(by_kmsg(LOST_GPU, 1_000_000, origin=Origin.USERSPACE))
        event = only(ears)
        assert (event.count, event.drill) == (1, True)


class TestRecordsOfSeveralLines:
    """syslog(2) shows the first line by itself."""

    @pytest.mark.parametrize("looked", [False, True])
    def test_the_first_line_is_the_same_record(self, looked: bool) -> None:
        ears = heard()
        ears.take(by_bpf(f"{LOST_GPU}\nmore", 1_000_000))
        if looked:
            shown = look((LOST_GPU, 1_000_000, Origin.KERNEL))
            ears.revisions += ears.kept(ears.pipeline.looked(shown, 1_000_000 + AHEAD_US + 5_000)[1])
        ears.take(by_klog(LOST_GPU, 1_000_000))
        ears.take(by_kmsg(f"{LOST_GPU}\nmore", 1_000_000, delay_us=900_000))
        event = only(ears)
        assert (event.count, event.severity) == (1, Severity.FATAL)
        assert [probe for probe, _ in witnesses(event)] == ["bpf", "klog", "kmsg"]
