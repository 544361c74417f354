"""What the driver says without an Xid: lost GPUs, failed starts, dumps, and who a GPU is."""

from __future__ import annotations

import pytest

from daemon.decoded import Context, Fault, Part
from daemon.event import Kind
from daemon.grammar import decode

PROBE_TIME = (
    "NVRM: The NVIDIA GPU 0000:b3:00.0\n"
    "NVRM: (PCI ID: 10de:26b5) installed in this system has\n"
    "NVRM: fallen off the bus and is not responding to commands."
)


@pytest.mark.parametrize(
    ("line", "pci"),
    [
        ("NVRM: GPU 0000:91:00.0: GPU has fallen off the bus.", "0000:91:00.0"),
        ("NVRM: GPU at 0000:01:00.0 has fallen off the bus.", "0000:01:00.0"),
        ("NVRM: GPU at PCI:0000:01:00 has fallen off the bus.", "0000:01:00.0"),
        ("NVRM: GPU 18:00.0: GPU has fallen off the bus.", "0000:18:00.0"),
        (PROBE_TIME, "0000:b3:00.0"),
        (
            "NVRM: The NVIDIA GPU 0000:05:00.0 installed in this system has fallen off the bus and",
            "0000:05:00.0",
        ),
        ("NVRM: The NVIDIA GPU invalid-bdf.0\nNVRM: fallen off the bus and is not responding.", None),
        ("NVRM: fallen off the bus and is not responding to commands.", None),
    ],
)
def test_a_gpu_that_fell_off_the_bus_without_an_xid_is_lost(line: str, pci: str | None) -> None:
    lost = decode(line)
    assert isinstance(lost, Fault)
    assert (lost.kind, lost.code, lost.pci, lost.part) == (Kind.GPU_LOST, None, pci, Part.WHOLE)


@pytest.mark.parametrize(
    ("line", "name", "pci", "part", "detail"),
    [
        (
            "NVRM: GPU 0000:09:00.0: RmInitAdapter failed! (0x22:0x56:894)",
            "RM_INIT_ADAPTER_FAILED",
            "0000:09:00.0",
            Part.OPENING,
            {"init_status": "0x22:0x56:894"},
        ),
        (
            "NVRM: RmInitAdapter failed! (0x26:0xffff:1290)",
            "RM_INIT_ADAPTER_FAILED",
            None,
            Part.OPENING,
            {"init_status": "0x26:0xffff:1290"},
        ),
        (
            "NVRM: GPU 0000:01:00.0: rm_init_adapter failed, device minor number 3",
            "RM_INIT_ADAPTER_FAILED",
            "0000:01:00.0",
            Part.CLOSING,
            {"minor": 3},
        ),
        (
            "NVRM: RmInitAdapter: osInitNvMapping failed, bailing out of RmInitAdapter",
            "RM_INIT_ADAPTER_FAILED",
            None,
            Part.CONTINUATION,
            {},
        ),
        (
            "NVRM: The NVIDIA probe routine failed for 2 device(s).",
            "PROBE_ROUTINE_FAILED",
            None,
            Part.WHOLE,
            {"devices": 2},
        ),
        (
            "NVRM: Rate limiting GSP RPC error prints for GPU at PCI:0000:9b:00 (printing 1 of every 30).  "
            "The GPU likely needs to be reset.",
            "GSP_RPC_ERRORS_RATE_LIMITED",
            "0000:9b:00.0",
            Part.WHOLE,
            {"one_of_every": 30},
        ),
        (
            "NVRM: nvAssertFailedNoLog: Assertion failed: listCount(x) == 0 @ kern_bus_vbar2.c:346",
            "NV_ASSERT_FAILED",
            None,
            Part.WHOLE,
            {},
        ),
        (
            "NVRM: knvlinkDiscoverPostRxDetLinks_GH100: Getting peer0's postRxDetLinkMask failed!",
            "NVLINK_POST_RX_DETECT_FAILED",
            None,
            Part.WHOLE,
            {},
        ),
        (
            "NVRM: knvlinkUpdatePostRxDetectLinkMask_IMPL: Failed to update Rx Detect Link mask!",
            "NVLINK_POST_RX_DETECT_FAILED",
            None,
            Part.WHOLE,
            {},
        ),
    ],
)
def test_other_driver_trouble_has_a_stable_name(
    line: str, name: str, pci: str | None, part: Part, detail: dict[str, object]
) -> None:
    trouble = decode(line)
    assert isinstance(trouble, Fault)
    assert (trouble.kind, trouble.name, trouble.pci, trouble.part) == (Kind.NVRM, name, pci, part)
    assert trouble.detail == detail


