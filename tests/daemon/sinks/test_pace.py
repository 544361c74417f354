"""How fast a sink sends, and how long it waits after failures."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.sinks.pace import LONGEST_WAIT_S, Backoff, Pace


def test_the_first_go_out_at_once_and_the_next_at_the_rate() -> None:
    pace = Pace(60)
    assert pace.burst == 10
    for _ in range(10):
        assert pace.wait_s(100.0) == 0
        pace.take(100.0)
    assert pace.wait_s(100.0) == pytest.approx(1.0)
    assert pace.wait_s(101.0) == 0
    pace.take(101.0)
    assert pace.wait_s(101.0) == pytest.approx(1.0)


def test_one_a_minute_is_one_a_minute() -> None:
    pace = Pace(1)
    pace.take(0.0)
    assert pace.wait_s(30.0) == pytest.approx(30.0)
    assert pace.wait_s(60.0) == 0


@given(st.integers(1, 600), st.lists(st.floats(0, 30), max_size=300))
def test_no_pattern_of_events_sends_more_than_the_rate_and_one_burst(
    per_minute: int, pauses: list[float]
) -> None:
    pace, now, sent = Pace(per_minute), 0.0, 0
    for pause in pauses:
        now += pause
        if not pace.wait_s(now):
            pace.take(now)
            sent += 1
    assert sent <= pace.burst + now * per_minute / 60 + 1


def test_waits_double_up_to_five_minutes_and_never_fall_together() -> None:
    backoff = Backoff(random.Random(1))
    waits = [backoff.next_wait_s() for _ in range(40)]
    assert 0.5 <= waits[0] <= 1.0
    assert 2.0 <= waits[2] <= 4.0
    assert all(LONGEST_WAIT_S / 2 <= wait <= LONGEST_WAIT_S for wait in waits[10:])
    assert len(set(waits)) == len(waits)
    backoff.reset()
    assert backoff.next_wait_s() <= 1.0


def test_a_receiver_that_asks_for_time_is_given_at_least_that() -> None:
    backoff = Backoff()
    assert backoff.next_wait_s(120.0) == 120.0
    assert backoff.next_wait_s(0.0) >= 1.0
