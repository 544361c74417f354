"""Durations and sizes with units."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.units import duration_us, size_bytes
from probes.errors import UserError


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("100ms", 100_000),
        ("5s", 5_000_000),
        ("0s", 0),
        ("15m", 900_000_000),
        ("1.5h", 5_400_000_000),
        ("30d", 2_592_000_000_000),
        ("2w", 1_209_600_000_000),
        (" 5 s ", 5_000_000),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text: str, microseconds: int) -> None:
    assert duration_us(text) == microseconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("1B", 1), ("4KiB", 4096), ("512MiB", 2**29), ("2GB", 2 * 10**9), ("1kB", 1000), ("0.5TiB", 2**39)],
)
def test_a_size_is_a_number_and_a_unit(text: str, size: int) -> None:
    assert size_bytes(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "5", "s", "-5s", "5 parsecs", "5S", "1e3s", "5s5s", "٥s", "99999999999999d", "9" * 5000 + "s"],
)
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(UserError, match="is not a duration") as caught:
        duration_us(text)
    assert "15m" in (caught.value.hint or "")


@pytest.mark.parametrize("text", ["", "512", "512M", "512 mib", "-1MiB", "99999999TiB"])
def test_anything_else_is_no_size(text: str) -> None:
    with pytest.raises(UserError, match="is not a size"):
        size_bytes(text)


@given(st.text())
def test_no_text_raises_anything_but_a_user_error(text: str) -> None:
    for parse in (duration_us, size_bytes):
        try:
            assert parse(text) >= 0
        except UserError as error:
            assert error.hint
