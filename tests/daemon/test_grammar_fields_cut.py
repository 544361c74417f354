"""A line cut at any place is decoded as far as it goes, and no number is taken for whole that is not.

Where the driver's own text ends with a number of any width, a cut line cannot be told from a whole one:
`LAST` lists these fields. Nothing else may differ from what the whole line says.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from daemon.decoded import Fault
from daemon.grammar import decode, strip_prefix

CORPUS = Path(
    os.environ.get("XIDWATCH_CORPUS")
    or Path(__file__).parents[2].parent / "shared" / "data" / "kernel_log_corpus.jsonl"
)

XID = "NVRM: Xid (PCI:0000:3b:00): "
WRITTEN = (
    XID + "13, Graphics SM Warp Exception on (GPC 11, TPC 14, SM 10): Misaligned Address",
    XID + "13, Graphics Exception: ESR 0x519730=0x500000f 0x519734=0x24 0x519728=0x1f81fb60 0x51972c=0x1174",
    XID + "13, pid=452, name=a, Graphics Exception: channel 0x0000000a, Class 0000cbc0, "
    "Offset 00000510, Data 0017e2ac",
    XID + "31, pid=4, name=a, Ch 00000012, intr 10000000. MMU Fault: ENGINE GRAPHICS GPC12 GPCCLIENT_T1_8 "
    "faulted @ 0x2b57_b3000000. Fault is of type FAULT_PDE_SIZE ACCESS_TYPE_VIRT_ATOMIC",
    XID + "32, pid=4, name=a, Channel ID 0000000d intr0 00040000",
    XID + "45, pid=4, name=a, Ch 00000012 caused by previous Xid 149",
    XID + "48, An uncorrectable double bit error (DBE) has been detected on GPU in the framebuffer at "
    "physAddr 0x7fffa8860 partition 17, subpartition 12.",
    XID + "62, 0c83(1870) 0000001a 00000000",
    XID + "63, Row Remapper: New row (0x00000012bac1c3e0) marked for remapping, reset gpu to activate.",
    XID + "64, Row Remapper Error: (0x00000012bac1c3e0) - Row Remapping table is full",
    XID + "69, Class Error: ChId 0018, Class 0000cbc0, Offset 00000184, Data ffffffff, ErrorCode 00000004",
    XID + "74, NVLink: fatal error detected on link 16(0x10000, 0x20, 0x0, 0x1f, 0x0, 0x0, 0x12)",
    XID + "74, NVLink: Failed to train link 13 to remote PCI:0000:66:00",
    XID + "92, Disabling ECC single-bit error interrupts in framebuffer at logical partition 14, due to high",
    XID + "94, Contained: LTC Data Fatal (0x12,0x10). RST: No, D-RST: Yes",
    XID + "95, Uncontained: DED CBC (0x12, 0x1). physAddr: 0x0012345678 RST: Yes, D-RST: No",
    XID + "109, Ch 00000018, errorString CTX SWITCH TIMEOUT, Info 0x58005",
    XID + "110, SEC_FAULT: _IFF_POS value: 0x1f",
    XID + "119, Timeout after 45s of waiting for RPC response from GPU14 GSP! Expected function 103 "
    "(GSP_RM_ALLOC) sequence 1842 (0x20800a4c 0x41).",
    XID + "119, Timeout waiting for RPC from GSP12! Expected function 76 (GSP_RM_CONTROL) (0x20800a4c 0x41).",
    XID
    + "120, GSP task exception: load access page fault (cause:0xd1) @ pc:0x13636b2, partition:2#10, task:13",
    XID + "120, GSP kernel panic: programming error (12) @ pc:0x13636b2, aux:0x77, partition:2#10",
    XID + "136, NVLink: Link training failed for links 0x3ffff(0x11, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60)",
    XID + "137, RLW_RXPIPE interrupt hit on link 11 on GPU10: PRIV Error",
    XID + "140, An uncorrectable ECC error detected (possible firmware handling failure) "
    "DRAM:11, LTC:10, MMU:12, PCIE:13",
    XID + "143, Error status 0x65 while polling for FSP boot complete, 0xff, 0x10, 0x20, 0x30, 0x12",
    XID + "149, NETIR_LINK_EVT  Fatal   XC0 i0 Link 17 (0x021425c6 0x00000001 0x00000000 0x00000000)",
    XID + "149, NETIR Nonfatal XC0 i0 Link -1 (0x000fe406 0x00000000 0x00000000 0x00000000)",
    XID + "154, GPU recovery action changed from 0x0 (None) to 0x4 (Drain and Reset)",
    XID + "155, NETIR_LINK_DOWN Fatal XC0 i0 Link 17 : Link Down While Active.",
    XID + "157, Unable to retire TPC 13 from GPC 12 in MIG mode as there are no spare TPCs in the same GPC.",
    XID
    + "160, Marking Channel 11 in FBPA 15 along with its pair for repair. Perform reset to activate repair.",
    XID + "171, HBM, Uncorrectable DRAM error in FBPA 13 subpartition 10 physAddr 0xe9b9107e0",
    XID + "172, SM ICACHE, Uncorrectable SRAM error in GPC 17 TPC 16",
    "nvidia-nvswitch3: SXid (PCI:0000:a9:00.0): 20034, Fatal, Link 30 LTSSM Fault Up (First)",
    "nvidia-nvswitch3: SXid (PCI:0000:a9:00.0): 10001, Non-fatal, PRI WRITE SYSB error, instance=31",
    "nvidia-nvswitch3: SXid (PCI:0000:a9:00.0): 22013, Severity 1 Engine instance 60 Sub-engine instance 00",
    "nvidia-nvswitch3: SXid (PCI:0000:a9:00.0): 22013, Data {0x0000003c, 0x80000302, 0x00000001}",
)

LAST: Mapping[int, frozenset[str]] = {
    13: frozenset({"esr", "global_errors", "warp_error", "warp_error_code"}),
    45: frozenset({"caused_by_xid"}),
    109: frozenset({"info"}),
    110: frozenset({"sec_fault_value"}),
    120: frozenset({"task", "partition"}),
    140: frozenset({"pcie_errors"}),
    171: frozenset({"physical_address", "subpartition", "fbpa"}),
    172: frozenset({"tpc", "gpc"}),
    10001: frozenset({"instance"}),
}
"""Code → fields that may stand at the very end of the driver's text in no fixed width."""

