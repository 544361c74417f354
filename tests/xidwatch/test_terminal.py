"""Colour and alignment."""

from __future__ import annotations

import io

import pytest

from daemon.event import Severity
from xidwatch.terminal import PLAIN, Aligner, Style, columns, for_stream, width

COLOUR = Style(enabled=True)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_colour_and_a_pipe_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert for_stream(Terminal()).enabled
    assert not for_stream(io.StringIO()).enabled


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_the_environment_can_ask_for_plain_text(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv(name, value)
    assert not for_stream(Terminal()).enabled


def test_an_empty_no_color_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "")
    monkeypatch.setenv("TERM", "xterm")
    assert for_stream(Terminal()).enabled


def test_every_severity_has_a_colour_of_its_own() -> None:
    assert len({COLOUR.severity(severity, "x") for severity in Severity}) == len(Severity)
    assert {PLAIN.severity(severity, "x") for severity in Severity} == {"x"}


def test_nothing_is_wrapped_around_empty_text() -> None:
    assert COLOUR.red("") == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("abc", 3),
        ("", 0),
        (COLOUR.bold("abc"), 3),
        ("日本", 4),
        ("e\N{COMBINING ACUTE ACCENT}", 1),
        ("×4", 2),
    ],
)
def test_width_is_what_the_screen_shows(text: str, expected: int) -> None:
    assert width(text) == expected


def test_columns_line_up_by_what_the_screen_shows() -> None:
    rows = [[COLOUR.red("a"), "1"], ["日本", "2"], ["bcde", "3"]]
    starts = {width(line[: line.rindex(digit)]) for line, digit in zip(columns(rows), "123", strict=True)}
    assert starts == {6}


def test_rows_may_differ_in_length_and_leave_no_blanks_at_their_end() -> None:
    assert columns([["a", "b"], ["ccc"], ["", "", ""]], indent=1) == [" a  b", " ccc", ""]


def test_an_aligner_widens_as_rows_come() -> None:
    aligner = Aligner(widths=(3,))
    assert aligner.line(["a", "x"]) == "a    x"
    assert aligner.line(["abcde", "x"]) == "abcde  x"
    assert aligner.line(["a", "x"]) == "a      x"
