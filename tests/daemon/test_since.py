"""Cursors, durations and times, told apart."""

from __future__ import annotations

import pytest

from daemon.since import Since, parse_since
from probes.errors import UserError

NOW_US = 1_795_346_406_000_000


@pytest.mark.parametrize(
    ("text", "since"),
    [
        ("1769079606995", Since(1769079606995)),
        ("0", Since(0)),
        ("15m", Since(0, NOW_US - 900_000_000)),
        ("1.5 h", Since(0, NOW_US - 5_400_000_000)),
        ("2026-11-22T11:20:00Z", Since(0, 1_795_346_400_000_000)),
    ],
)
def test_each_form_is_understood(text: str, since: Since) -> None:
    assert parse_since(text, now_us=NOW_US) == since


@pytest.mark.parametrize("text", ["", "yesterday", "-1h", "5 parsecs", "9" * 30, "\x1b[31m", "²"])
def test_anything_else_is_refused_by_its_name(text: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_since(text, now_us=NOW_US, name="--since")
    assert "\x1b" not in refused.value.message


def test_the_error_says_where_it_stood() -> None:
    with pytest.raises(UserError, match=r"^--since: 'soon'"):
        parse_since("soon", now_us=NOW_US, name="--since")


@pytest.mark.parametrize("text", ["36500d", "1900-01-01"])
def test_a_time_before_the_epoch_asks_for_everything_there_is(text: str) -> None:
    assert parse_since(text, now_us=NOW_US) == Since(0, 1)
