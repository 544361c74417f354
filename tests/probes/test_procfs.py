from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probes.procfs import ProcGpu, driver_version, gpus

INFORMATION = """\
Model: \t\t NVIDIA H200
IRQ:   \t\t 44
GPU UUID: \t GPU-11111111-2222-3333-4444-555555555555
Video BIOS: \t 96.00.bc.00.01
Bus Type: \t PCIe
DMA Size: \t 52 bits
DMA Mask: \t 0xfffffffffffff
Bus Location: \t 0000:91:00.0
Device Minor: \t 3
GPU Firmware: \t 580.159.04
GPU Excluded:\t No
"""


def put(root: Path, bdf: str, information: str | bytes) -> None:
    directory = root / "gpus" / bdf
    directory.mkdir(parents=True)
    data = information.encode() if isinstance(information, str) else information
    (directory / "information").write_bytes(data)


def test_a_gpu_is_described_by_its_information_file(tmp_path: Path) -> None:
    put(tmp_path, "0000:91:00.0", INFORMATION)
    assert gpus(tmp_path) == [
        ProcGpu("0000:91:00.0", "GPU-11111111-2222-3333-4444-555555555555", "NVIDIA H200", 3, "580.159.04")
    ]


def test_gpus_come_by_address_and_a_wide_domain_is_one_spelling(tmp_path: Path) -> None:
    for bdf in ("00000001:03:00.0", "0000:91:00.0", "10000:01:00.0"):
        put(tmp_path, bdf, "")
    assert [gpu.pci for gpu in gpus(tmp_path)] == ["0000:91:00.0", "0001:03:00.0", "10000:01:00.0"]


def test_what_the_driver_does_not_say_is_none(tmp_path: Path) -> None:
    put(
        tmp_path,
        "0000:91:00.0",
        "Model: Unknown\nGPU UUID: GPU-????????-????-????-????????????\nDevice Minor: x\nGPU Firmware: N/A\n",
    )
    assert gpus(tmp_path) == [ProcGpu("0000:91:00.0", None, None, None, None)]


@given(st.binary(max_size=500))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_is_tolerated(tmp_path: Path, data: bytes) -> None:
    directory = tmp_path / "gpus" / "0000:91:00.0"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "information").write_bytes(data)
    (tmp_path / "version").write_bytes(data)
    assert [gpu.pci for gpu in gpus(tmp_path)] == ["0000:91:00.0"]
    driver_version(tmp_path)


def test_other_entries_are_no_gpus(tmp_path: Path) -> None:
    (tmp_path / "gpus" / "0000:91:00.0").mkdir(parents=True)  # without an information file
    (tmp_path / "gpus" / "power").mkdir()
    (tmp_path / "gpus" / "0000:zz:00.0").touch()
    assert gpus(tmp_path) == [ProcGpu("0000:91:00.0", None, None, None, None)]


def test_without_a_driver_there_are_no_gpus_and_no_version(tmp_path: Path) -> None:
    assert gpus(tmp_path / "nowhere") == []
    assert driver_version(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("line", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (dvs)",
            "580.159.04",
        ),
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.57.02  Tue Jul 13 16:14:05 UTC 2021",
            "470.57.02",
        ),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  304.137  Thu Sep 14", "304.137"),
        ("GCC version:  gcc version 12.3.0", None),
    ],
)
def test_the_driver_version_is_read_from_every_form_of_the_line(
    tmp_path: Path, line: str, version: str | None
) -> None:
    (tmp_path / "version").write_text(f"{line}\nGCC version:  gcc version 12.3.0\n")
    assert driver_version(tmp_path) == version
