"""What eBPF heard while /dev/kmsg lost records is said in the gap event, exactly."""

from __future__ import annotations

from dataclasses import replace

from daemon.event import Event, Kind
from probes.klog import LogLine, Look
from probes.line import KernelLine, Origin, Reached
from tests.support.records import BOOT, Heard, lost, record, xid

AHEAD_US = 31_000


def fault(pid: int) -> str:
    return xid(31, f"pid={pid}, name=x, channel 0x0000000a")


def by_bpf(text: str, printed_us: int) -> KernelLine:
    stamp = printed_us + AHEAD_US
    return record(text, stamp, arrival_us=stamp + 100, origin=Origin.UNKNOWN, probe="bpf")


def by_kmsg(text: str, printed_us: int, seq: int) -> KernelLine:
    return record(text, printed_us, arrival_us=printed_us + AHEAD_US + 5_000, seq=seq)


def reached(ears: Heard, last_us: int, *, end: bool) -> None:
    now_us = last_us + AHEAD_US + 6_000
    news = ears.pipeline.reached(Reached(last_us, now_us if end else None), now_us)
    ears.revisions += ears.kept(news)


def gaps(ears: Heard) -> list[Event]:
    ears.pass_time(60_000_000)
    return [event for event in ears.events() if event.kind is Kind.GAP]


def caught_up() -> Heard:
    """A pipeline whose log has been read to its end, and that knows the offset of the clocks."""
    ears = Heard()
    ears.take(by_bpf(fault(1), 500_000))
    ears.take(by_kmsg(fault(1), 500_000, 99))
    reached(ears, 500_000, end=True)
    return ears


def shown(ears: Heard, pid: int, printed_us: int) -> None:
    """A look at the log shows the line before it is lost."""
    look = Look([LogLine(Origin.KERNEL, printed_us, fault(pid))], printed_us)
    ears.revisions += ears.kept(ears.pipeline.looked(look, printed_us + AHEAD_US + 200)[1])


def test_lines_that_only_ebpf_heard_in_a_gap_are_counted_in_it() -> None:
    ears = caught_up()
    for pid, printed_us in ((7, 1_000_000), (8, 1_001_000), (9, 1_030_000)):
        ears.take(by_bpf(fault(pid), printed_us))
        shown(ears, pid, printed_us)
    ears.take(lost(100, 900, 1_020_000 + AHEAD_US))
    ears.take(by_kmsg(fault(9), 1_030_000, 901))
    reached(ears, 1_030_000, end=True)
    [gap] = gaps(ears)
    assert gap.detail["recovered"] == ears.pipeline.counters.recovered == 2
    assert gap.summary.endswith("; 2 of the lost lines told of faults, and were heard through eBPF")
    assert gap.detail["lost_records"] == 801
    pids = {event.process.pid for event in ears.events() if event.process is not None}
    assert pids == {1, 7, 8, 9}


def test_a_line_that_a_look_had_confirmed_is_recovered_too() -> None:
    ears = caught_up()
    line = by_bpf(fault(7), 1_000_000)
    ears.take(line)
    ears.pipeline.looked(Look([LogLine(Origin.KERNEL, 1_000_000, fault(7))], 1_000_000), line.arrival_us + 1)
    ears.take(lost(100, 900, 1_020_000 + AHEAD_US))
    reached(ears, 1_030_000, end=False)
    [gap] = gaps(ears)
    assert gap.detail["recovered"] == 1
    assert gap.summary.endswith("; one of the lost lines told of a fault, and was heard through eBPF")


