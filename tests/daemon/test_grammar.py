"""Lines of every form that the driver has printed: head, process, part, and what is no hit."""

from __future__ import annotations

import pytest

from daemon.decoded import Fault, Part, Word
from daemon.event import Kind, Mig
from daemon.grammar import decode, find


def fault(text: str) -> Fault:
    """The fault of a line that must be one."""
    decoded = decode(text)
    assert isinstance(decoded, Fault), decoded
    return decoded


# -- head -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "pci", "code"),
    [
        ("NVRM: Xid (PCI:0000:91:00): 79, GPU has fallen off the bus.", "0000:91:00.0", 79),
        ("NVRM: Xid (0000:91:00): 79, GPU has fallen off the bus.", "0000:91:00.0", 79),
        ("NVRM: Xid (0001:00): 8, Channel 00000002", "0000:01:00.0", 8),
        ("NVRM: Xid (PCI:0008:01:00): 149, x", "0008:01:00.0", 149),
        ("NVRM: Xid (PCI:0000:00:1E.0): 48", "0000:00:1e.0", 48),
        ("NVRM: Xid (PCI:0000:91:00): 46", "0000:91:00.0", 46),
        ("NVRM: Xid (PCI:0000:91:00): 79,", "0000:91:00.0", 79),
        ("NVRM: Xid (PCI:0000:91:00): 79, ", "0000:91:00.0", 79),
        ("NVRM: Xid (PCI:0000:91:00): 999, something new", "0000:91:00.0", 999),
        ("NVRM: Xid (PCI:0000:91:00): 4294967295, x", "0000:91:00.0", 2**32 - 1),
    ],
)
def test_an_xid_of_any_generation_has_device_and_code(line: str, pci: str, code: int) -> None:
    xid = fault(line)
    assert (xid.kind, xid.pci, xid.code, xid.name) == (Kind.XID, pci, code, None)
    assert (xid.glued, xid.drill) == (False, False)


@pytest.mark.parametrize("digits", ["4294967296", "99999999999999999999"])
def test_a_code_beyond_32_bits_is_kept_as_text(digits: str) -> None:
    xid = fault(f"NVRM: Xid (PCI:0000:91:00): {digits}, x")
    assert (xid.kind, xid.code, xid.detail["code_text"]) == (Kind.XID, None, digits)


def test_a_code_of_thousands_of_digits_is_cut() -> None:
    xid = fault(f"NVRM: Xid (PCI:0000:91:00): {'9' * 8000}, x")
    assert xid.code is None
    assert xid.detail["code_text"] == "9" * 64


@pytest.mark.parametrize(
    ("attribution", "mig"),
    [
        ("", None),
        (" GPU-I:05", Mig(5, None)),
        (" GPU-I:01 GPU-CI:02", Mig(1, 2)),
        (" GPU-I:10", Mig(10, None)),
    ],
)
def test_mig_instances_are_decimal(attribution: str, mig: Mig | None) -> None:
    xid = fault(f"NVRM: Xid (PCI:0000:3b:00{attribution}): 13, pid=9, name=a, Graphics Exception: x")
    assert xid.mig == mig
    assert xid.pci == "0000:3b:00.0"


# -- process ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rest", "pid", "name", "text"),
    [
        ("Ch 00000008", None, None, "Ch 00000008"),
        ("pid='<unknown>', name=<unknown>, Ch 00000008", None, None, "Ch 00000008"),
        ("pid=<unknown>, name=<unknown>, Ch 00000008", None, None, "Ch 00000008"),
        ("pid='12345', name=python3, Ch 00000002", 12345, "python3", "Ch 00000002"),
        ("pid='8412', name='python', Internal error.", 8412, "python", "Internal error."),
        ("pid=1122, GPU has fallen off the bus.", 1122, None, "GPU has fallen off the bus."),
        ("pid=2763, 0c83(1870) 00000000 00000000", 2763, None, "0c83(1870) 00000000 00000000"),
        ("pid=1234", 1234, None, ""),
        ("pid=9, name=compute", 9, "compute", ""),
        ("pid=9, name=compute,", 9, "compute", ""),
        ("pid=9, name=compute, ", 9, "compute", ""),
        ("pid=9, name=, Ch 00000008", 9, None, "Ch 00000008"),
        ("pid=9, name=nvc:[driver], Ch 00000008", 9, "nvc:[driver]", "Ch 00000008"),
        ("pid=9, name=ray::Worker Dict, Ch 00000008", 9, "ray::Worker Dict", "Ch 00000008"),
        ("pid=9, name=a, b, Ch 00000008", 9, "a, b", "Ch 00000008"),
        ("pid=9, name=a, RLW_REMAP  Fatal   XC0 i0", 9, "a", "RLW_REMAP  Fatal   XC0 i0"),
        ("pid=9, name=a, b, some new text", 9, "a", "b, some new text"),
        ("pid=9, name=longer-than-a-comm-is, Ch 1", 9, "longer-than-a-comm-is", "Ch 1"),
        ("name=a\nb", None, "a\nb", ""),
        ("pid=99999999999999999999, name=x, Ch 1", None, "x", "Ch 1"),
    ],
)
def test_every_form_of_the_process_is_told_from_the_text(
    rest: str, pid: int | None, name: str | None, text: str
) -> None:
    xid = fault(f"NVRM: Xid (PCI:0000:91:00): 45, {rest}")
    assert (xid.pid, xid.process_name, xid.text) == (pid, name, text)


