"""TOML from outside: what can be used comes back, everything else is one kind of error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.toml_text import TomlError, parse


def test_what_a_file_says_comes_back() -> None:
    text = f"a = {2**63 - 1}\nb = {-(2**63)}\n[[c]]\nd = [['x'], {{ e = 1979-05-27 }}]\n"
    assert list(parse(text)) == ["a", "b", "c"]
    assert parse("") == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = ", "is not TOML"),
        ("a = " + "[" * 50_000, "is nested too deeply"),
        ("a = " + "[" * 40 + "]" * 40, "is nested too deeply"),
        ("a = " + "{b=" * 5_000, "is nested too deeply"),
        ("a = " + "9" * 5_000, "is not TOML"),
        ("a = 0x" + "f" * 5_000, "more than 64 bits"),
        ("a = [{ b = 0o1" + "0" * 5_000 + " }]", "more than 64 bits"),
    ],
)
def test_what_cannot_be_used_is_one_error(text: str, said: str) -> None:
    with pytest.raises(TomlError, match=said):
        parse(text)


@given(st.text(st.sampled_from("a=[]{}\"'\n.0x9_ -:T#\\u")))
def test_no_text_makes_it_raise_anything_else(text: str) -> None:
    try:
        parse(text)
    except TomlError as error:
        assert str(error)
