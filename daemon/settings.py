"""One setting: its name everywhere, how its text becomes a value, and the common kinds of value.

The parsers raise `UserError` without saying where the text came from; `config.load` adds that.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from daemon.paths import path
from probes.errors import UserError

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)

ENV_PREFIX = "XIDWATCH_"
METADATA = "setting"
"""Key under which the metadata of a dataclass field holds its `Setting`."""
_SOCKET_PATH_BYTES = 107  # sun_path of unix(7) is 108 bytes with its terminating NUL


@dataclass(frozen=True, slots=True)
class Setting:
    """What flag, environment variable and TOML key of one field of `Config` have in common."""

    name: str
    """`state-dir`: the flag without its dashes, and the key in a TOML file."""
    parse: Callable[[str], object]
    """The value of a text; raises UserError for a bad one."""
    shown_default: str
    metavar: str | None
    """None for a switch."""
    help: str

    @property
    def flag(self) -> str:
        """`--state-dir`."""
        return f"--{self.name}"

    @property
    def variable(self) -> str:
        """`XIDWATCH_STATE_DIR`."""
        return ENV_PREFIX + self.name.replace("-", "_").upper()


def did_you_mean(word: str, choices: Iterable[str]) -> str | None:
    """`did you mean 'operator'?` for a near miss, else None."""
    import difflib  # noqa: PLC0415 (only for someone who mistyped)

    close = difflib.get_close_matches(word, list(choices), n=1)
    return f"did you mean {str(close[0])!r}?" if close else None


def setting(
    name: str, parse: Callable[[str], T], default: str | Callable[[], T], metavar: str | None, text: str
) -> T:
    """A dataclass field; `default` is a text such as a user would write, or made when the field is."""
    if callable(default):
        make, shown = default, "depends on user and host"
    else:
        make, shown = (lambda: parse(default)), default
    return dataclasses.field(
        default_factory=make, metadata={METADATA: Setting(name, parse, shown, metavar, text)}
    )


def choice(kind: type[E]) -> Callable[[str], E]:
    """Parser for one word of a closed set."""

    def parse(text: str) -> E:
        try:
            return kind(text)
        except ValueError:
            valid = ", ".join(kind)
            raise UserError(f"{text!r} is not one of {valid}", hint=did_you_mean(text, kind)) from None

    return parse


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """Parser for a decimal number from `least` to `most`."""

    def parse(text: str) -> int:
        if text.isascii() and text.isdigit() and len(text) < 12 and least <= int(text) <= most:
            return int(text)
        raise UserError(f"{text!r} is not a whole number from {least} to {most}")

    return parse


def at_least(least: str, parse_amount: Callable[[str], int]) -> Callable[[str], int]:
    """Parser for an amount with a unit, not below `least`."""

    def parse(text: str) -> int:
        amount = parse_amount(text)
        if amount < parse_amount(least):
            raise UserError(f"{text!r} is too small", hint=f"the least is {least}")
        return amount

    return parse


def switch(text: str) -> bool:
    """True or false, as TOML and the environment spell it."""
    match text.lower():
        case "true" | "yes" | "on" | "1":
            return True
        case "false" | "no" | "off" | "0":
            return False
    raise UserError(f"{text!r} is not one of true, false")


def socket_path(text: str) -> Path:
    """A path that fits the address of a unix socket."""
    if len(os.fsencode(path(text))) > _SOCKET_PATH_BYTES:
        raise UserError(f"{text!r} is too long for a socket", hint=f"the limit is {_SOCKET_PATH_BYTES} bytes")
    return path(text)