# -- malformed, and no hits -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("NVRM: Xid error: xyz, invalid data", "MALFORMED_XID"),
        ("NVRM: Xid critical error: 79, details follow", "MALFORMED_XID"),
        ("NVRM: Xid : 32, pid=2280636", "MALFORMED_XID"),
        ("NVRM: Xid (): 48", "MALFORMED_XID"),
        ("NVRM: Xid (PCI:INVALID): 48", "MALFORMED_XID"),
        ("NVRM: Xid (PCI:garbage): 79, GPU has fallen off the bus.", "MALFORMED_XID"),
        ("NVRM: Xid (PCI:0000:00:1E.0): NOT_A_NUMBER", "MALFORMED_XID"),
        ("NVRM: Xid (PCI:0000:91:00): 0x4f, x", "MALFORMED_XID"),
        ("NVRM: Xid (PCI:0000:91:00): -1, x", "MALFORMED_XID"),
        ("NVRM: Xid (PCI:0000:91:00): \u0664\u0668, x", "MALFORMED_XID"),
        ("NVRM: Xid (PCI:0000:91:00", "MALFORMED_XID"),
        ("NVRM: Xid", "MALFORMED_XID"),
        ("NVRM: sxid (PCI:0000:02:00): 10045, info", "MALFORMED_SXID"),
        ("nvidia-nvswitch0: SXid (PCI:garbage): 20034, Fatal", "MALFORMED_SXID"),
        ("nvidia-nvswitch0: SXid (PCI:0000:a9:00.0): many, Fatal", "MALFORMED_SXID"),
    ],
)
def test_a_malformed_line_is_reported_and_not_guessed_at(line: str, name: str) -> None:
    broken = fault(line)
    assert (broken.kind, broken.name, broken.code, broken.part) == (Kind.NVRM, name, None, Part.WHOLE)


@pytest.mark.parametrize(
    "line",
    [
        "",
        " ",
        "NVRM: ",
        "NVRM: GPU initialized",
        "NVRM: Xidious things",
        "xid (PCI:0000:91:00): 79, x",
        "nvrm: xid (PCI:0000:91:00): 79, x",
        " NVRM: Xid (PCI:0000:91:00): 79, x",
        "python3: NVRM: Xid (PCI:0000:91:00): 79, x",
        "Out of memory: Killed process 4242 (NVRM: Xid (PCI:) total-vm:1024kB",
        "nvidia-nvswitch3: open (major=510)",
        "nvidia 0000:01:00.0: Direct firmware load failed with error -2",
        "xidwatch-drill: hello",
        "xidwatch-drill: xid (garbage): 79, x",
    ],
)
def test_a_line_without_the_marker_at_its_start_is_nothing(line: str) -> None:
    assert decode(line) is None


# -- glued text -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "kind", "code"),
    [
        ("mlx5_core: link upNVRM: Xid (PCI:0000:91:00): 79, GPU has fallen off the bus.", Kind.XID, 79),
        ("ok nvidia-nvswitch0: SXid (PCI:0000:a9:00.0): 20034, Fatal, Link 30 x", Kind.SXID, 20034),
        ("ok NVRM: GPU 0000:91:00.0: GPU has fallen off the bus.", Kind.GPU_LOST, None),
        ("NVRM: nvAssertFailed: x NVRM: Xid (PCI:0000:91:00): 31, x", Kind.XID, 31),
        ("NVRM: Xid error NVRM: Xid (PCI:0000:91:00): 31, x", Kind.XID, 31),
    ],
)
def test_a_fault_glued_to_other_text_is_found_and_marked(line: str, kind: Kind, code: int | None) -> None:
    found = find(line)
    assert isinstance(found, Fault)
    assert (found.kind, found.code, found.glued) == (kind, code, True)


@pytest.mark.parametrize(
    "line",
    [
        "Killed process 4242 (NVRM: Xid (PCI:) total-vm:1024kB",
        "x NVRM: GPU at PCI:0000:91:00: GPU-462c5715-f9c5-3eed-56ad-35fdd066205f",
        "x NVRM: loading NVIDIA UNIX x86_64 Kernel Module  550.90.07  Fri May 31",
        "x xidwatch-drill: xid (PCI:0000:91:00): 79, x",
        "NVRM: GPU initialized",
    ],
)
def test_nothing_weaker_is_believed_behind_other_text(line: str) -> None:
    assert find(line) is None


