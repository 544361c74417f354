from __future__ import annotations

import struct

import pytest

from probes.bpf.printed import ForeignLayout, PrintedLine, decode


def record(
    text: bytes,
    *,
    layout: int = 2,
    facility: int = 0xFFFF,
    full: int | None = None,
    copied: int | None = None,
    room: int = 200,
) -> bytes:
    """As `struct xid_line` of xid.h lays it out; what follows the text is left over from other records."""
    length = len(text) if full is None else full
    taken = len(text) if copied is None else copied
    task = b"kworker/3:1\0####"
    header = struct.pack("=HHIQQII16s", layout, facility, 3, 1_234_567_890, 77, length, taken, task)
    return header + text.ljust(room, b"#")


def test_each_field_is_read() -> None:
    assert decode(record(b"NVRM: Xid")) == PrintedLine(
        text="NVRM: Xid",
        monotonic_us=1_234_567,
        facility=None,
        cpu=3,
        task="kworker/3:1",
        cgroup_id=77,
        cut=False,
    )


@pytest.mark.parametrize("facility", [0, 1, 23])
def test_a_facility_is_told_where_the_hook_was_told_it(facility: int) -> None:
    assert decode(record(b"NVRM: Xid", facility=facility)).facility == facility


def test_a_line_longer_than_its_room_is_marked_as_cut() -> None:
    line = decode(record(b"x" * 200, full=5000))
    assert line.text == "x" * 200
    assert line.cut


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"\xff NVRM", "� NVRM"),
        (b"NVRM\n", "NVRM\n"),
        (b"NVRM\n\n", "NVRM\n\n"),
        (b"", ""),
        (b"[    1.000000] NVRM", "[    1.000000] NVRM"),
    ],
)
def test_text_is_decoded_and_otherwise_left_alone(text: bytes, shown: str) -> None:
    assert decode(record(text)).text == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"[   12.345678] NVRM: Xid\n", "NVRM: Xid"),
        (b"[   12.345678][  T123] NVRM: Xid\n", "NVRM: Xid"),
        (b"[   12.345678] NVRM\n[   12.345678] \n", "NVRM\n"),
        (b"[   12.345678] one\n[   12.345678] two\n", "one\ntwo"),
        (b"NVRM: Xid [   12.345678] \n", "NVRM: Xid [   12.345678] "),
    ],
)
def test_what_an_old_kernel_prints_for_its_console_loses_the_time(text: bytes, shown: str) -> None:
    assert decode(record(text), for_console=True).text == shown


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"short", "shorter than its header"),
        (record(b"x", layout=1), "layout 1, not 2"),
        (record(b"x", copied=201), "a text of 201 bytes"),
    ],
)
def test_a_record_of_another_program_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(ForeignLayout, match=words):
        decode(data)
