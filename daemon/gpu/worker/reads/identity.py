"""Who the GPU is. Read once, but for MIG: the rest stays until the driver is loaded anew."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

from daemon.gpu.readings import Identity, MaxClocks, MigLayout
from daemon.gpu.worker.reads import nvml
from daemon.gpu.worker.reads.convert import flag, named, text, whole
from daemon.gpu.worker.reads.mig import layout
from daemon.gpu.worker.reads.reader import Device, GpuReader, call, system

_ARCHITECTURES = {
    2: "kepler",
    3: "maxwell",
    4: "pascal",
    5: "volta",
    6: "turing",
    7: "ampere",
    8: "ada",
    9: "hopper",
    10: "blackwell",
    13: "rubin",
}
_BRANDS = {
    0: "unknown",
    1: "Quadro",
    2: "Tesla",
    3: "NVS",
    4: "GRID",
    5: "GeForce",
    6: "Titan",
    7: "NVIDIA Virtual Applications",
    8: "NVIDIA Virtual PC",
    9: "NVIDIA Virtual Compute Server",
    10: "NVIDIA RTX Virtual Workstation",
    11: "NVIDIA Cloud Gaming",
    12: "Quadro RTX",
    13: "NVIDIA RTX",
    14: "NVIDIA",
    15: "GeForce RTX",
    16: "Titan RTX",
}
_VIRTUALIZATION = {0: "none", 1: "passthrough", 2: "vgpu", 3: "host_vgpu", 4: "host_vsga"}


def identity(device: Device, _arguments: Mapping[str, object]) -> dict[str, object]:
    """`readings.Identity` as JSON, with the MIG layout of now."""
    return _identity(GpuReader(device), layout(device)).to_json()


def _identity(read: GpuReader, mig: MigLayout) -> Identity:
    ids = read.fact(("pci_device_id", "pci_subsystem_id"), call(_pci_ids, "nvmlDeviceGetPciInfo"))
    return Identity(
        pci=read.device.pci,
        index=read.fact("index", call(whole, "nvmlDeviceGetIndex")),
        minor_number=read.fact("minor_number", call(whole, "nvmlDeviceGetMinorNumber")),
        uuid=read.fact("uuid", call(text, "nvmlDeviceGetUUID")),
        name=read.fact("name", call(text, "nvmlDeviceGetName")),
        brand=read.fact("brand", call(_brand, "nvmlDeviceGetBrand")),
        architecture=read.fact("architecture", call(_architecture, "nvmlDeviceGetArchitecture")),
        cuda_compute_capability=read.fact(
            "cuda_compute_capability", call(_major_minor, "nvmlDeviceGetCudaComputeCapability")
        ),
        serial=read.fact("serial", call(text, "nvmlDeviceGetSerial")),
        board_part_number=read.fact("board_part_number", call(text, "nvmlDeviceGetBoardPartNumber")),
        board_id=read.fact("board_id", call(whole, "nvmlDeviceGetBoardId")),
        module_id=_module_id(read),
        vbios_version=read.fact("vbios_version", call(text, "nvmlDeviceGetVbiosVersion")),
        inforom_image_version=read.fact(
            "inforom_image_version", call(text, "nvmlDeviceGetInforomImageVersion")
        ),
        inforom_oem_version=read.fact("inforom_oem_version", call(text, "nvmlDeviceGetInforomVersion", 0)),
        inforom_ecc_version=read.fact("inforom_ecc_version", call(text, "nvmlDeviceGetInforomVersion", 1)),
        driver_version=read.fact("driver_version", system(text, "nvmlSystemGetDriverVersion")),
        cuda_version=read.fact(
            "cuda_version",
            system(_cuda_version, "nvmlSystemGetCudaDriverVersion_v2"),
            system(_cuda_version, "nvmlSystemGetCudaDriverVersion"),
        ),
        nvml_version=read.fact("nvml_version", system(text, "nvmlSystemGetNVMLVersion")),
        gsp_firmware_version=read.fact("gsp_firmware_version", call(text, "nvmlDeviceGetGspFirmwareVersion")),
        gsp_firmware_enabled=_gsp_enabled(read),
        pci_device_id=ids[0] if ids else None,
        pci_subsystem_id=ids[1] if ids else None,
        memory_total_bytes=read.fact("memory_total_bytes", call(_total, "nvmlDeviceGetMemoryInfo")),
        memory_bus_bits=read.fact("memory_bus_bits", call(whole, "nvmlDeviceGetMemoryBusWidth")),
        cuda_cores=read.fact("cuda_cores", call(whole, "nvmlDeviceGetNumGpuCores")),
        virtualization=read.fact("virtualization", call(_virtualization, "nvmlDeviceGetVirtualizationMode")),
        max_clocks=MaxClocks(
            graphics_mhz=_max_clock(read, "graphics_mhz", 0),
            sm_mhz=_max_clock(read, "sm_mhz", 1),
            memory_mhz=_max_clock(read, "memory_mhz", 2),
            video_mhz=_max_clock(read, "video_mhz", 3),
        ),
        mig=mig,
        unread=read.unread,
    )


def _max_clock(read: GpuReader, name: str, clock: int) -> int | None:
    return read.fact(f"max_clocks.{name}", call(whole, "nvmlDeviceGetMaxClockInfo", clock))


def _module_id(read: GpuReader) -> int | None:
    place = ctypes.c_uint()
    return read.fact("module_id", call(lambda _: place.value, "nvmlDeviceGetModuleId", ctypes.byref(place)))


def _gsp_enabled(read: GpuReader) -> bool | None:
    # Own objects for the answer: nvidia-ml-py's defaults are shared by all threads.
    enabled, default = ctypes.c_uint(), ctypes.c_uint()
    arguments = (ctypes.byref(enabled), ctypes.byref(default))
    return read.fact(
        "gsp_firmware_enabled",
        call(lambda _: flag(enabled.value), "nvmlDeviceGetGspFirmwareMode", *arguments),
    )


def _pci_ids(info: object) -> tuple[str, str]:
    device, subsystem = nvml.member(info, "pciDeviceId"), nvml.member(info, "pciSubSystemId")
    return f"0x{device:08x}", f"0x{subsystem:08x}"


def _total(memory: object) -> int:
    return nvml.member(memory, "total")


def _brand(value: object) -> str:
    return named(_BRANDS, whole(value))


def _architecture(value: object) -> str:
    return named(_ARCHITECTURES, whole(value))


def _virtualization(value: object) -> str:
    return named(_VIRTUALIZATION, whole(value))


def _major_minor(value: object) -> str:
    return ".".join(str(whole(part)) for part in nvml.items(value))


def _cuda_version(value: object) -> str:
    # 12040 is 12.4 (nvml.h, NVML_CUDA_DRIVER_VERSION_MAJOR and _MINOR).
    version = whole(value)
    return f"{version // 1000}.{version % 1000 // 10}"