def test_a_line_that_stands_alone_is_found_as_it_decodes() -> None:
    for line in (
        "NVRM: Xid (PCI:0000:91:00): 79, GPU has fallen off the bus.",
        "NVRM: GPU at PCI:0000:91:00: GPU-462c5715-f9c5-3eed-56ad-35fdd066205f",
        "NVRM: Xid error: xyz",
        "NVRM: GPU4 RPC history (CPU -> GSP):",
    ):
        assert find(line) == decode(line) is not None


# -- parts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("Graphics SM Warp Exception on (GPC 1, TPC 4, SM 0): Misaligned Address", Part.OPENING),
        ("Graphics SM Warp Exception on (GPC 0, TPC 0): Out Of Range Address", Part.OPENING),
        ("Graphics SM Global Exception on (GPC 9, TPC 1, SM 0): Multiple Warp Errors", Part.OPENING),
        ("Graphics Exception: ESR 0x519730=0x500000f 0x519734=0x0", Part.OPENING),
        ("Graphics Exception: MISSING_INLINE_DATA", Part.OPENING),
        ("Graphics Exception: Shader Program Header 11 Error", Part.OPENING),
        ("Graphics Exception on GPC 3: 3D-C MEMLAYOUT Violation.", Part.OPENING),
        ("Graphics Exception: channel 0x0000000a, Class 0000cbc0, Offset 0, Data 0", Part.CLOSING),
        ("Graphics Exception: ChID 0008, Class 0000c9c0, Offset 00000510, Data 0017e2ac", Part.CLOSING),
        ("0003 00000000 00008297 00000e08 00190000 00000040", Part.WHOLE),
        ("Ch 00000001", Part.WHOLE),
        ("Graphics Exception", Part.WHOLE),
        ("", Part.WHOLE),
    ],
)
def test_the_lines_of_an_xid_13_know_their_place(text: str, part: Part) -> None:
    assert fault(f"NVRM: Xid (PCI:0000:00:06): 13, {text}").part is part
    assert fault(f"NVRM: Xid (PCI:0000:00:06): 13, pid=4, name=x, {text}").part is part


def test_every_other_xid_is_whole_whatever_it_says() -> None:
    for code in (31, 43, 45, 79, 119, 154, 999):
        assert (
            fault(f"NVRM: Xid (PCI:0000:00:06): {code}, Graphics Exception: ESR 0x1=0x1").part is Part.WHOLE
        )


SXID = "nvidia-nvswitch3: SXid (PCI:0000:a9:00.0): 20034, "


@pytest.mark.parametrize(
    ("text", "part", "word", "detail"),
    [
        (
            "Fatal, Link 30 LTSSM Fault Up (First)",
            Part.OPENING,
            Word.FATAL,
            {"printed_severity": "fatal", "link": 30, "first": True},
        ),
        (
            "Non-fatal, Link 32 egress non-posted PRIV error",
            Part.OPENING,
            Word.NONFATAL,
            {"printed_severity": "nonfatal", "link": 32},
        ),
        (
            "Non-fatal, PRI WRITE SYSB error, instance=3, chiplet=1",
            Part.OPENING,
            Word.NONFATAL,
            {"printed_severity": "nonfatal", "instance": 3, "chiplet": 1},
        ),
        ("SOE Watchdog error", Part.OPENING, None, {}),
        ("Non-fatal, Link", Part.OPENING, Word.NONFATAL, {"printed_severity": "nonfatal"}),
        (
            "Severity 1 Engine instance 37 Sub-engine instance 00",
            Part.CONTINUATION,
            None,
            {"severity_level": 1, "engine_instance": 37, "sub_engine_instance": 0},
        ),
        (
            "Data {0x50610002, 0x10100030, 0x00000000}p",
            Part.CONTINUATION,
            None,
            {"data": ["0x50610002", "0x10100030", "0x00000000"]},
        ),
    ],
)
def test_an_sxid_is_a_head_a_severity_line_and_data(
    text: str, part: Part, word: Word | None, detail: dict[str, object]
) -> None:
    sxid = fault(SXID + text)
    assert (sxid.kind, sxid.code, sxid.pci, sxid.nvswitch) == (Kind.SXID, 20034, "0000:a9:00.0", 3)
    assert (sxid.part, sxid.word, sxid.text) == (part, word, text)
    assert sxid.detail == detail


# -- drills -----------------------------------------------------------------------------------------


def test_the_line_of_a_drill_decodes_like_the_drivers_own_and_is_marked() -> None:
    rest = "(PCI:0000:00:00.0): 79, pid=1, name=x, GPU has fallen off the bus."
    drill, real = fault(f"xidwatch-drill: xid {rest}"), fault(f"NVRM: Xid {rest}")
    assert drill.drill
    assert (drill.kind, drill.code, drill.pid, drill.text) == (real.kind, real.code, real.pid, real.text)


def test_the_line_of_an_sxid_drill_names_no_switch_instance() -> None:
    drill = fault("xidwatch-drill: sxid (PCI:0000:00:00.0): 20034, Fatal, Link 30 LTSSM Fault Up")
    assert (drill.kind, drill.code, drill.word, drill.nvswitch) == (Kind.SXID, 20034, Word.FATAL, None)
    assert drill.drill
