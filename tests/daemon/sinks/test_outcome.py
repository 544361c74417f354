"""What an answer says about who is at fault, and when to come back."""

from __future__ import annotations

import pytest

from daemon.sinks.outcome import LONGEST_RETRY_AFTER_S, Fate, fate_of, retry_after_s, status_words

NOW_S = 1_769_079_606.0  # Thu, 22 Jan 2026 11:00:06 GMT


@pytest.mark.parametrize(
    ("status", "fate"),
    [
        (200, Fate.DELIVERED),
        (202, Fate.DELIVERED),
        (204, Fate.DELIVERED),
        (301, Fate.CLOSED),
        (400, Fate.REFUSED),
        (401, Fate.CLOSED),
        (403, Fate.CLOSED),
        (404, Fate.CLOSED),
        (408, Fate.AWAY),
        (413, Fate.REFUSED),
        (422, Fate.REFUSED),
        (425, Fate.AWAY),
        (429, Fate.AWAY),
        (500, Fate.CLOSED),
        (502, Fate.AWAY),
        (503, Fate.AWAY),
        (504, Fate.AWAY),
        (599, Fate.CLOSED),
        (799, Fate.CLOSED),
    ],
)
def test_a_status_is_about_the_event_or_about_us_or_about_the_moment(status: int, fate: Fate) -> None:
    assert fate_of(status) is fate


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        (" 17 ", 17.0),
        ("86400", LONGEST_RETRY_AFTER_S),
        ("9" * 400, None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("Thu, 22 Jan 2026 11:00:36 GMT", 30.0),
        ("Thu, 22 Jan 2026 10:00:00 GMT", 0.0),
        ("Thu, 22 Jan 2026 11:00:36 -0000", 30.0),
        ("Fri, 22 Jan 9999 11:00:36 GMT", LONGEST_RETRY_AFTER_S),
        ("٣", None),
    ],
)
def test_retry_after_is_a_number_or_a_date_and_nonsense_asks_for_nothing(
    header: str | None, seconds: float | None
) -> None:
    assert retry_after_s(header, NOW_S) == seconds


def test_a_status_without_a_name_is_its_number() -> None:
    assert (status_words(503), status_words(599)) == ("503 Service Unavailable", "599")
