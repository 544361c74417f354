"""How `xidwatch tail` puts events on stdout: lines for people, or one JSON object a line."""

from __future__ import annotations

import shutil
import sys
from collections import OrderedDict
from typing import Any, Protocol

from daemon.event import from_dict
from daemon.text import clean
from xidwatch import event_row
from xidwatch.socket_client import not_understood
from xidwatch.terminal import Aligner, Style, for_stream, width

_WIDTHS = (21, 8, 10, 26, 10, 14, 2)  # time, severity, what, name, device, process, count
_ERASE_LINE_ABOVE = "\x1b[1A\x1b[2K"
_REMEMBERED = 1_000


class Printer(Protocol):
    """Where `tail` puts what it reads. Every call reaches stdout or stderr before it returns."""

    def event(self, line: str, item: dict[str, Any]) -> None:
        """An event: its JSON as it came, and the object on it."""

    def missed(self, line: str, first: object, last: object) -> None:
        """Items that were deleted before this reader came to them."""

    def note(self, text: str) -> None:
        """A remark of the program itself; goes to stderr."""

    def end(self) -> None:
        """There is no more to come."""


def _remark(text: str) -> None:
    print(f"xidwatch tail: {clean(text)}", file=sys.stderr, flush=True)


class JsonPrinter:
    """Every line as it came; a gap in the stream is an object `{"missed": {"first": n, "last": n}}`."""

    def event(self, line: str, item: dict[str, Any]) -> None:
        """The line itself."""
        print(line, flush=True)

    def missed(self, line: str, first: object, last: object) -> None:
        """The line itself: a script must see it too."""
        print(line, flush=True)

    def note(self, text: str) -> None:
        """On stderr."""
        _remark(text)

    def end(self) -> None:
        """Nothing: no line is an answer, too."""


class TextPrinter:
    """Aligned lines, coloured on a terminal.

    A later revision of an event replaces its line when that is the last one on a terminal. Else it
    becomes a line of its own, marked as an update, and only if a person would see a difference.
    """

    def __init__(self, style: Style | None = None) -> None:
        self._style = for_stream(sys.stdout) if style is None else style
        self._aligner = Aligner(widths=_WIDTHS)
        self._shown: OrderedDict[str, list[str]] = OrderedDict()
        """The cells last printed for an event, by its id; the latest events only."""
        self._line_above: str | None = None
        """Id of the event whose line is the last on the screen and fits one row of it."""

    def event(self, line: str, item: dict[str, Any]) -> None:
        """One line, unless it would look like the one already there."""
        try:
            event = from_dict(item)
            stored = bool(item["stored"])
        except (KeyError, TypeError, ValueError, AttributeError):
            raise not_understood() from None
        cells = event_row.cells(event, self._style, stored=stored)
        before = self._shown.pop(event.id, None)
        self._shown[event.id] = cells
        if len(self._shown) > _REMEMBERED:
            self._shown.popitem(last=False)
        if cells == before:
            return
        if before is not None and self._line_above == event.id:
            self._write(_ERASE_LINE_ABOVE, cells, event.id)
        elif before is not None:
            self._write("", [*cells[:-1], f"{self._style.dim('(update)')} {cells[-1]}"], event.id)
        else:
            self._write("", cells, event.id)

    def missed(self, line: str, first: object, last: object) -> None:
        """One sentence."""
        self._line_above = None
        text = f"-- events between cursors {first} and {last} were deleted before they were read --"
        print(self._style.yellow(text), flush=True)

    def note(self, text: str) -> None:
        """On stderr."""
        self._line_above = None
        _remark(text)

    def end(self) -> None:
        """Say so when there was nothing to show."""
        if not self._shown:
            _remark("no such event is kept")

    def _write(self, prefix: str, cells: list[str], event_id: str) -> None:
        text = self._aligner.line(cells)
        print(prefix + text, flush=True)
        fits = self._style.enabled and width(text) < shutil.get_terminal_size().columns
        self._line_above = event_id if fits else None
