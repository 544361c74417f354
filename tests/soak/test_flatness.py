"""What counts as flat: a slope that a few outliers do not move, and a step that no slope shows."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.soak.flatness import judge, slope, windows

CHANCE = random.Random(7)
NOISE = [CHANCE.gauss(0, 20) for _ in range(600)]


def test_the_slope_is_that_of_the_line_whatever_a_third_of_the_points_say() -> None:
    line = [(float(x), 5.0 + 2.0 * x) for x in range(60)]
    spoilt = [(x, 1e6 if i % 4 == 0 else y) for i, (x, y) in enumerate(line)]
    assert slope(line) == pytest.approx(2.0)
    assert slope(spoilt) == pytest.approx(2.0)


def test_points_of_one_moment_have_no_slope() -> None:
    assert slope([(1.0, 2.0), (1.0, 9.0)]) == 0.0
    assert slope([]) == 0.0


def test_noise_is_flat_and_a_creep_within_it_is_found() -> None:
    level = [(x * 5.0, 90_000 + noise) for x, noise in enumerate(NOISE)]
    creep = [(x * 5.0, 90_000 + noise + x) for x, noise in enumerate(NOISE)]
    assert judge("rss", level, 100).is_flat
    found = judge("rss", creep, 100)
    assert not found.is_flat
    assert found.growth == pytest.approx(400, rel=0.1)  # of 600, in the two thirds that are judged


def test_what_fills_in_the_first_third_is_not_held_against_it() -> None:
    filling = [(float(x), min(x, 200)) for x in range(600)]
    assert judge("rss", filling, 1).is_flat


def test_a_step_is_found_that_hardly_moves_the_slope() -> None:
    step = [(float(x), 0.0 if x < 450 else 50.0) for x in range(600)]
    assert not judge("rss", step, 10).is_flat


def test_one_spike_is_shown_and_breaks_nothing() -> None:
    spike = [(float(x), 1e6 if x == 300 else 10.0) for x in range(600)]
    found = judge("rss", spike, 1)
    assert found.is_flat
    assert found.highest == 1e6


def test_too_few_samples_say_nothing() -> None:
    with pytest.raises(ValueError, match="too few"):
        judge("rss", [(float(x), 1.0) for x in range(5)], 1)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=500))
def test_windows_keep_the_order_and_stay_within_the_values(values: list[float]) -> None:
    series = [(float(x), y) for x, y in enumerate(values)]
    found = windows(series, 60)
    assert len(found) <= 60
    assert [x for x, _ in found] == sorted(x for x, _ in found)
    assert all(min(values) <= y <= max(values) for _, y in found)
