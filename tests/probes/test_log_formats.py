"""One line of a saved log: format, origin, time, text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.line import Origin
from probes.log_formats import Clue, Format, parse

XID = "NVRM: Xid (PCI:0000:91:00): 79, GPU has fallen off the bus."
CORPUS = Path(__file__).parents[3] / "shared/data/kernel_log_corpus.jsonl"


@pytest.mark.parametrize(
    ("line", "form", "origin", "kernel_us", "stamp"),
    [
        (f"4,360,26994672,c;{XID}", Format.KMSG, Origin.KERNEL, 26994672, None),
        (f"12,360,26994672,-,caller=T1;{XID}", Format.KMSG, Origin.USERSPACE, 26994672, None),
        (f"[   26.994672] {XID}", Format.DMESG, Origin.UNKNOWN, 26994672, None),
        (f"[   26.994672] [   T12] {XID}", Format.DMESG, Origin.UNKNOWN, 26994672, None),
        (f"[   26.994672 <    1.000000>] {XID}", Format.DMESG, Origin.UNKNOWN, 26994672, None),
        (f"kern  :warn  : [   26.994672] {XID}", Format.DMESG, Origin.KERNEL, 26994672, None),
        (f"user  :warn  : [   26.994672] {XID}", Format.DMESG, Origin.USERSPACE, 26994672, None),
        (f"<4>[   26.994672] {XID}", Format.DMESG, Origin.UNKNOWN, 26994672, None),
        (f"<12>[   26.994672] {XID}", Format.DMESG, Origin.USERSPACE, 26994672, None),
        (
            f"[Sat Oct 12 18:35:32 2024] {XID}",
            Format.DMESG_CTIME,
            Origin.UNKNOWN,
            None,
            "Sat Oct 12 18:35:32 2024",
        ),
        (f"[Feb27 15:10] {XID}", Format.DMESG_RELTIME, Origin.UNKNOWN, None, "Feb27 15:10"),
        (
            f"2024-11-15T05:39:15,491363+00:00 {XID}",
            Format.DMESG_ISO,
            Origin.UNKNOWN,
            None,
            "2024-11-15T05:39:15,491363+00:00",
        ),
        (f"Nov  2 14:56:44 h kernel: {XID}", Format.SYSLOG, Origin.UNKNOWN, None, "Nov  2 14:56:44 "),
        (
            f"Nov 22 14:56:44 h kernel: [   26.994672] {XID}",
            Format.SYSLOG,
            Origin.UNKNOWN,
            26994672,
            "Nov 22 14:56:44 ",
        ),
        (f"<4>Nov 22 14:56:44 h kernel: {XID}", Format.SYSLOG, Origin.UNKNOWN, None, "Nov 22 14:56:44 "),
        (f"Okt 06 17:59:27 balrog kernel: {XID}", Format.SYSLOG, Origin.UNKNOWN, None, "Okt 06 17:59:27 "),
        (f"11月 22 14:56:44 h kernel: {XID}", Format.SYSLOG, Origin.UNKNOWN, None, "11月 22 14:56:44 "),
        (
            f"2025-01-17T17:39:30+0000 h kernel: {XID}",
            Format.SYSLOG_ISO,
            Origin.UNKNOWN,
            None,
            "2025-01-17T17:39:30+0000",
        ),
        (
            f"<4>1 2025-01-17T17:39:30Z h kernel - - - {XID}",
            Format.SYSLOG_5424,
            Origin.UNKNOWN,
            None,
            "2025-01-17T17:39:30Z",
        ),
        (f'<4>1 - h kernel - - [a@1 b="c"] {XID}', Format.SYSLOG_5424, Origin.UNKNOWN, None, None),
        (
            f"Thu 2024-11-21 16:50:10 CEST h kernel: {XID}",
            Format.JOURNAL_FULL,
            Origin.UNKNOWN,
            None,
            "2024-11-21 16:50:10 CEST",
        ),
        (f"1732222222.123456 h kernel: {XID}", Format.JOURNAL_UNIX, Origin.UNKNOWN, None, 1732222222123456),
        (f"[   26.994672] h kernel: {XID}", Format.JOURNAL_MONOTONIC, Origin.UNKNOWN, 26994672, None),
        (XID, Format.BARE, Origin.UNKNOWN, None, None),
        (f"kernel: {XID}", Format.BARE, Origin.UNKNOWN, None, None),
    ],
)
def test_a_line_is_read_in_its_own_format(
    line: str, form: Format, origin: Origin, kernel_us: int | None, stamp: str | int | None
) -> None:
    found = parse(line)
    assert found is not None
    assert (found.format, found.origin, found.kernel_us, found.stamp) == (form, origin, kernel_us, stamp)
    assert found.text == XID


@pytest.mark.parametrize(
    "line",
    [
        f"Nov 22 14:56:44 host dcgm-exporter[123]: {XID}",
        f"Nov 22 14:56:44 host app: kernel: {XID}",
        f"<4>1 2025-01-17T17:39:30Z host app - - - {XID}",
        f"2025-01-17T17:39:30+0000 host logger: {XID}",
        json.dumps({"__REALTIME_TIMESTAMP": "1", "_TRANSPORT": "stdout", "MESSAGE": XID}),
        json.dumps({"__REALTIME_TIMESTAMP": "1", "MESSAGE": XID, "SYSLOG_IDENTIFIER": "kernel"}),
    ],
)
def test_of_another_programs_line_only_the_time_counts(line: str) -> None:
    found = parse(line)
    assert found is not None
    assert found.text is None


def test_the_journals_trusted_fields_prove_who_printed_a_line() -> None:
    fields = {
        "__REALTIME_TIMESTAMP": "1769079606995000",
        "_SOURCE_MONOTONIC_TIMESTAMP": "26994672",
        "_BOOT_ID": "11111111222233334444555555555555",
        "_TRANSPORT": "kernel",
        "SYSLOG_FACILITY": "0",
        "MESSAGE": list(XID.encode()),
    }
    found = parse(json.dumps(fields))
    assert found is not None
    assert (found.origin, found.text, found.kernel_us) == (Origin.KERNEL, XID, 26994672)
    assert found.boot_id == "11111111-2222-3333-4444-555555555555"
    nowhere = parse(json.dumps({**fields, "_BOOT_ID": "a boot id\x1b[31m"}))
    assert nowhere is not None
    assert nowhere.boot_id == ""
    by_a_process = parse(json.dumps({**fields, "SYSLOG_FACILITY": "1"}))
    assert by_a_process is not None
    assert by_a_process.origin is Origin.USERSPACE


def test_half_a_character_that_json_can_write_becomes_one_that_can_be_stored() -> None:
    for fields in ({"msg": f"{XID}\ud83d", "time": 5}, {"MESSAGE": f"{XID}\ud83d", "_HOSTNAME": "\ud83d"}):
        entry = {"__REALTIME_TIMESTAMP": "1769079606995000", "_TRANSPORT": "kernel", **fields}
        found = parse(json.dumps(entry))
        assert found is not None
        assert found.text == f"{XID}\ufffd"
        assert found.host in ("", "\ufffd")
    whole = parse(json.dumps({"msg": f"{XID} \U0001f600"}))
    assert whole is not None
    assert whole.text == f"{XID} \U0001f600"


@pytest.mark.parametrize(
    ("line", "clue"),
    [
        ("-- Boot 11111111222233334444555555555555 --", Clue.NEW_BOOT),
        ("-- Reboot --", Clue.NEW_BOOT),
        ("-- No entries --", Clue.REMARK),
        ("-- Logs begin at Mon 2024-01-01 00:00:00 UTC, end at Tue. --", Clue.REMARK),
        ("Oops#1 Part1", Clue.NEW_PART),
        ("_" * 60, Clue.NEW_SECTION),
    ],
)
def test_lines_between_messages_tell_where_the_next_ones_come_from(line: str, clue: Clue) -> None:
    found = parse(line)
    assert found is not None
    assert found.clue is clue


@given(st.text())
def test_no_line_makes_it_raise(line: str) -> None:
    parse(line)


@pytest.mark.skipif(not CORPUS.exists(), reason="the corpus of kernel lines is not beside this checkout")
def test_every_line_of_the_corpus_cut_anywhere_is_read_or_refused() -> None:
    read = 0
    for entry in CORPUS.read_text(encoding="utf-8").splitlines():
        line = json.loads(entry)["line"]
        for end in range(0, len(line) + 1, 3):
            parse(line[:end])
        read += parse(line) is not None
    assert read > 400
