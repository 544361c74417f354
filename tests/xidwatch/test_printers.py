"""Lines for people: what a later revision of an event looks like."""

from __future__ import annotations

import json
from typing import Any

import pytest

from daemon.event import Kind, NvSwitch, Severity
from tests.support.events import TIME_US, XID_79, item
from xidwatch.printers import TextPrinter
from xidwatch.terminal import Style


def show(printer: TextPrinter, cursor: int, **changes: Any) -> None:
    shown = item(cursor, **changes)
    printer.event(shown.json, json.loads(shown.json))


def test_an_event_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    show(TextPrinter(), 1)
    assert capsys.readouterr().out.split() == [
        *("2026-11-22", "11:20:06Z", "FATAL", "Xid", "79", "GPU_HAS_FALLEN_OFF_THE_BUS"),
        *("gpu3", "91:00", "python3[446]", "GPU", "no", "longer", "answers", "on", "PCIe"),
    ]


def test_a_piped_update_is_a_line_of_its_own_and_only_if_it_looks_different(
    capsys: pytest.CaptureFixture[str],
) -> None:
    printer = TextPrinter()
    show(printer, 1)
    show(printer, 2, revision=2, kmsg_seq=None)
    show(printer, 3, revision=3, count=4)
    first, update = capsys.readouterr().out.splitlines()
    assert "update" not in first
    assert "×4" in update
    assert "(update)" in update


def test_on_a_terminal_an_update_replaces_the_line_above(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    printer = TextPrinter(Style(enabled=True))
    show(printer, 1)
    show(printer, 2, revision=2, count=2)
    show(printer, 3, id="ev_other")
    show(printer, 4, revision=3, count=3)
    lines = capsys.readouterr().out.splitlines()
    assert [line.startswith("\x1b[1A\x1b[2K") for line in lines] == [False, True, False, False]
    assert "(update)" in lines[3]


def test_a_line_wider_than_the_terminal_is_never_overwritten(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    printer = TextPrinter(Style(enabled=True))
    show(printer, 1)
    show(printer, 2, revision=2, count=2)
    assert "\x1b[1A" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"drill": True}, "[drill]"),
        ({"origin": "unknown"}, "[origin not confirmed]"),
        ({"stored": False}, "[not stored]"),
        ({"time_is_estimate": True}, "11:20:06Z~"),
        ({"kind": Kind.GAP, "code": None, "name": None, "severity": Severity.WARNING}, "WARNING   gap"),
        ({"kind": Kind.DRIVER_LOADED, "code": None}, "driver loaded"),
        ({"gpu": None, "nvswitch": NvSwitch("0000:a9:00.0", 3), "kind": Kind.SXID}, "nvswitch3 a9:00"),
        ({"code": None, "detail": {"code_text": "99999999999999999999"}}, "Xid 99999999999999999999"),
        ({"last_time_us": TIME_US + 60_000_000, "count": 2}, "11:21:06Z"),
    ],
)
def test_what_one_must_know_about_an_event_is_on_its_line(
    capsys: pytest.CaptureFixture[str], changes: dict[str, Any], part: str
) -> None:
    show(TextPrinter(), 1, **changes)
    assert part in capsys.readouterr().out


def test_control_characters_that_reached_the_journal_do_not_reach_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show(TextPrinter(), 1, name="a\x1b[31m", summary="b\x9b1m\u202e")
    out = capsys.readouterr().out
    assert all(char.isprintable() or char == "\n" for char in out)
    assert XID_79.summary not in out
