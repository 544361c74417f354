"""The typed fields of an Xid's text, code by code."""

from __future__ import annotations

import json

import pytest

from daemon.code_pages import pages
from daemon.decoded import Fault, Word
from daemon.event import Kind
from daemon.grammar import decode
from daemon.grammar.fields import FIELDS

CASES: list[tuple[int, str, dict[str, object]]] = [
    (
        13,
        "Graphics SM Warp Exception on (GPC 1, TPC 4, SM 0): Misaligned Address",
        {"exception": "Misaligned Address", "exception_scope": "warp", "gpc": 1, "tpc": 4, "sm": 0},
    ),
    (
        13,
        "Graphics SM Global Exception on (GPC 10, TPC 0): Multiple Warp Errors",
        {"exception": "Multiple Warp Errors", "exception_scope": "global", "gpc": 10, "tpc": 0},
    ),
    (
        13,
        "Graphics Exception: ESR 0x519730=0x500000f 0x519734=0x0",
        {
            "esr": {"0x519730": "0x500000f", "0x519734": "0x0"},
            "warp_error_code": "0xf",
            "warp_error": "MISALIGNED_ADDR",
            "global_errors": [],
        },
    ),
    (  # the second SM of a TPC: its block of registers lies 0x80 further on
        13,
        "Graphics Exception: ESR 0x5157b0=0x12e000e 0x5157b4=0x124 0x5157a8=0xf81eb60 0x5157ac=0x1174",
        {
            "esr": {
                "0x5157b0": "0x12e000e",
                "0x5157b4": "0x124",
                "0x5157a8": "0xf81eb60",
                "0x5157ac": "0x1174",
            },
            "warp_error_code": "0xe",
            "warp_error": "OOR_ADDR",
            "global_errors": ["MULTIPLE_WARP_ERRORS", "BPT_PAUSE", "bit 8"],
        },
    ),
    (
        13,
        "Graphics Exception: ESR 0x519730=0x20 0x404600=0x80000002",
        {"esr": {"0x519730": "0x20", "0x404600": "0x80000002"}, "warp_error_code": "0x20"},
    ),
    (
        13,
        "Graphics Exception: channel 0x0000000a, Class 0000cbc0, Offset 00000510, Data 0017e2ac",
        {"channel": 10, "class_id": "0xcbc0", "method_offset": "0x510", "method_data": "0x17e2ac"},
    ),
    (
        13,
        "Graphics Exception: ChID 0018, Class 0000a0b5, Offset 00000000, Data 00000000",
        {"channel": 24, "class_id": "0xa0b5", "method_offset": "0x0", "method_data": "0x0"},
    ),
    (
        13,
        "Graphics Exception: Shader Program Header 11 Error",
        {"exception": "Shader Program Header 11 Error"},
    ),
    (
        31,
        "channel 0x0000000a, intr 00000000. MMU Fault: ENGINE GRAPHICS GPC1 GPCCLIENT_T1_8 faulted @ "
        "0x2b57_b3000000. Fault is of type FAULT_PDE ACCESS_TYPE_VIRT_WRITE",
        {
            "channel": 10,
            "intr": "0x0",
            "engine": "GRAPHICS",
            "gpc": 1,
            "client": "GPCCLIENT_T1_8",
            "fault_address": "0x2b57b3000000",
            "fault_type": "FAULT_PDE",
            "access_type": "ACCESS_TYPE_VIRT_WRITE",
        },
    ),
    (
        31,
        "Ch 00000012, intr 10000000. MMU Fault: ENGINE CE2 HUBCLIENT_CE0 faulted @ 0x0_00000000. "
        "Fault is of type FAULT_PTE ACCESS_TYPE_READ",
        {
            "channel": 18,
            "intr": "0x10000000",
            "engine": "CE2",
            "client": "HUBCLIENT_CE0",
            "fault_address": "0x0",
            "fault_type": "FAULT_PTE",
            "access_type": "ACCESS_TYPE_READ",
        },
    ),
    (
        32,
        "Channel ID 0000000d intr0 00040000",
        {"channel": 13, "intr": "0x40000", "intr_bits": ["PBENTRY"]},
    ),
    (
        32,
        "Channel ID 00000000 intr 10004000",
        {"channel": 0, "intr": "0x10004000", "intr_bits": ["GPPTR", "bit 28"]},
    ),
    (
        31,
        "Ch 00000003, engmask 00000101, intr 10000000",
        {"channel": 3, "engine_mask": "0x101", "intr": "0x10000000"},
    ),
    (43, "channel 0x0000000a", {"channel": 10}),
    (8, "Channel 00000002", {"channel": 2}),
    (45, "Ch 00000002 caused by previous Xid 149", {"channel": 2, "caused_by_xid": 149}),
    (43, "Chaos 00000002", {}),
    (
        63,
        "Row Remapper: New row (0x00000012bac1c3e0) marked for remapping, reset gpu to activate.",
        {"row_address": "0x12bac1c3e0", "repair": "pending"},
    ),
    (63, "Row Remapper: New row marked for remapping, reset gpu to activate.", {"repair": "pending"}),
    (
        64,
        "Row Remapper Error: (0x00000012bac1c3e0) - All reserved rows for bank are remapped",
        {
            "row_address": "0x12bac1c3e0",
            "repair": "failed",
            "failure": "All reserved rows for bank are remapped",
        },
    ),
    (
        64,
        "Row Remapper: (0x00000012bac1c3e0) - Attempting to remap a row that is already pending remapping. "
        "Remapping will occur when the GPU is reset",
        {"row_address": "0x12bac1c3e0", "repair": "pending"},
    ),
    (
        64,
        "DRAM Retirement failed due to no spare for retirement at 0x00000012bac1c3e0",
        {"row_address": "0x12bac1c3e0", "repair": "failed", "failure": "no spare for retirement"},
    ),
    (
        64,
        "Dynamic Page Retirement: Blacklisting failed.  "
        "Page should have been blacklisted on boot(0x00000000007fffa8).",
        {"page_address": "0x7fffa8", "repair": "failed"},
    ),
    (63, "Retiring page...", {}),
    (
        63,
        "Dynamic Page Retirement: New page retired, reboot to activate (0x00000000000a1b2c).",
        {"page_address": "0xa1b2c", "repair": "pending"},
    ),
    (64, "Row remapping failure", {"repair": "failed"}),
    (
        48,
        "An uncorrectable double bit error (DBE) has been detected on GPU in the framebuffer at "
        "physAddr 0x7fffa8860 partition 7, subpartition 1.",
        {
            "unit": "framebuffer",
            "physical_address": "0x7fffa8860",
            "partition": 7,
            "subpartition": 1,
        },
    ),
    (48, "GSP-RISCV uncorrectable ECC error", {"unit": "GSP-RISCV"}),
    (
        48,
        "An uncorrectable ECC error has been detected on GPU in GSP-RISCV location 3",
        {"unit": "GSP-RISCV"},
    ),
    (48, "channel 0x00000002", {"channel": 2}),
    (
        171,
        "GDDR, Uncorrectable DRAM error in FBPA 3 subpartition 0 physAddr 0xe9b9107e0",
        {"unit": "GDDR", "fbpa": 3, "subpartition": 0, "physical_address": "0xe9b9107e0"},
    ),
    (172, "SM ICACHE, Uncorrectable SRAM error in GPC 7 TPC 6", {"unit": "SM ICACHE", "gpc": 7, "tpc": 6}),
    (172, "GSP-RISCV, Uncorrectable SRAM error", {"unit": "GSP-RISCV"}),
    (
        92,
        "Disabling ECC single-bit error interrupts in framebuffer at logical partition 4, "
        "due to high error rate",
        {"unit": "framebuffer", "partition": 4},
    ),
    (92, "SM SBE interrupt storm detected", {"unit": "SM"}),
    (
        156,
        "Retiring TPC 3 from GPC 2 with a spare from the same GPC.",
        {"tpc": 3, "gpc": 2, "repair": "pending"},
    ),
    (
        157,
        "Unable to retire TPC 3 from GPC 2 as there are no spare TPCs available.",
        {"tpc": 3, "gpc": 2, "repair": "failed"},
    ),
    (
        160,
        "Marking Channel 1 in FBPA 5 along with its pair for repair. Perform GPU reset to activate repair.",
        {"memory_channel": 1, "fbpa": 5, "repair": "pending", "activated_by": "GPU reset"},
    ),
    (
        160,
        "Marking LTS 2 in FPB 5 along with its pair for repair. Perform GPU reset to activate repair.",
        {"lts": 2, "fbp": 5, "repair": "pending", "activated_by": "GPU reset"},
    ),
    (161, "Repairing Channel failed as there are no more spare channels.", {"repair": "failed"}),
    (61, "0c83(1870) 00000000 00000000", {"pmu_words": ["0c83(1870)", "00000000", "00000000"]}),
    (62, "0c83(1870) 00000000 00000000", {"pmu_words": ["0c83(1870)", "00000000", "00000000"]}),
    (62, "Internal microcode error.", {}),
    (110, "SEC_FAULT: _FAULT_ECC", {"sec_fault": "FAULT_ECC"}),
    (110, "SEC_FAULT: _IFF_POS value: 0x1f", {"sec_fault": "IFF_POS", "sec_fault_value": "0x1f"}),
    (
        136,
        "NVLink: Link training failed for link 4(0x1, 0x0, 0x10, 0x0, 0x0, 0x0, 0x0)",
        {"link": 4, "words": ["0x1", "0x0", "0x10", "0x0", "0x0", "0x0", "0x0"]},
    ),
    (
        136,
        "NVLink: Link training failed for links 0x3ffff(0x1, 0x0, 0x10, 0x0, 0x0, 0x0, 0x0)",
        {"link_mask": "0x3ffff", "words": ["0x1", "0x0", "0x10", "0x0", "0x0", "0x0", "0x0"]},
    ),
    (
        137,
        "RLW_RXPIPE interrupt hit on link 11 on GPU0: PRIV Error",
        {"unit": "RLW_RXPIPE", "link": 11, "rm_gpu": 0, "error": "PRIV Error"},
    ),
    (
        143,
        "Error status 0x65 while polling for FSP boot complete, 0xff, 0x0, 0x0, 0x0, 0x00000012",
        {
            "failed_step": "fsp_boot",
            "status": "0x65",
            "words": ["0xff", "0x0", "0x0", "0x0", "0x00000012"],
        },
    ),
    (
        143,
        "FSP fuse error check has failed. Status = 0xbad0.",
        {"failed_step": "fsp_fuse_check", "status": "0xbad0"},
    ),
    (
        155,
        "NETIR_LINK_DOWN Fatal XC0 i0 Link 07 : Link Down While Active.",
        {
            "unit": "NETIR_LINK_DOWN",
            "printed_severity": "fatal",
            "xc": "XC0",
            "injected": False,
            "link": 7,
        },
    ),
    (175, "GPU memory subsystem timeout (type 2) detected", {"timeout_type": 2}),
    (
        69,
        "Class Error: ChId 0008, Class 0000cbc0, Offset 00000184, Data ffffffff, ErrorCode 00000004",
        {
            "channel": 8,
            "class_id": "0xcbc0",
            "method_offset": "0x184",
            "method_data": "0xffffffff",
            "error_code": "0x4",
        },
    ),
    (
        74,
        "NVLink: fatal error detected on link 6(0x10000, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0)",
        {
            "printed_severity": "fatal",
            "link": 6,
            "words": ["0x10000", "0x0", "0x0", "0x0", "0x0", "0x0", "0x0"],
        },
    ),
    (
        74,
        "NVLink: Failed to train link 3 to remote PCI:0000:66:00",
        {"link": 3, "remote_pci": "0000:66:00.0"},
    ),
    (
        94,
        "Contained: CE User Channel (0x9). RST: No, D-RST: No",
        {
            "contained": True,
            "unit": "CE User Channel",
            "unit_location": "0x9",
            "reset_required": False,
            "drain_and_reset_required": False,
        },
    ),
    (
        95,
        "Uncontained: LTC TAG (0x2, 0x1). physAddr: 0x00001000 RST: Yes, D-RST: No",
        {
            "contained": False,
            "unit": "LTC TAG",
            "unit_location": "0x2, 0x1",
            "physical_address": "0x1000",
            "reset_required": True,
            "drain_and_reset_required": False,
        },
    ),
    (94, "Ch 00000008", {"channel": 8}),
    (
        109,
        "Ch 00000008, errorString CTX SWITCH TIMEOUT, Info 0x58005",
        {"channel": 8, "error": "CTX SWITCH TIMEOUT", "info": "0x58005"},
    ),
    (
        119,
        "Timeout after 6s of waiting for RPC response from GPU4 GSP! Expected function 103 (GSP_RM_ALLOC) "
        "(0x2081 0x4).",
        {
            "timeout_s": 6,
            "rm_gpu": 4,
            "rpc_function": 103,
            "rpc_function_name": "GSP_RM_ALLOC",
            "rpc_data": ["0x2081", "0x4"],
        },
    ),
    (
        119,
        "Timeout after 45s of waiting for RPC response from GPU0 GSP! Expected function 76 (GSP_RM_CONTROL) "
        "sequence 1842 (0x20800a4c 0x4).",
        {
            "timeout_s": 45,
            "rm_gpu": 0,
            "rpc_function": 76,
            "rpc_function_name": "GSP_RM_CONTROL",
            "rpc_sequence": 1842,
            "rpc_data": ["0x20800a4c", "0x4"],
        },
    ),
    (
        119,
        "Timeout waiting for RPC from GSP! Expected function GSP_RM_CONTROL (0x20800a4c 0x4).",
        {"rpc_function_name": "GSP_RM_CONTROL", "rpc_data": ["0x20800a4c", "0x4"]},
    ),
    (
        119,
        "Timeout waiting for RPC from GSP1! Expected function 76 (GSP_RM_CONTROL) (0x20800a4c 0x4).",
        {
            "rm_gpu": 1,
            "rpc_function": 76,
            "rpc_function_name": "GSP_RM_CONTROL",
            "rpc_data": ["0x20800a4c", "0x4"],
        },
    ),
    (
        120,
        "GSP kernel panic: fatal hardware error (3) @ pc:0x100, aux:0x7, partition:2#0",
        {
            "crashed": "kernel",
            "crash": "panic",
            "exception": "fatal hardware error",
            "panic_code": 3,
            "program_counter": "0x100",
            "aux": "0x7",
            "partition": "2#0",
        },
    ),
    (
        120,
        "GSP task timeout @ pc:0x100, partition:2#0, task:3",
        {
            "crashed": "task",
            "crash": "timeout",
            "program_counter": "0x100",
            "partition": "2#0",
            "task": 3,
        },
    ),
    (
        120,
        "GSP task exception: load access page fault (cause:0xd) @ pc:0x13636b2, partition:2#0, task:3",
        {
            "crashed": "task",
            "crash": "exception",
            "exception": "load access page fault",
            "cause": "0xd",
            "program_counter": "0x13636b2",
            "partition": "2#0",
            "task": 3,
        },
    ),
    (
        137,
        "NVLink remote translation error: faulted @ 0x1_00000010. Fault is of type FAULT_PTE "
        "ACCESS_TYPE_READ",
        {"fault_address": "0x100000010", "fault_type": "FAULT_PTE", "access_type": "ACCESS_TYPE_READ"},
    ),
    (
        140,
        "An uncorrectable ECC error detected (possible firmware handling failure) "
        "DRAM:1, LTC:0, MMU:0, PCIE:2",
        {"dram_errors": 1, "ltc_errors": 0, "mmu_errors": 0, "pcie_errors": 2},
    ),
    (
        154,
        "GPU recovery action changed from 0x0 (None) to 0x4 (Drain and Reset)",
        {
            "recovery_from": 0,
            "recovery_from_word": "None",
            "recovery_to": 4,
            "recovery_to_word": "Drain and Reset",
        },
    ),
    (79, "GPU has fallen off the bus.", {}),
    (999, "Ch 00000008", {"channel": 8}),
]