def test_lines_of_which_nobody_can_show_who_printed_them_are_told_apart() -> None:
    ears = caught_up()
    for pid, printed_us in ((7, 1_000_000), (8, 1_001_000), (9, 1_002_000)):
        ears.take(by_bpf(fault(pid), printed_us))
        if pid == 7:
            shown(ears, pid, printed_us)
    ears.take(lost(100, 900, 1_020_000 + AHEAD_US))
    reached(ears, 1_030_000, end=True)
    ears.take(lost(901, 950, 1_040_000 + AHEAD_US))
    [gap] = gaps(ears)
    assert (gap.detail["recovered"], gap.detail["recovered_unproved"]) == (1, 2)
    counters = ears.pipeline.counters
    assert (counters.recovered, counters.recovered_unproved) == (1, 2)
    assert gap.summary.endswith(
        "; one of the lost lines told of a fault, and was heard through eBPF"
        "; 2 lost lines that read like faults were heard through eBPF, "
        "and nobody can show that the kernel printed that"
    )


def test_a_line_that_kmsg_brought_is_not() -> None:
    ears = caught_up()
    ears.take(by_bpf(fault(7), 1_000_000))
    ears.take(by_kmsg(fault(7), 1_000_000, 100))
    ears.take(lost(101, 900, 1_020_000 + AHEAD_US))
    reached(ears, 1_030_000, end=True)
    [gap] = gaps(ears)
    assert "recovered" not in gap.detail
    assert ears.pipeline.counters.recovered == 0


def test_neither_is_one_that_was_printed_before_the_loss_or_after_it() -> None:
    ears = caught_up()
    ears.take(by_bpf(fault(7), 400_000))
    ears.take(lost(100, 900, 1_020_000 + AHEAD_US))
    ears.take(by_bpf(fault(8), 1_040_000))
    reached(ears, 1_200_000, end=True)
    ears.pass_time(2_000_000)
    reached(ears, 1_300_000, end=True)
    [gap] = gaps(ears)
    assert "recovered" not in gap.detail


def test_while_the_log_may_yet_show_the_line_nothing_is_said() -> None:
    ears = caught_up()
    ears.take(lost(100, 900, 1_000_500 + AHEAD_US))
    ears.take(by_bpf(fault(7), 1_000_000))
    reached(ears, 999_000, end=False)
    assert ears.pipeline.counters.recovered == 0
    ears.take(by_kmsg(fault(7), 1_000_000, 901))
    reached(ears, 1_000_000, end=True)
    assert ears.pipeline.counters.recovered == 0


def test_the_count_grows_with_the_storm() -> None:
    ears = caught_up()
    for n in range(3):
        printed_us = 1_000_000 + n * 200_000
        ears.take(by_bpf(fault(100 + n), printed_us))
        shown(ears, 100 + n, printed_us)
        ears.take(lost(100 + n * 100, 150 + n * 100, printed_us + 1_000 + AHEAD_US))
        reached(ears, printed_us + 50_000, end=True)
    [gap] = gaps(ears)
    assert (gap.detail["recovered"], gap.detail["lost_records"]) == (3, 153)


def test_a_gap_of_another_probe_says_nothing_of_it() -> None:
    ears = caught_up()
    ears.take(by_bpf(fault(7), 1_000_000))
    ears.take(replace(lost(None, None, 1_020_000 + AHEAD_US), probe="bpf", count=5))
    reached(ears, 1_030_000, end=True)
    [gap] = gaps(ears)
    assert "recovered" not in gap.detail


def test_a_line_that_was_proved_before_a_restart_is_recovered_as_proved() -> None:
    ears = caught_up()
    ears.take(replace(by_bpf(fault(7), 1_000_000), origin=Origin.KERNEL))
    after = Heard()
    saved = ears.pipeline.snapshot()
    after.revisions += after.pipeline.restore(saved, boot_id=BOOT, now_us=1_010_000 + AHEAD_US)
    after.pipeline.log_clock(AHEAD_US, 1_000_000)
    after.take(lost(100, 900, 1_020_000 + AHEAD_US))
    reached(after, 1_100_000, end=True)
    counters = after.pipeline.counters
    assert (counters.recovered, counters.recovered_unproved) == (1, 0)
