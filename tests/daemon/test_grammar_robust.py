"""No input makes the grammar raise, and no input makes it slow."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.decoded import Context, Fault
from daemon.event import Kind
from daemon.grammar import decode, find, strip_prefix
from daemon.grammar.fields import DECODERS
from daemon.text import clean

XID = "NVRM: Xid (PCI:0000:3b:00 GPU-I:01 GPU-CI:02): "
REAL = (
    XID
    + "31, pid=9, name=a, channel 0x0000000a, intr 00000000. MMU Fault: ENGINE GRAPHICS GPC1 GPCCLIENT_T1_8 "
    "faulted @ 0x2b57_b3000000. Fault is of type FAULT_PDE ACCESS_TYPE_VIRT_WRITE",
    XID + "13, Graphics SM Warp Exception on (GPC 1, TPC 4, SM 0): Misaligned Address",
    XID + "13, Graphics Exception: ESR 0x519730=0x500000f 0x519734=0x0",
    XID + "94, pid='<unknown>', name=<unknown>, Contained: SM (0x1). RST: No, D-RST: No",
    XID
    + "119, Timeout after 6s of waiting for RPC response from GPU4 GSP! Expected function 103 (X) (0x1 0x4).",
    XID + "149, NETIR_LINK_EVT  Fatal   XC0 i0 Link 01 (0x021425c6 0x00000000 0x00000000 0x00000000)",
    XID + "154, GPU recovery action changed from 0x0 (None) to 0x4 (Drain and Reset)",
    "nvidia-nvswitch3: SXid (PCI:0000:a9:00.0): 20034, Fatal, Link 30 LTSSM Fault Up (First)",
    "nvidia-nvswitch3: SXid (PCI:0000:a9:00.0): 20034, Data {0x50610002, 0x10100030}",
    "NVRM: GPU at PCI:0000:91:00: GPU-462c5715-f9c5-3eed-56ad-35fdd066205f",
    "NVRM: GPU 0000:09:00.0: RmInitAdapter failed! (0x22:0x56:894)",
    "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  550.90.07  Fri May 31 09:35:42 UTC 2024",
    "xidwatch-drill: xid (PCI:0000:00:00.0): 79, pid=1, name=x, GPU has fallen off the bus.",
    "4,359,26994671,c,caller=T1;NVRM: Xid (PCI:0000:01:00): 79, x\\x0a",
    "Nov 22 14:56:44 host kernel: [94555.573307] NVRM: Xid (PCI:0000:01:00): 79, x",
)
ANY = st.text(st.characters(exclude_categories=()), max_size=300)


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """A real line with pieces cut out, doubled, moved or replaced."""
    line = draw(st.sampled_from(REAL))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(line)))
        end = draw(st.integers(start, min(len(line), start + 20)))
        piece = draw(st.one_of(ANY.filter(lambda text: len(text) < 20), st.just(line[start:end] * 2)))
        line = line[:start] + piece + line[end:]
    return line


def check(decoded: Fault | Context | None) -> None:
    """What holds for everything that the grammar gives out."""
    if not isinstance(decoded, Fault):
        return
    assert decoded.code is None or 0 <= decoded.code < 2**32
    assert decoded.pid is None or 0 <= decoded.pid < 2**32
    assert decoded.process_name != ""
    json.dumps(dict(decoded.detail))
    if decoded.kind in (Kind.XID, Kind.SXID):
        assert decoded.pci is not None
        assert (decoded.code is None) == ("code_text" in decoded.detail)


@settings(max_examples=500)
@given(st.one_of(ANY, damaged()))
def test_any_text_decodes_without_raising(text: str) -> None:
    check(decode(text))
    check(find(text))
    message, _ = strip_prefix(text)
    check(decode(message))


@given(st.binary(max_size=300))
def test_any_bytes_decode_without_raising(data: bytes) -> None:
    for errors in ("surrogateescape", "replace", "backslashreplace"):
        message, _ = strip_prefix(data.decode("utf-8", errors))
        check(find(message))


@given(ANY, st.sampled_from(sorted(DECODERS)))
def test_any_text_of_any_code_gives_fields_that_are_json(text: str, code: int) -> None:
    xid = decode(f"NVRM: Xid (PCI:0000:3b:00): {code}, {text}")
    assert isinstance(xid, Fault)
    assert xid.code == code
    check(xid)


@given(st.sampled_from([line for line in REAL if line.startswith("NVRM: Xid")]), ANY)
def test_no_text_behind_a_name_changes_device_or_code(line: str, text: str) -> None:
    head = line[: len(XID)]
    xid = decode(f"{head}45, pid=7, name={text}")
    assert isinstance(xid, Fault)
    assert (xid.pci, xid.code, xid.pid) == ("0000:3b:00.0", 45, 7)


HEADS = (
    "",
    XID,
    XID + "9",
    "NVRM: ",
    "NVRM: Xid (",
    "NVRM: GPU at PCI:",
    "NVRM: knvlink",
    "NVRM: RmInitAdapter: ",
)
STARTS = HEADS + tuple(
    f"{XID}{code}, {text}"
    for code in sorted(DECODERS)
    for text in (
        *("", "pid=1, name=", "pid='", "Graphics Exception: ", "Contained: ", "GSP task exception: "),
        *(
            "An error detected on GPU in ",
            "Row Remapper Error: ",
            "DRAM Retirement failed ",
            "GSP kernel panic: ",
        ),
        *("NVLink: Link training failed for link ", "NETIR Fatal XC0 i0 Link ", "interrupts in a at "),
    )
)
REPEATED = (
    *(
        "9",
        " ",
        ", ",
        ": ",
        "a",
        "a, ",
        "0x0 ",
        "0x1=0x1 ",
        "0000:01:00",
        "(",
        "[ ",
        "ENGINE A ",
        "Page ",
        "RST: ",
    ),
    *(
        "Class 0,",
        "link ",
        "NVRM: ",
        "NVRM: Xid ",
        "nvidia-nvswitch",
        "kernel: ",
        "1:1 ",
        "\\x0a",
        "w: ",
        "\u202e",
    ),
)


def cost(text: str) -> float:
    """CPU seconds of the best of three: what everything that reads a line needs for this one."""
    best = float("inf")
    for _ in range(3):
        begin = time.process_time()
        find(strip_prefix(text)[0])
        clean(text)
        best = min(best, time.process_time() - begin)
    return best


@pytest.mark.parametrize("start", STARTS)
def test_the_cost_of_a_hostile_line_does_not_explode(start: str) -> None:
    # A pattern that backtracks in powers of the length needs seconds to hours for 8 KiB; an honest
    # one stays near a millisecond. The bound lies far from both.
    for piece in REPEATED:
        text = (start + piece * 8192)[:8192]
        assert cost(text) < 0.2, (start, piece)
