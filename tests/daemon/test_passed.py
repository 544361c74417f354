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


def was_done(passed: Passed, at_us: int, *, by_mark: bool = True) -> bool:
    return passed.was_done(record(f"line {at_us}", at_us, probe="klog"), by_mark=by_mark)


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
    assert was_done(after, 5_000_000, by_mark=False)
    assert not was_done(after, 4_000_000, by_mark=False)


def test_it_holds_over_several_restarts() -> None:
    after = restarted(restarted(heard(1_000_000, 2_000_000)))
    assert was_done(after, 1_000_000)
    assert was_done(after, 2_000_000)


def test_another_boot_begins_anew() -> None:
    assert not was_done(restarted(heard(1_000_000), boot_id="another"), 1_000_000)


@pytest.mark.parametrize("saved", ["", "[]", "{", '{"boot_id": 1}', f'{{"boot_id": "{BOOT}", "near": 3}}'])
def test_what_cannot_be_read_is_as_nothing(saved: str) -> None:
    assert not was_done(Passed(BOOT, saved), 1_000_000)
