"""Durations and sizes as people write them: `5s`, `15m`, `30d`, `512MiB`.

A unit is always asked for: a bare number would be read as seconds by one and minutes by another.
"""

from __future__ import annotations

import re

from probes.errors import UserError

_SECOND_US = 1_000_000
_DURATIONS = {
    "ms": 1_000,
    "s": _SECOND_US,
    "m": 60 * _SECOND_US,
    "h": 3_600 * _SECOND_US,
    "d": 86_400 * _SECOND_US,
    "w": 7 * 86_400 * _SECOND_US,
}
_SIZES = {"B": 1} | {
    f"{prefix}{suffix}": base**power
    for power, prefix in enumerate("KMGT", start=1)
    for suffix, base in (("iB", 1024), ("B", 1000))
}
_SIZES["kB"] = 1000

_LONGEST_US = 36_500 * _DURATIONS["d"]  # a century: nobody means more, and sums stay within 64 bits
_LARGEST = 2**50
_NUMBER = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?([A-Za-z]+)", re.ASCII)


def duration_us(text: str) -> int:
    """Microseconds of `5s`, `15m`, `1.5h`, `30d`; units ms, s, m, h, d, w. Raises UserError."""
    amount = _amount(text, _DURATIONS)
    if amount is None or amount > _LONGEST_US:
        raise UserError(
            f"{text!r} is not a duration", hint="write a number and ms, s, m, h, d or w: 5s, 15m, 30d"
        )
    return amount


def size_bytes(text: str) -> int:
    """Bytes of `512MiB`, `2GB`, `4096B`; units B, KiB … TiB and kB … TB. Raises UserError."""
    amount = _amount(text, _SIZES)
    if amount is None or amount > _LARGEST:
        raise UserError(
            f"{text!r} is not a size",
            hint="write a number and B, KiB, MiB, GiB or TiB (or kB, MB, GB): 512MiB",
        )
    return amount


def _amount(text: str, units: dict[str, int]) -> int | None:
    match = _NUMBER.fullmatch(text.strip())
    if match is None or match[2] not in units:
        return None
    whole, _, fraction = match[1].partition(".")
    unit = units[match[2]]
    return int(whole) * unit + (int(fraction) * unit // 10 ** len(fraction) if fraction else 0)
