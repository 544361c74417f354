"""From CLOCK_MONOTONIC to the clock of the kernel log, measured or learned."""

from __future__ import annotations

from daemon.log_clock import LogClock

MINUTE_US = 60_000_000


def test_nothing_is_known_before_a_line_was_stamped_with_both() -> None:
    clock = LogClock()
    assert (clock.kernel_us(5_000_000), clock.monotonic_us(5_000_000)) == (None, None)
    clock.learn(5_000_000, 4_000_000)
    assert (clock.kernel_us(6_000_000), clock.monotonic_us(5_000_000)) == (5_000_000, 6_000_000)


def test_what_was_learned_is_given_up_after_a_contradiction_and_what_was_measured_is_not() -> None:
    learned, measured = LogClock(), LogClock()
    learned.learn(5_000_000, 4_000_000)
    measured.measured(5_000_000, 1_000_000)
    for clock in (learned, measured):
        clock.doubt()
    assert learned.kernel_us(6_000_000) is None
    assert measured.kernel_us(6_000_000) == 5_000_000


def test_a_line_corrects_the_offset_only_when_it_was_not_measured_lately() -> None:
    clock = LogClock()
    clock.measured(5_000_000, 1_000_000)
    clock.learn(6_000_000, 5_000_700)
    assert clock.kernel_us(6_000_000) == 5_000_000
    clock.learn(5_000_000 + MINUTE_US, 4_000_700 + MINUTE_US)
    assert clock.kernel_us(6_000_000 + MINUTE_US) == 5_000_700 + MINUTE_US


def test_the_further_away_the_less_sure_and_after_half_an_hour_it_is_not_known() -> None:
    clock = LogClock()
    clock.measured(0, 1_000)
    assert clock.sure_us(0) < clock.sure_us(MINUTE_US) < clock.tolerance_us(MINUTE_US)
    assert clock.kernel_us(31 * MINUTE_US) is None
