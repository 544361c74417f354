"""What the NVIDIA driver says under /proc/driver/nvidia: its version, and which GPUs it drives.

These files are printed from the driver's memory: they need no NVML and answer for a GPU that has
stopped answering, which is when its identity matters most. No driver: no GPUs, no version.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/proc/driver/nvidia")
_READ_LIMIT = 64 * 1024
_PCI = re.compile(r"([0-9a-f]{4,8}):([0-9a-f]{2}:[0-9a-f]{2}\.[0-7])")
_UUID = re.compile(r"GPU-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_VERSION = re.compile(r"Kernel Module\s.*?(\d{2,4}\.\d+(?:\.\d+)?)\b")


@dataclass(frozen=True, slots=True)
class ProcGpu:
    """A GPU as /proc/driver/nvidia/gpus/*/information describes it."""

    pci: str
    """Domain:bus:device.function, lower-case hex: `0000:91:00.0`."""
    uuid: str | None
    """`GPU-…`; None while the driver has not initialised the GPU (it prints question marks)."""
    model: str | None
    """`NVIDIA H200`; None when the driver does not say."""
    minor: int | None
    """N of /dev/nvidiaN; None when it does not parse."""
    firmware: str | None
    """Version of the GSP firmware; None when it runs none."""


def gpus(root: Path = ROOT) -> list[ProcGpu]:
    """Every GPU the driver lists, by PCI address; what it does not say of one is None."""
    found = (_gpu(directory) for directory in _entries(root / "gpus"))
    return sorted((gpu for gpu in found if gpu is not None), key=lambda gpu: gpu.pci)


def driver_version(root: Path = ROOT) -> str | None:
    """`580.159.04`; None when no driver is loaded or it does not say."""
    version = _VERSION.search(_read(root / "version"))
    return version[1] if version else None


def _gpu(directory: Path) -> ProcGpu | None:
    name = _PCI.fullmatch(directory.name)
    if name is None:
        return None
    fields = _fields(_read(directory / "information"))
    uuid = fields.get("GPU UUID", "")
    minor = fields.get("Device Minor", "")
    return ProcGpu(
        pci=f"{int(name[1], 16):04x}:{name[2]}",
        uuid=uuid if _UUID.fullmatch(uuid) else None,
        model=_said(fields.get("Model")),
        minor=int(minor) if re.fullmatch(r"[0-9]{1,6}", minor) else None,
        firmware=_said(fields.get("GPU Firmware")),
    )


def _fields(text: str) -> Mapping[str, str]:
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _said(value: str | None) -> str | None:
    return None if value in (None, "", "N/A", "Unknown") else value


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(_READ_LIMIT)
    except OSError:
        return ""
