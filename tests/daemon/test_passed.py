"""Which lines without sequence numbers a restart must not tell again."""

from __future__ import annotations

import pytest

from daemon.passed import Passed
from tests.support.records import BOOT, record


def restarted(passed: Passed, *, boot_id: str = BOOT) -> Passed:
    return Passed(boot_id, passed.dump())


def heard(*times_us: int, probe: str = "klog") -> Passed:
    passed = Passed(BOOT, None)
    for at_us in times_us:
        passed.note(record(f"line {at_us}", at_us, probe=probe))
    return passed


def was_done(passed: Passed, at_us: int, *, probe: str = "klog") -> bool:
    return passed.was_done(record(f"line {at_us}", at_us, probe=probe))


def test_what_was_heard_is_done_and_what_comes_later_is_not() -> None:
    after = restarted(heard(1_000_000, 2_000_000))
    assert [was_done(after, at_us) for at_us in (1_000_000, 2_000_000, 2_000_001)] == [True, True, False]


def test_a_line_out_of_order_behind_the_mark_is_not_lost() -> None:
    after = restarted(heard(1_000_000, 2_000_000))
    assert not was_done(after, 1_999_000)


def test_of_two_equal_lines_of_which_one_was_heard_the_other_is_news() -> None:
    after = restarted(heard(2_000_000))
    assert [was_done(after, 2_000_000) for _ in range(2)] == [True, False]


def test_a_line_heard_ahead_of_the_log_is_done_however_far_the_log_has_come() -> None:
    after = restarted(heard(5_000_000, probe="bpf"))
    assert was_done(after, 5_000_000, probe="kmsg")
    assert not was_done(after, 4_000_000, probe="kmsg")


def test_each_probe_shows_a_line_that_is_done_once() -> None:
    after = restarted(heard(2_000_000))
    assert [was_done(after, 2_000_000, probe=probe) for probe in ("kmsg", "klog", "kmsg", "klog")] == [
        True,
        True,
        False,
        False,
    ]


def shown(*times_us: int) -> Passed:
    passed = Passed(BOOT, None)
    for at_us in times_us:
        passed.shown(record(f"line {at_us}", at_us))
    return passed


def test_what_kmsg_had_brought_klog_does_not_tell_again() -> None:
    after = restarted(shown(1_000_000, 2_000_000))
    assert [was_done(after, at_us) for at_us in (1_000_000, 1_999_000, 2_000_000, 2_000_001)] == [
        True,
        False,
        True,
        False,
    ]


def test_what_kmsg_brings_is_known_by_its_number_and_not_by_its_own_mark() -> None:
    after = restarted(shown(1_000_000, 2_000_000))
    assert not was_done(after, 1_000_000, probe="kmsg")


def test_what_kmsg_brings_alone_does_not_press_for_a_copy() -> None:
    passed = shown(1_000_000)
    assert (passed.changed, passed.is_pressing) == (True, False)
    passed.note(record("line", 2_000_000, probe="klog"))
    assert passed.is_pressing
    passed.dump()
    assert (passed.changed, passed.is_pressing) == (False, False)


def test_of_a_record_of_several_lines_the_first_one_tells() -> None:
    passed = Passed(BOOT, None)
    passed.shown(record("line 2000000\nmore", 2_000_000))
    assert was_done(restarted(passed), 2_000_000)


def test_a_storm_within_milliseconds_is_done_as_a_whole() -> None:
    times_us = range(2_000_000, 2_005_000)
    after = restarted(heard(*times_us))
    assert all(was_done(after, at_us) for at_us in times_us)
    assert not was_done(after, 2_005_000)


def test_it_holds_over_several_restarts() -> None:
    after = restarted(restarted(heard(1_000_000, 2_000_000)))
    assert was_done(after, 1_000_000)
    assert was_done(after, 2_000_000)


def test_another_boot_begins_anew() -> None:
    assert not was_done(restarted(heard(1_000_000), boot_id="another"), 1_000_000)


@pytest.mark.parametrize("saved", ["", "[]", "{", '{"boot_id": 1}', f'{{"boot_id": "{BOOT}", "klog": 3}}'])
def test_what_cannot_be_read_is_as_nothing(saved: str) -> None:
    assert not was_done(Passed(BOOT, saved), 1_000_000)
