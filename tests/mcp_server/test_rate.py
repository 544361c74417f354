"""How often a client may ask."""

from __future__ import annotations

import pytest

from daemon.access import Rate
from mcp_server.rate import RateLimit


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_quiet_client_has_ten_seconds_worth_and_then_its_rate() -> None:
    clock = Clock()
    limit = RateLimit(Rate(5, 1), now=clock)
    assert [limit.take("a") for _ in range(50)] == [None] * 50
    assert limit.take("a") == pytest.approx(0.2)
    assert limit.take("b") is None
    clock.now += 0.2
    assert limit.take("a") is None
    assert limit.take("a") is not None
    clock.now += 1_000
    assert [limit.take("a") for _ in range(51)].count(None) == 50


def test_a_refused_request_costs_nothing() -> None:
    clock = Clock()
    limit = RateLimit(Rate(10, 60), now=clock)
    assert [limit.take("a") for _ in range(10)] == [None] * 10
    for _ in range(1_000):
        assert limit.take("a") == pytest.approx(6)
    clock.now += 6
    assert limit.take("a") is None


def test_a_bounded_number_of_clients_is_remembered() -> None:
    limit = RateLimit(Rate(1, 1), most=100)
    for number in range(10_000):
        limit.take(str(number))
    assert len(limit) == 100