@pytest.mark.parametrize(
    "text",
    [
        "GPU4 GSP RPC buffer contains function 103 (GSP_RM_ALLOC) and data 0x0000000000002081 0x4.",
        "GPU4 RPC history (CPU -> GSP):",
        "GPU4 RPC event history (CPU <- GSP):",
        "    entry function                   data0              data1              ts_start",
        "     0    103  GSP_RM_ALLOC          0x0000000000002081 0x0000000000000004          y",
        "    RISC-V CSR State:",
        "kgspHealthCheck_TU102: ****************************** GSP-CrashCat Report ****************",
        "kgspPrintGspBinBuildId_IMPL: GSP bin buildId: 4f09703c5c7d57baa527d6a189bb6d118bc60e49",
        "_kgspLogXid119: ********************************* GSP Timeout ****************",
        "_kgspLogXid119: Note: Please also check logs above.",
    ],
)
def test_a_line_of_a_gsp_dump_continues_what_came_before(text: str) -> None:
    dump = decode(f"NVRM: {text}")
    assert isinstance(dump, Fault)
    assert (dump.kind, dump.name, dump.part, dump.pci) == (Kind.NVRM, "GSP_DUMP", Part.CONTINUATION, None)


@pytest.mark.parametrize(
    ("line", "version"),
    [
        (
            "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  550.90.07  Fri May 31 09:35:42 UTC 2024",
            "550.90.07",
        ),
        (
            "NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  570.158.01  Release Build  (dvs@U22)",
            "570.158.01",
        ),
        (
            "NVRM: loading NVIDIA UNIX Open Kernel Module for aarch64  580.159.04  Release Build",
            "580.159.04",
        ),
        ("NVRM: loading NVIDIA Linux x86 Kernel Module  1.0-9631  Thu Nov  9 17:38:10 PST 2006", "1.0-9631"),
        ("NVRM: loading driver", None),
    ],
)
def test_a_driver_that_loads_says_its_version(line: str, version: str | None) -> None:
    loaded = decode(line)
    assert isinstance(loaded, Fault)
    assert (loaded.kind, loaded.name, loaded.detail.get("driver_version")) == (
        Kind.DRIVER_LOADED,
        None,
        version,
    )


UUID = "GPU-462c5715-f9c5-3eed-56ad-35fdd066205f"


@pytest.mark.parametrize(
    ("line", "context"),
    [
        (f"NVRM: GPU at PCI:0000:01:00: {UUID}", Context("0000:01:00.0", uuid=UUID)),
        (f"NVRM: GPU at PCI:0000:00:1E.0 {UUID}", Context("0000:00:1e.0", uuid=UUID)),
        (f"NVRM: GPU at PCI:0000:00:1E.0: {UUID.upper()}", Context("0000:00:1e.0", uuid=UUID)),
        ("NVRM: GPU at PCI:0000:00:08.0: GPU-123", Context("0000:00:08.0", uuid=None)),
        ("NVRM: GPU at PCI:garbage: GPU-123", None),
        ("NVRM: GPU Board Serial Number: 1653723052734", Context(None, serial="1653723052734")),
        ("NVRM: GPU Board Serial Number: [N/A]", Context(None, serial=None)),
        ("NVRM: GPU Board Serial Number: ", Context(None, serial=None)),
    ],
)
def test_the_driver_tells_who_a_gpu_is(line: str, context: Context | None) -> None:
    assert decode(line) == context


@pytest.mark.parametrize(
    "text",
    [
        "GPU initialized",
        "VM: invalid mmap",
        "os_pci_init_handle: invalid context!",
        "NVLink link training completed",
        "nvCheckOkFailedNoLog: Check failed: Out of memory",
    ],
)
def test_chatter_of_the_driver_is_nothing(text: str) -> None:
    assert decode(f"NVRM: {text}") is None


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("NVRM: GPU1 _kgspLogXid119: ********************* GSP Timeout *********************", "GSP_DUMP"),
        ("NVRM: GPU10 kgspHealthCheck_TU102: ************ GSP-CrashCat Report ************", "GSP_DUMP"),
        ("NVRM: GPU4 RPC history (CPU -> GSP):", "GSP_DUMP"),
        (
            "NVRM: GPU0 knvlinkDiscoverPostRxDetLinks_GH100: Getting peer0's postRxDetLinkMask failed!",
            "NVLINK_POST_RX_DETECT_FAILED",
        ),
    ],
)
def test_the_drivers_own_number_of_the_gpu_may_stand_before_the_function(line: str, name: str) -> None:
    decoded = decode(line)
    assert isinstance(decoded, Fault)
    assert decoded.name == name


def test_other_words_of_a_numbered_gpu_are_none_of_these() -> None:
    assert decode("NVRM: GPU1 kbifCacheVFInfo_GB100: Unable to read NV_PF0_INITIAL_AND_TOTAL_VFS") is None
