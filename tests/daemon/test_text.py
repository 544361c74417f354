"""Log text on its way out: nothing that acts, nothing too long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.text import CUT, clean


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("NVRM: Xid (PCI:0000:01:00): 79, x", "NVRM: Xid (PCI:0000:01:00): 79, x"),
        ("Grüße, 日本語", "Grüße, 日本語"),
        ("a\x00b\nc\td", r"a\x00b\x0ac\x09d"),
        ("\x1b[31mred\x1b[0m \x9b31m", r"\x1b[31mred\x1b[0m \x9b31m"),
        ("\x7f\x85", r"\x7f\x85"),
        ("\u202eevil\u2066\u200b\u2028", r"\u202eevil\u2066\u200b\u2028"),
        ("\U000e0041\U000e0101\ufe0f", r"\U000e0041\U000e0101\ufe0f"),
        (b"\xff\x80".decode("utf-8", "surrogateescape"), r"\xff\x80"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_could_act_is_shown_as_an_escape(raw: str, shown: str) -> None:
    assert clean(raw) == shown


def test_a_long_text_is_cut_and_says_so() -> None:
    assert clean("x" * 10, limit=10) == "x" * 10
    assert clean("x" * 11, limit=10) == "x" * 9 + CUT


def test_no_escape_is_cut_in_half() -> None:
    assert clean("ab\n\n", limit=10) == r"ab\x0a\x0a"
    assert clean("abc\n\n", limit=10) == r"abc\x0a" + CUT
    assert clean("\n", limit=1) == CUT


@given(st.text(), st.integers(1, 64))
def test_the_result_is_printable_and_never_longer_than_asked(text: str, limit: int) -> None:
    shown = clean(text, limit)
    assert len(shown) <= limit
    assert shown.isprintable()
    shown.encode("utf-8")


@given(st.text(st.characters(exclude_categories=()), max_size=200))
def test_cleaning_twice_changes_nothing_more(text: str) -> None:
    once = clean(text, 10_000)
    assert clean(once, 10_000) == once
