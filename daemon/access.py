"""Values of the settings that say who may come in: rates, host names, origins, users.

The parsers raise `UserError` without saying where the text came from; `config.load` adds that. `none`
stands for an empty list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from daemon.paths import path
from probes.errors import UserError

NONE: Final = "none"
"""How a setting says that it is not set."""
BURST_S: Final = 10
"""A client that was quiet may spend what it has saved up in this time."""

_UNITS: Final = {"s": 1, "m": 60, "h": 3600}
_RATE = re.compile(r"([0-9]{1,6})/([smh])")
_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9_])?")
_USER = re.compile(r"@?[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}\$?")


@dataclass(frozen=True, slots=True)
class Rate:
    """How often a client may ask."""

    amount: int
    """Requests, at least 1."""
    period_s: int
    """In this many seconds."""

    def __str__(self) -> str:
        unit = next(unit for unit, seconds in _UNITS.items() if seconds == self.period_s)
        return f"{self.amount}/{unit}"

    @property
    def per_second(self) -> float:
        """Requests a second."""
        return self.amount / self.period_s

    @property
    def burst(self) -> float:
        """Requests that a client may make at once after it was quiet: `BURST_S` of them, at least 10."""
        return max(10.0, self.per_second * BURST_S)


def rate(text: str) -> Rate | None:
    """`50/s`, `600/m`, `1000/h`; None for `off`."""
    if text == "off":
        return None
    found = _RATE.fullmatch(text)
    if found is None or not int(found[1]):
        raise UserError(f"{text!r} is no rate", hint="write for example 50/s, 600/m, or off")
    return Rate(int(found[1]), _UNITS[found[2]])


def optional_path(text: str) -> Path | None:
    """A path; None for `none`."""
    return None if text == NONE else path(text)


def host_names(text: str) -> frozenset[str]:
    """Names without port, in lower case."""
    names = _words(text)
    for name in names:
        if _HOST.fullmatch(name.lower().rstrip(".")) is None:
            raise UserError(
                f"{name!r} is no host name", hint="names without scheme and port: gpu-17.example.com"
            )
    return frozenset(name.lower().rstrip(".") for name in names)


def origins(text: str) -> frozenset[str]:
    """Origins of web pages as browsers send them: `https://dash.example`, with the port where it is not the
    scheme's own."""
    found = _words(text)
    for each in found:
        if not _is_origin(each):
            raise UserError(
                f"{each!r} is no origin", hint="scheme and host, no path: https://dash.example.com"
            )
    return frozenset(each.lower() for each in found)


def users(text: str) -> tuple[str, ...]:
    """User names, numbers, and `@` with a group; whether they exist is found out where they are used."""
    names = _words(text)
    for name in names:
        if _USER.fullmatch(name) is None:
            raise UserError(
                f"{name!r} is no user", hint="names or numbers, groups with @: alice,1000,@gpu-admins"
            )
    return tuple(dict.fromkeys(names))


def optional_url(text: str) -> str | None:
    """An http or https URL as it was written; None for `none`."""
    if text == NONE:
        return None
    parts = _parts(text)
    if (
        parts is None
        or parts.scheme not in ("http", "https")
        or not parts.hostname
        or parts.username
        or parts.fragment
    ):
        raise UserError(f"{text!r} is no URL", hint="write for example https://login.example.com/realms/gpu")
    return text


def optional_word(text: str) -> str | None:
    """A text without spaces; None for `none`."""
    if text == NONE:
        return None
    if not text.isprintable() or any(char.isspace() for char in text) or len(text) > 1024:
        raise UserError(f"{text!r} is not one word")
    return text


def _words(text: str) -> list[str]:
    return [] if text == NONE else [word.strip() for word in text.split(",")]


def _parts(text: str) -> SplitResult | None:
    """The parts of a URL; None for half an IPv6 address, or a port that is no number."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return None
    return parts


def _is_origin(text: str) -> bool:
    parts = _parts(text)
    return (
        parts is not None
        and parts.scheme in ("http", "https")
        and bool(parts.hostname)
        and text == f"{parts.scheme}://{parts.netloc}"
    )
