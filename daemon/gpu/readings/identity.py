"""Who a GPU is: what stays the same while the driver is loaded, and its MIG layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from daemon.gpu.readings.mig import MigLayout
from daemon.gpu.readings.section import Section


@dataclass(frozen=True, slots=True)
class MaxClocks(Section):
    """The highest clocks that the GPU can run at."""

    graphics_mhz: int | None = None
    sm_mhz: int | None = None
    memory_mhz: int | None = None
    video_mhz: int | None = None


@dataclass(frozen=True, slots=True)
class Identity(Section):
    """One GPU as NVML names it. `mig` is read anew each time, the rest once per driver load."""

    pci: str
    """Domain:bus:device.function, lower-case hex: `0000:91:00.0`."""
    index: int | None = None
    """NVML index; another GPU may have it after a GPU was lost and the driver reloaded."""
    minor_number: int | None = None
    """N of /dev/nvidiaN."""
    uuid: str | None = None
    name: str | None = None
    """Product name: `NVIDIA H200`."""
    brand: str | None = None
    architecture: str | None = None
    """`hopper`, `blackwell`, …; `unknown (N)` for one that is newer than this program."""
    cuda_compute_capability: str | None = None
    """`9.0`."""
    serial: str | None = None
    """Board serial number."""
    board_part_number: str | None = None
    board_id: int | None = None
    """The same for all GPUs of one board."""
    module_id: int | None = None
    """Place of the module on its baseboard (SXM)."""
    vbios_version: str | None = None
    inforom_image_version: str | None = None
    inforom_oem_version: str | None = None
    inforom_ecc_version: str | None = None
    driver_version: str | None = None
    cuda_version: str | None = None
    """Newest CUDA that the driver supports: `13.0`."""
    nvml_version: str | None = None
    gsp_firmware_version: str | None = None
    gsp_firmware_enabled: bool | None = None
    pci_device_id: str | None = None
    """Device and vendor: `0x233510de`."""
    pci_subsystem_id: str | None = None
    memory_total_bytes: int | None = None
    memory_bus_bits: int | None = None
    cuda_cores: int | None = None
    virtualization: str | None = None
    """`none`, `passthrough`, `vgpu`, `host_vgpu` or `host_vsga`."""
    max_clocks: MaxClocks = field(default_factory=MaxClocks)
    mig: MigLayout | None = None
    """None when it was not asked for."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """Why a field is null: path (`max_clocks.video_mhz`) → reason. `mig` has reasons of its own."""