@pytest.mark.parametrize(("code", "text", "detail"), CASES)
def test_the_text_of_a_code_gives_its_fields(code: int, text: str, detail: dict[str, object]) -> None:
    xid = decode(f"NVRM: Xid (PCI:0000:00:06): {code}, pid=4, name=x, {text}")
    assert isinstance(xid, Fault)
    assert xid.detail == detail
    assert xid.text == text
    assert json.loads(json.dumps(dict(xid.detail))) == detail


@pytest.mark.parametrize(("code", "text", "detail"), CASES)
def test_what_each_field_means_is_written_beside_it(code: int, text: str, detail: dict[str, object]) -> None:
    assert set(detail) <= set(FIELDS), (code, text)


def test_a_meaning_is_one_line() -> None:
    for key, line in FIELDS.items():
        assert key == key.lower()
        assert 3 <= len(line) <= 125, key
        assert "\n" not in line
        assert not line.endswith("."), key


NO_PUBLISHED_TEXT = frozenset({68, 79, 121, 122, 123, 158, 162, 163})
"""79 says all it has in one sentence; of the others no text beyond a channel was ever published."""


def test_every_code_that_has_a_page_and_a_published_text_has_a_case_here() -> None:
    have = {code for code, _, detail in CASES if detail} | set(range(144, 151))
    met = {code for found in pages() if found.kind is Kind.XID for code in found.codes}
    assert met - have == NO_PUBLISHED_TEXT


