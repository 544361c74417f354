"""Wall times of saved logs: years and zones that are not written down."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.replay.timestamps import Assumptions, Stamps


def us(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1_000_000)


def stamps(
    written: str = "2026-03-01T12:00:00Z",
    *,
    zone: tzinfo = UTC,
    given: bool = True,
    year: int | None = None,
    assumed: Assumptions | None = None,
) -> Stamps:
    return Stamps(
        zone=zone, zone_is_given=given, year=year, written_us=us(written), assumed=assumed or Assumptions()
    )


@pytest.mark.parametrize(
    ("stamp", "expected", "estimate"),
    [
        ("Feb 28 14:56:44 ", "2026-02-28T14:56:44Z", True),
        ("Dec 31 23:59:59 ", "2025-12-31T23:59:59Z", True),
        ("Feb 29 10:00:00 ", "2024-02-29T10:00:00Z", True),
        ("Mar  2 11:00:00 ", "2026-03-02T11:00:00Z", True),  # within a day of the file: zones differ
        ("Nov 22 2024 14:56:44 ", "2024-11-22T14:56:44Z", False),
        ("Sat Oct 12 18:35:32 2024", "2024-10-12T18:35:32Z", False),
        ("2025-01-17T17:39:30+0200", "2025-01-17T15:39:30Z", False),
        ("2025-01-17T17:39:30.123456-07:00", "2025-01-18T00:39:30.123456Z", False),
        ("2024-11-15T05:39:15,491363+00:00", "2024-11-15T05:39:15.491363Z", False),
        ("2024-11-21 16:50:10 UTC", "2024-11-21T16:50:10Z", False),
        ("2024-11-21 16:50:10.123456 CEST", "2024-11-21T16:50:10.123456Z", True),
        ("kwi 15 07:56:59 ", "2025-04-15T07:56:59Z", True),
        ("11月 22 14:56:44 ", "2025-11-22T14:56:44Z", True),
    ],
)
def test_a_time_is_read_and_what_was_guessed_is_said(stamp: str, expected: str, estimate: bool) -> None:
    time = stamps().read(stamp)
    assert time is not None
    assert (time.us, time.is_estimate) == (us(expected), estimate)


def test_a_given_year_goes_on_when_the_calendar_turns() -> None:
    reader = stamps(year=2023)
    times = [reader.read(stamp) for stamp in ("Dec 30 10:00:00 ", "Dec 31 10:00:00 ", "Jan  1 10:00:00 ")]
    assert [(time.us, time.is_estimate) for time in times if time] == [
        (us("2023-12-30T10:00:00Z"), False),
        (us("2023-12-31T10:00:00Z"), False),
        (us("2024-01-01T10:00:00Z"), False),
    ]


def test_a_zone_that_is_not_written_is_the_one_given_and_knows_summer_time() -> None:
    reader = stamps(zone=ZoneInfo("Europe/Berlin"))
    winter, summer = reader.read("2025-01-17T12:00:00"), reader.read("2025-07-17T12:00:00")
    assert winter is not None
    assert summer is not None
    assert (winter.us, summer.us) == (us("2025-01-17T11:00:00Z"), us("2025-07-17T10:00:00Z"))
    named = reader.read("2025-07-17 12:00:00 CEST")
    assert named is not None
    assert (named.us, named.is_estimate) == (us("2025-07-17T10:00:00Z"), False)


def test_zones_may_differ_from_line_to_line() -> None:
    reader = stamps(zone=timezone(timedelta(hours=9)), given=False)
    times = [
        reader.read(stamp)
        for stamp in ("2025-01-17T17:00:00+0200", "2025-01-17T15:00:00Z", "2025-01-18T00:00:00")
    ]
    assert {time.us for time in times if time} == {us("2025-01-17T15:00:00Z")}
    assert [time.is_estimate for time in times if time] == [False, False, True]


def test_what_is_no_time_is_counted() -> None:
    assumed = Assumptions()
    reader = stamps(assumed=assumed)
    for stamp in ("Xyz 31 10:00:00 ", "Feb 31 10:00:00 ", "Feb 27 99:00:00 ", "2025-13-01T00:00:00Z"):
        assert reader.read(stamp) is None
    assert assumed.unreadable == 4


@pytest.mark.parametrize(
    "stamp",
    [10**16, -(10**12), "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "Jan  1 9999 00:00:00 "],
)
def test_a_time_that_no_clock_could_have_had_is_none(stamp: str | int) -> None:
    assumed = Assumptions()
    assert stamps(assumed=assumed).read(stamp) is None
    assert assumed.unreadable == 1


@given(st.text())
def test_no_stamp_makes_it_raise(stamp: str) -> None:
    stamps().read(stamp)
