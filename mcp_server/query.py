"""What a reader may ask for: from where, how many, which events. One grammar for every path.

`since` is a cursor and exclusive; `limit` is clamped to 1 … 1000; `severity` means at least;
`code`, `kind` and `gpu` may be repeated or hold commas. A name that is none of these is an
error: a filter with a typo would otherwise let everything through. An empty value counts as not given.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from daemon.filter import EVERYTHING, EventFilter
from daemon.page import DEFAULT_LIMIT, MAX_LIMIT, clamp_limit
from daemon.text import clean
from probes.errors import UserError

FILTERS = ("severity", "code", "kind", "gpu")


class Params(Protocol):
    """Query parameters, any of which may be repeated (Starlette's `QueryParams`)."""

    def keys(self) -> Iterable[str]:
        """Names that occur, each once."""
        ...

    def getlist(self, key: str) -> list[str]:
        """Every value of one name, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Query:
    """One reader's question."""

    since: int | None = None
    """Only items beyond this cursor; None = where the path starts by itself."""
    limit: int = DEFAULT_LIMIT
    match: EventFilter = EVERYTHING


def parse(params: Params, *, extra: Sequence[str] = ()) -> Query:
    """The query of a URL. `extra` names what the path takes beside `since` and the filters.

    Raises UserError for a name, cursor, limit or filter value that makes no sense.
    """
    known = ("since", *extra, *FILTERS)
    for name in params.keys():  # noqa: SIM118  (a multi-dict: iterating it is not promised to be its keys)
        if name not in known:
            raise UserError(f"unknown parameter {quoted(name)}", hint=f"known here: {', '.join(known)}")
    severity = [value for value in params.getlist("severity") if value]
    if len(severity) > 1:
        raise UserError("severity is given twice", hint="it means at least: name the mildest one you want")
    since = [value for value in params.getlist("since") if value]
    limit = [value for value in params.getlist("limit") if value]
    return Query(
        since=parse_cursor(since[-1]) if since else None,
        limit=parse_limit(limit[-1]) if limit else DEFAULT_LIMIT,
        match=EventFilter.parse(
            severity=severity[0] if severity else None,
            code=params.getlist("code"),
            kind=params.getlist("kind"),
            gpu=params.getlist("gpu"),
        ),
    )


def parse_cursor(text: str, name: str = "since") -> int:
    """A cursor from outside; `name` says in the error where it stood. Raises UserError."""
    if not (text.isascii() and text.isdigit()) or len(text) > 19:
        raise UserError(
            f"{name}: {quoted(text)} is not a cursor",
            hint="a whole number: the next_cursor of a page, or the id of an event; 0 = everything kept",
        )
    return int(text)


def parse_limit(text: str) -> int:
    """A limit from outside, clamped. Raises UserError when it is no number."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 19:
        raise UserError(f"limit: {quoted(text)} is not a number", hint=f"1 to {MAX_LIMIT}")
    return clamp_limit(int(text))


def quoted(text: str) -> str:
    """Text from outside as it may stand in an error: cleaned, short, in quotes."""
    return f"'{clean(text, 60)}'"