LISTS = frozenset({"words", "data", "pmu_words", "rpc_data"})
"""Fields that grow with the line."""

TEXTS = frozenset({"exception", "failure", "error", "sec_fault", "activated_by"})
"""Fields that are text up to the end of the line."""


def corpus() -> list[str]:
    """Every different Xid and SXid line of the corpus; none where there is no corpus."""
    if not CORPUS.is_file():
        return []
    rows = (json.loads(row) for row in CORPUS.read_text("utf-8").splitlines())
    found = {
        strip_prefix(row["line"])[0]: None for row in rows if row["expect"]["xid"] or row["expect"]["sxid"]
    }
    return list(found)


def cuts(line: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Where the line was cut, and what was decoded from the part before. Code and pid are whole."""
    start = line.index("): ") + len("): ")
    head = line.find(", ", start)
    if head < 0:
        return
    name = line.find("name=", head)
    start = line.find(", ", name) if name >= 0 else head
    for end in range(start + 2, len(line) if start >= 0 else 0):
        decoded = decode(line[:end])
        if isinstance(decoded, Fault):
            yield end, decoded.detail


def check(line: str) -> None:
    whole = decode(line)
    assert isinstance(whole, Fault)
    assert whole.code is not None
    last = LAST.get(whole.code, frozenset())
    for end, detail in cuts(line):
        for key, value in detail.items():
            where = (line[:end], key, value)
            if key in last and whole.detail.get(key) != value:
                continue
            if key in TEXTS:
                assert str(value) in line, where
            elif key in LISTS:
                assert value == whole.detail[key][: len(value)], where
            else:
                assert whole.detail.get(key) == value, where


@pytest.mark.parametrize("line", WRITTEN)
def test_a_cut_line_gives_only_what_the_whole_line_says(line: str) -> None:
    check(line)


def test_a_cut_line_of_the_corpus_gives_only_what_the_whole_line_says() -> None:
    lines = corpus()
    if not lines:
        pytest.skip(f"no corpus at {CORPUS} (XIDWATCH_CORPUS names another)")
    for line in lines:
        check(line)


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        (
            "31, Ch 00000012, intr 10000000. MMU Fault: ENGINE GRAPHICS GPC1 GPCCLIENT_T1_8 "
            "faulted @ 0x2b57_b30",
            {"channel": 18, "intr": "0x10000000", "engine": "GRAPHICS", "gpc": 1, "client": "GPCCLIENT_T1_8"},
        ),
        (
            "13, Graphics SM Warp Exception on (GPC 1, TPC 14, S",
            {"exception_scope": "warp", "gpc": 1, "tpc": 14},
        ),
        (
            "149, NETIR_LINK_EVT  Fatal   XC0 i0 Link 01 (0x021425c6 0x000",
            {
                "unit": "NETIR_LINK_EVT",
                "printed_severity": "fatal",
                "xc": "XC0",
                "injected": False,
                "link": 1,
                "words": ["0x021425c6"],
                "reason": 33,
                "subcode_before_r575": 14,
                "subcode_from_r575": 70,
            },
        ),
        (
            "119, Timeout after 45s of waiting for RPC response from GPU4 GSP! Expected func",
            {"timeout_s": 45, "rm_gpu": 4},
        ),
        (
            "154, GPU recovery action changed from 0x0 (None) to 0x4 (Drain an",
            {"recovery_from": 0, "recovery_from_word": "None"},
        ),
    ],
)
def test_a_cut_line_is_decoded_as_far_as_it_goes(text: str, detail: dict[str, object]) -> None:
    decoded = decode(XID + text)
    assert isinstance(decoded, Fault)
    assert decoded.detail == detail


@pytest.mark.parametrize(
    "text",
    [
        "13, Graphics Exception: ESR 0xzz=0x1 0x519730=what",
        "13, Graphics SM Warp Exception on (GPC x, TPC -1, SM ?): Misaligned Address",
        "31, Ch banana, intr zz. MMU Fault: ENGINE  faulted @ 0xq_0. Fault is of type 7 8",
        "74, NVLink: fatal error detected on link -1(what, 0xgg)",
        "149, NETIR_LINK_EVT Fatal XCx i? Link ?? (0xzzzzzzzz)",
        "119, Timeout after ages of waiting for RPC response from GPU? GSP!",
        "154, GPU recovery action changed from nothing (None) to 0xz (?)",
        "140, An uncorrectable ECC error detected DRAM:many, PCIE:-1",
    ],
)
def test_registers_that_are_no_numbers_are_left_to_the_text(text: str) -> None:
    decoded = decode(XID + text)
    assert isinstance(decoded, Fault)
    assert decoded.text == text.partition(", ")[2]
    assert not any(isinstance(value, str) and value.startswith("0x") for value in decoded.detail.values())
