"""Refusals are counted all, and told without flooding the log."""

from __future__ import annotations

import pytest

from mcp_server.refused import MOST_REMEMBERED, Reason, Refusals


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_scanner_is_one_line_a_minute_however_fast_it_is(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    refusals = Refusals(now=clock)
    for _ in range(10_000):
        refusals.note(Reason.NO_TOKEN, "10.0.0.9", "GET /metrics: this daemon asks for a token")
    assert len(caplog.records) == 1
    assert "refused 10.0.0.9 (no_token): GET /metrics" in caplog.text
    clock.now = 61
    refusals.note(Reason.NO_TOKEN, "10.0.0.9", "GET /metrics: this daemon asks for a token")
    assert len(caplog.records) == 2
    assert "9999 more of this client" in caplog.text
    assert refusals.counts()[Reason.NO_TOKEN] == refusals.total() == 10_001


def test_many_addresses_are_a_line_a_second_and_are_not_all_remembered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    refusals = Refusals(now=clock)
    for number in range(5_000):
        refusals.note(Reason.HOST, f"2001:db8:{number:x}::/64", "host 'x' is not this daemon")
    assert len(caplog.records) <= 60
    clock.now = 2
    refusals.note(Reason.HOST, "10.0.0.1", "host 'x' is not this daemon")
    assert "of others were not told" in caplog.text
    assert refusals.counts()[Reason.HOST] == 5_001
    assert len(refusals._told) <= MOST_REMEMBERED
