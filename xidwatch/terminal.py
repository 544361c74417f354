"""Colour and alignment for people at a terminal, plain text for everyone else; and how errors look.

`for_stream` decides once whether a stream gets colour. `columns` aligns cells by the width they
take on screen: a wide character counts two, a combining mark and a colour sequence none. Nothing
here makes foreign text safe: log text passes `daemon.text.clean` before it comes here.
"""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TextIO

from daemon.text import clean
from probes.errors import UserError

if TYPE_CHECKING:  # `status` uses this module and none of the event's
    from daemon.event import Severity

_SEVERITY_CODES = {"fatal": "1;31", "critical": "31", "warning": "33", "info": "36"}
_SGR = re.compile(r"\x1b\[[0-9;]*m")


class Style(NamedTuple):
    """Wraps text in terminal attributes, or hands it back unchanged when not `enabled`."""

    enabled: bool

    def bold(self, text: str) -> str:
        """Strong, for headings and the worst."""
        return self._wrap("1", text)

    def dim(self, text: str) -> str:
        """Faint, for what one may skip."""
        return self._wrap("2", text)

    def red(self, text: str) -> str:
        """Broken."""
        return self._wrap("31", text)

    def green(self, text: str) -> str:
        """Well."""
        return self._wrap("32", text)

    def yellow(self, text: str) -> str:
        """Take care."""
        return self._wrap("33", text)

    def magenta(self, text: str) -> str:
        """Lost work."""
        return self._wrap("35", text)

    def cyan(self, text: str) -> str:
        """Neutral emphasis."""
        return self._wrap("36", text)

    def severity(self, severity: Severity, text: str) -> str:
        """`text` in the colour of a severity: fatal bold red, critical red, warning yellow, info cyan."""
        return self._wrap(_SEVERITY_CODES[severity], text)

    def _wrap(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.enabled and text else text


PLAIN = Style(enabled=False)


def for_stream(stream: TextIO) -> Style:
    """Colour only on a terminal that takes it: not with NO_COLOR (https://no-color.org), nor TERM=dumb."""
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Style(enabled=wanted and stream.isatty())


def print_error(error: UserError) -> None:
    """One sentence, and a hint on a line of its own, on stderr."""
    style = for_stream(sys.stderr)
    print(f"{style.red('xidwatch:')} {clean(error.message)}", file=sys.stderr)
    if error.hint:
        print(f"{style.dim('hint:')} {clean(error.hint)}", file=sys.stderr)


def width(text: str) -> int:
    """Columns that `text` takes on screen; colour sequences take none."""
    if text.isascii() and "\x1b" not in text:
        return len(text)
    return sum(_char_width(char) for char in _SGR.sub("", text))


def _char_width(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def pad(text: str, columns: int) -> str:
    """`text` filled with blanks on the right up to `columns`; longer text stays whole."""
    return text + " " * (columns - width(text))


class Aligner:
    """Lines up cells that come one row at a time: a column is as wide as its widest cell so far."""

    def __init__(self, *, widths: Sequence[int] = (), gap: int = 2) -> None:
        """`widths`: what each column takes at least; the last cell of a row is never filled."""
        self._widths = list(widths)
        self._gap = " " * gap

    def measure(self, row: Sequence[str]) -> None:
        """Widen the columns for a row that will be printed later."""
        for place, cell in enumerate(row[:-1]):
            if place == len(self._widths):
                self._widths.append(0)
            self._widths[place] = max(self._widths[place], width(cell))

    def line(self, row: Sequence[str]) -> str:
        """The row as one line. Cells may carry colour."""
        self.measure(row)
        filled = [pad(cell, self._widths[place]) for place, cell in enumerate(row[:-1])]
        return self._gap.join([*filled, *row[-1:]]).rstrip()


def columns(rows: Iterable[Sequence[str]], *, gap: int = 2, indent: int = 0) -> list[str]:
    """One line per row, cells aligned, `gap` blanks between. Rows may differ in length."""
    table = list(rows)
    aligner = Aligner(gap=gap)
    for row in table:
        aligner.measure(row)
    return [(" " * indent + aligner.line(row)).rstrip() for row in table]
