"""TOML that somebody else wrote, read so that nothing in it raises anything but `TomlError`.

Two things that TOML allows would make the standard library, or whoever prints a value, raise something else:
arrays nested as deeply as the file is long, and integers beyond the 64 bits that TOML asks for.
"""

from __future__ import annotations

import tomllib
from typing import Any

_DEEPEST = 32
"""Levels of tables and arrays; no file of ours has more than four."""
_INT64 = range(-(2**63), 2**63)
"""Python reads far longer numbers in hexadecimal, and refuses to print them."""


class TomlError(ValueError):
    """It cannot be used. The message goes on behind the file's name: `is not TOML: …`."""


def parse(text: str) -> dict[str, Any]:
    """The tables of a TOML text. Raises TomlError."""
    try:
        tables = tomllib.loads(text)
    except RecursionError:
        raise TomlError("is nested too deeply") from None
    except ValueError as error:
        raise TomlError(f"is not TOML: {error}") from None
    _check(tables, _DEEPEST)
    return tables


def _check(value: object, levels: int) -> None:
    """Raises TomlError for what nobody can print."""
    if isinstance(value, int) and value not in _INT64:
        raise TomlError("holds a number of more than 64 bits")
    if not isinstance(value, dict | list):
        return
    if not levels:
        raise TomlError("is nested too deeply")
    for each in value.values() if isinstance(value, dict) else value:
        _check(each, levels - 1)
