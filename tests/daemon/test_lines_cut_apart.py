"""Lines that were printed together stay together, however late some of them are read."""

from __future__ import annotations

from daemon.event import Process
from daemon.pipeline import Pipeline
from tests.support.records import BOOT, GPU, UUID, Heard, xid

FIRST = xid(13, "Graphics SM Warp Exception on (GPC 1, TPC 4, SM 0): Misaligned Address")
SECOND = xid(13, "Graphics Exception: ESR 0x519730=0x500000f 0x519734=0x0 0x519728=0x1f81fb60")
CLOSING = xid(13, "pid=452, name=fault, Graphics Exception: channel 0x0000000a, Class 0000cbc0")
SECOND_US = 1_000_000


def one_event_of_three_lines(heard: Heard) -> bool:
    heard.pass_time(60 * SECOND_US)
    [event] = heard.events()
    return (event.count, event.process, event.lines) == (1, Process(452, "fault"), (FIRST, SECOND, CLOSING))


def test_a_reader_that_was_held_up_between_two_lines_joins_them() -> None:
    heard = Heard()
    heard.say(FIRST, SECOND_US)
    heard.say(SECOND, SECOND_US + 10, arrival_us=SECOND_US + 300_000)
    heard.say(CLOSING, SECOND_US + 20, arrival_us=SECOND_US + 300_005)
    assert one_event_of_three_lines(heard)


def test_a_restart_between_two_lines_does_not_make_two_faults_of_one() -> None:
    before = Heard()
    before.say(FIRST, SECOND_US)
    pipeline = Pipeline(node="test-node")
    after = Heard(pipeline, real_gpus=())
    after.revisions += before.revisions
    restart_us = 3 * SECOND_US
    after.revisions += pipeline.restore(before.pipeline.snapshot(), boot_id=BOOT, now_us=restart_us)
    after.revisions += pipeline.tick(restart_us)
    # The log is read again from its beginning, and it is long.
    after.say(f"NVRM: GPU at PCI:{GPU}: {UUID}", 0, arrival_us=restart_us + 500_000)
    after.say(SECOND, SECOND_US + 10, arrival_us=restart_us + 500_010)
    after.say(CLOSING, SECOND_US + 20, arrival_us=restart_us + 500_020)
    assert one_event_of_three_lines(after)


def test_a_restart_within_a_fault_of_one_line_of_three_ends_it_all_the_same() -> None:
    before = Heard()
    before.say(FIRST, SECOND_US)
    before.say(SECOND, SECOND_US + 10)
    pipeline = Pipeline(node="test-node")
    after = Heard(pipeline, real_gpus=())
    after.revisions += before.revisions
    after.revisions += pipeline.restore(before.pipeline.snapshot(), boot_id=BOOT, now_us=3 * SECOND_US)
    after.pass_time(60 * SECOND_US)
    [event] = after.events()
    assert (event.revision, event.count, event.lines) == (2, 1, (FIRST, SECOND))
