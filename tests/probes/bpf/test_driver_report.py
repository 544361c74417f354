"""A record of the driver's tracepoints as text; the struct of driver.h written by hand."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.decoded import Fault
from daemon.event import Kind as FaultKind
from daemon.grammar import decode as decode_line
from probes.bpf.driver_report import DriverReport, Kind, decode
from probes.bpf.printed import ForeignLayout

XID = "channel 0x0000000a, intr 00000000. MMU Fault: ENGINE GRAPHICS GPC1 faulted @ 0x0_00000000"


def record(
    message: bytes, *, kind: int = 1, code: int = 31, device: bytes = b"0000:91:00.0", layout: int = 1
) -> bytes:
    """As `struct driver_report` lays it out; what follows a string is left over from other records."""
    head = struct.pack("=HHIQQI", layout, kind, 3, 1_234_567_890, 77, code)
    lengths = struct.pack("=iiI", len(device) + 1, min(len(message) + 1, 936), 0)
    return (
        head
        + lengths
        + b"irq/44-nvidia\0##"
        + (device + b"\0").ljust(24, b"#")
        + (message[:935] + b"\0").ljust(936, b"#")
    )


def test_each_field_is_read() -> None:
    assert decode(record(XID.encode())) == DriverReport(
        kind=Kind.XID,
        code=31,
        device="0000:91:00.0",
        message=XID,
        monotonic_us=1_234_567,
        cpu=3,
        task="irq/44-nvidia",
        cgroup_id=77,
        cut=False,
    )


def test_an_xid_reads_like_the_line_that_the_driver_prints_of_it() -> None:
    line = decode(record(f"{XID}\n".encode())).line
    assert line == f"NVRM: Xid (PCI:0000:91:00): 31, {XID}"
    fault = decode_line(line)
    assert isinstance(fault, Fault)
    assert (fault.kind, fault.code, str(fault.pci)) == (FaultKind.XID, 31, "0000:91:00.0")


def test_an_sxid_reads_like_the_line_that_the_driver_prints_of_it_but_for_the_switchs_number() -> None:
    line = decode(record(b"Fatal, Link 30 LTSSM Fault Up (First)", kind=2, code=20034)).line
    assert line == "nvidia-nvswitch: SXid (PCI:0000:91:00.0): 20034, Fatal, Link 30 LTSSM Fault Up (First)"
    fault = decode_line(line)
    assert isinstance(fault, Fault)
    assert (fault.kind, fault.code, str(fault.pci)) == (FaultKind.SXID, 20034, "0000:91:00.0")


def test_a_device_that_could_not_be_read_is_none_and_never_a_guess() -> None:
    blank = bytearray(record(b"x"))
    struct.pack_into("=ii", blank, 28, -14, -14)
    report = decode(bytes(blank))
    assert (report.device, report.message) == ("", "")


def test_a_message_that_fills_its_room_is_marked_as_cut() -> None:
    assert decode(record(b"x" * 2000)).cut
    assert not decode(record(b"x" * 934)).cut


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"short", "a report of 5 bytes, not 1016"),
        (record(b"x", layout=2), "layout 2"),
        (record(b"x", kind=3), "kind 3"),
    ],
)
def test_a_record_of_another_program_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(ForeignLayout, match=words):
        decode(data)


@given(st.binary(min_size=1016, max_size=1100))
def test_any_record_is_a_report_or_foreign(data: bytes) -> None:
    report = None
    try:
        report = decode(b"\x01\0\x01\0" + data[4:])
    finally:
        assert report is not None
        assert "\0" not in report.line