NVLINK5 = "149, NETIR_LINK_EVT  Fatal   XC0 i0 Link 01 (0x021425c6 0x00000001 0x00000000 0x00000000)"


def test_an_nvlink5_line_names_what_each_reading_of_its_words_is() -> None:
    xid = decode(f"NVRM: Xid (PCI:0009:01:00): {NVLINK5}")
    assert isinstance(xid, Fault)
    assert xid.word is Word.FATAL
    assert xid.detail == {
        "unit": "NETIR_LINK_EVT",
        "printed_severity": "fatal",
        "xc": "XC0",
        "injected": False,
        "link": 1,
        "words": ["0x021425c6", "0x00000001", "0x00000000", "0x00000000"],
        "reason": 33,
        "subcode_before_r575": 14,
        "subcode_from_r575": 70,
        "error_status": "0x00000001",
    }


@pytest.mark.parametrize(
    ("text", "word", "link"),
    [
        ("SAW_MVB Nonfatal XC0 i0 Link 00 (0x1 0x8 0x0 0x0)", Word.NONFATAL, 0),
        ("NETIR Fatal XC0 i0 Link -1 (0x000fe406 0x0 0x0 0x0 0x0 0x0)", Word.FATAL, -1),
        ("TLW_RX/TLW_RX_PIPE0  Non-fatal XC1 i0 Link 12 (0x0000000a)", Word.NONFATAL, 12),
    ],
)
@pytest.mark.parametrize("process", ["", "pid=876766, name=ray::WorkerDict, "])
def test_an_nvlink5_line_of_any_width_gives_verdict_and_link(
    process: str, text: str, word: Word, link: int
) -> None:
    for code in range(144, 151):
        xid = decode(f"NVRM: Xid (PCI:0009:01:00): {code}, {process}{text}")
        assert isinstance(xid, Fault)
        assert (xid.word, xid.detail["link"]) == (word, link)


def test_a_verdict_in_the_text_of_another_code_is_no_verdict() -> None:
    xid = decode(f"NVRM: Xid (PCI:0009:01:00): {NVLINK5.replace('149', '43')}")
    assert isinstance(xid, Fault)
    assert xid.word is None
