from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from probes.kmsg_record import parse, sequence_number

CAPTURE = Path(__file__).parents[3] / "shared/data/h200_capture.jsonl"


def test_every_field_of_a_record_is_read() -> None:
    record = parse(
        b"12,344,1086192130,c,caller=T77,later=1;hello\n SUBSYSTEM=pci\n DEVICE=+pci:0000:91:00.0\n"
    )
    assert record is not None
    assert (record.facility, record.level, record.seq, record.kernel_us) == (1, 4, 344, 1086192130)
    assert (record.flags, record.caller, record.text) == ("c", "T77", "hello")
    assert record.dictionary == {"SUBSYSTEM": "pci", "DEVICE": "+pci:0000:91:00.0"}


def test_a_plain_record_has_no_caller_and_no_dictionary() -> None:
    record = parse(b"4,1,2,-;text")
    assert record is not None
    assert (record.facility, record.caller, record.dictionary, record.text) == (0, None, {}, "text")


def test_escaped_bytes_come_back_once_and_as_utf8() -> None:
    record = parse(
        rb"4,1,2,-;two\x0alines, \xc3\xa9, back\x5cx41, bad \xff, no escape \xzz" + b"\n K=a\\x09b\n"
    )
    assert record is not None
    assert record.text == "two\nlines, é, back\\x41, bad �, no escape \\xzz"
    assert record.dictionary == {"K": "a\tb"}


def test_semicolons_and_commas_belong_to_the_text() -> None:
    record = parse(b"4,1,2,-;a;b,c=d;\n")
    assert record is not None
    assert record.text == "a;b,c=d;"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b";",
        b"NVRM: Xid (PCI:0000:91:00): 79\n",
        b"-1,1,2,-;negative\n",
        b"4,-1,2,-;negative\n",
        b"4,1,-2,-;negative\n",
        b"6,x,2,-;bad seq\n",
        b"4,1,2,-\n",
        b"4,1;too short\n",
        b"4, 1,2,-;blank\n",
        b"4,1_0,2,-;underscore\n",
        b"4,%d,2,-;beyond any kernel\n" % 10**30,
        b"4," + b"9" * 8000 + b",2,-;\n",
        b"\x00,\x00,\x00,-;\n",
        "\uff14,1,2,-;a wide digit\n".encode(),
    ],
)
def test_what_is_not_a_record_is_none(data: bytes) -> None:
    assert parse(data) is None
    assert sequence_number(data) is None


@given(
    st.binary(max_size=9000)
    | st.lists(st.sampled_from([b"4", b",", b";", b"1", b"\\x", b"\n ", b"=", b"c", b"\xff"])).map(b"".join)
)
@example(b"4,1,2,-,caller=;\\x\n =\n \n")
def test_no_bytes_make_it_raise_and_both_readings_agree(data: bytes) -> None:
    record = parse(data)
    assert sequence_number(data) == (record.seq if record else None)


@given(st.text(max_size=300), st.integers(0, 191), st.integers(0, 10**15 - 1))
def test_text_escaped_as_the_kernel_does_comes_back_unchanged(text: str, priority: int, seq: int) -> None:
    data = text.encode("utf-8", "replace")
    printed = b"".join(
        b"%c" % byte if 32 <= byte < 127 and byte != 0x5C else b"\\x%02x" % byte for byte in data
    )
    record = parse(b"%d,%d,5,-;%s\n" % (priority, seq, printed))
    assert record is not None
    assert (record.text.encode(), record.seq, record.facility * 8 + record.level) == (data, seq, priority)


def test_the_records_of_a_real_gpu_all_parse() -> None:
    if not CAPTURE.exists():
        pytest.skip(f"{CAPTURE} is not here")
    entries = [json.loads(line) for line in CAPTURE.read_text().splitlines()]
    records = [parse(entry["record"].encode()) for entry in entries if entry["witness"] == "kmsg"]
    assert len(records) > 10
    assert all(record and record.facility == 0 and record.text.startswith("NVRM: ") for record in records)
