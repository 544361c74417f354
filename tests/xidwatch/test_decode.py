"""`xidwatch decode`: one JSON line for every line of input."""

from __future__ import annotations

import io
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from xidwatch.decode import LONGEST_LINE, run

XID = "NVRM: Xid (PCI:0000:3b:00 GPU-I:01 GPU-CI:02): 79, pid=9, name=a, GPU has fallen off the bus."
SXID = "nvidia-nvswitch3: SXid (PCI:0000:a9:00.0): 20034, Fatal, Link 30 LTSSM Fault Up (First)"


def decoded(data: bytes) -> list[Any]:
    """The JSON values that `run` prints for `data`."""
    out = io.StringIO()
    assert run(io.BytesIO(data), out) == 0
    text = out.getvalue()
    assert text.isascii()
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def one(line: str) -> Any:
    """The value of a single line."""
    (value,) = decoded(line.encode() + b"\n")
    return value


def test_an_xid_gives_the_keys_of_an_event_that_a_line_can_give() -> None:
    event = one(f"4,359,26994671,c;{XID}")
    assert event["kind"] == "xid"
    assert event["code"] == 79
    assert event["severity"] == "fatal"
    assert event["blame"] == "hardware"
    assert event["gpu"]["pci"] == "0000:3b:00.0"
    assert event["gpu"]["mig"] == {"gi": 1, "ci": 2}
    assert event["gpu"]["uuid"] is None
    assert event["nvswitch"] is None
    assert (event["process"]["pid"], event["process"]["name"]) == (9, "a")
    assert event["lines"] == [XID]
    assert event["origin"] == "kernel"
    assert event["drill"] is False
    for key in ("name", "summary", "action", "action_text"):
        assert event[key]


def test_an_sxid_is_about_a_switch_and_no_gpu() -> None:
    event = one(f"[6781753.404587] {SXID}")
    assert event["kind"] == "sxid"
    assert event["nvswitch"] == {"pci": "0000:a9:00.0", "instance": 3}
    assert (event["gpu"], event["process"]) == (None, None)
    assert event["detail"] == {"printed_severity": "fatal", "link": 30, "first": True}
    assert event["severity"] == "fatal"


def test_every_event_has_the_same_keys() -> None:
    events = decoded(
        "\n".join(
            (
                XID,
                SXID,
                "NVRM: GPU 0000:91:00.0: GPU has fallen off the bus.",
                "NVRM: Xid error: xyz",
                "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  550.90.07  Fri May 31",
                "NVRM: Xid (PCI:0000:3b:00): 99999999999999999999, x",
            )
        ).encode()
    )
    assert [event["kind"] for event in events] == ["xid", "sxid", "gpu_lost", "nvrm", "driver_loaded", "xid"]
    assert len({tuple(event) for event in events}) == 1
    assert events[4]["driver_version"] == "550.90.07"
    assert (events[5]["code"], events[5]["detail"]["code_text"]) == (None, "99999999999999999999")


def test_what_is_no_fault_is_null() -> None:
    lines = (
        "",
        "Linux version 6.18",
        "NVRM: GPU at PCI:0000:01:00: GPU-462c5715-f9c5-3eed-56ad-35fdd066205f",
        "NVRM: GPU Board Serial Number: 1653723052734",
        "NVRM: GPU4 RPC history (CPU -> GSP):",
        f"Nov 22 14:56:44 host app[1]: {XID}",
        f"x {XID}",
    )
    assert decoded("\n".join((*lines, "")).encode()) == [None] * len(lines)


def test_origin_is_reported_and_decides_nothing() -> None:
    origins = {
        f"4,1,1,-;{XID}": "kernel",
        f"12,1,1,-;{XID}": "userspace",
        f"kern  :warn  : [    1.000000] {XID}": "kernel",
        f"kwi 15 07:56:59 testowy kernel: {XID}": "unknown",
        XID: "unknown",
    }
    for line, origin in origins.items():
        event = one(line)
        assert (event["code"], event["origin"]) == (79, origin)


def test_a_drill_is_marked() -> None:
    event = one("xidwatch-drill: xid (PCI:0000:00:00): 79, pid=1, name=x, GPU has fallen off the bus.")
    assert (event["kind"], event["code"], event["drill"]) == ("xid", 79, True)


def test_lines_end_at_newlines_only() -> None:
    separators = "\r\x0b\x0c\x1c\x85\u2028\u2029"
    events = decoded(f"{XID}{separators}\n{XID}\r\n{XID}".encode())
    assert len(events) == 3
    assert events[0]["lines"][0].startswith(XID + r"\x0d\x0b\x0c\x1c\x85")
    assert events[1]["lines"] == events[2]["lines"] == [XID]


def test_a_process_name_is_decoded_and_the_line_is_cleaned() -> None:
    event = one("3,5,6,c;NVRM: Xid (PCI:0000:3b:00): 13, name=a\\x0a\\x1b[31mb")
    assert (event["process"]["pid"], event["process"]["name"]) == (None, "a\n\x1b[31mb")
    assert event["lines"] == [r"NVRM: Xid (PCI:0000:3b:00): 13, name=a\x0a\x1b[31mb"]


def test_bytes_that_are_no_utf8_are_shown() -> None:
    (event,) = decoded(b"NVRM: Xid (PCI:0000:3b:00): 43, pid=1, name=a\xff\x00, Ch 00000008\n")
    assert event["process"]["name"] == "a\\xff\0"
    assert event["detail"] == {"channel": 8}


def test_a_line_without_end_is_cut_and_the_next_one_is_read() -> None:
    events = decoded(f"{XID}{'x' * 3 * LONGEST_LINE}\n{SXID}\n".encode())
    assert [event["kind"] for event in events] == ["xid", "sxid"]


def test_nothing_in_gives_nothing_out() -> None:
    assert decoded(b"") == []


@given(st.lists(st.binary(max_size=80).filter(lambda data: b"\n" not in data), max_size=6))
def test_any_bytes_give_one_answer_a_line(lines: list[bytes]) -> None:
    assert len(decoded(b"".join(line + b"\n" for line in lines))) == len(lines)
