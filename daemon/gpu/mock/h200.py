"""What stays the same of a mock H200, what runs on it, and its links; its health is in `h200_health`."""

from __future__ import annotations

from dataclasses import replace

from daemon.gpu.mock.gpu import PROFILES, WORKING, Board, Condition
from daemon.gpu.readings import (
    ComputeInstance,
    GpuInstance,
    GpuProcess,
    Identity,
    Link,
    MaxClocks,
    MigLayout,
    NvLink,
    Processes,
)

LINKS = 18
LINK_MB_PER_S = 26_562
BROKEN_LINK = 7
"""The NVLink that is down on a degrading GPU."""
SWITCHES = ("0000:05:00.0", "0000:06:00.0", "0000:07:00.0", "0000:08:00.0")
"""The four NVSwitches of the baseboard."""

TOTAL_BYTES = 150_754_820_096
RESERVED_BYTES = 644_939_776
NOT_SUPPORTED = "not supported by this GPU"
_FIRST_PID = 5_000_000  # beyond PID_MAX_LIMIT: no process of this machine can be taken for one of these


def identity(board: Board, driver_version: str) -> Identity:
    """Who it is."""
    return Identity(
        pci=board.pci,
        index=board.index,
        minor_number=board.index,
        uuid=board.uuid,
        name="NVIDIA H200",
        brand="NVIDIA",
        architecture="hopper",
        cuda_compute_capability="9.0",
        serial=f"MOCK{board.index:09d}",
        board_part_number="692-2G520-0282-000",
        board_id=board.index,
        module_id=board.index + 1,
        vbios_version="96.00.A5.00.1A",
        inforom_image_version="G520.0282.02.02",
        inforom_oem_version="2.1",
        inforom_ecc_version="7.16",
        driver_version=driver_version,
        cuda_version="13.0",
        nvml_version=f"13.{driver_version}",
        gsp_firmware_version=driver_version,
        gsp_firmware_enabled=True,
        pci_device_id="0x233510de",
        pci_subsystem_id="0x18bf10de",
        memory_total_bytes=TOTAL_BYTES,
        memory_bus_bits=6016,
        cuda_cores=16_896,
        virtualization="none",
        max_clocks=MaxClocks(graphics_mhz=1980, sm_mhz=1980, memory_mhz=3201, video_mhz=1545),
        mig=mig(board),
    )


def without_nvml(board: Board, driver_version: str) -> Identity:
    """What the driver's files in /proc still tell of it when it no longer answers."""
    known = identity(board, driver_version)
    return Identity(
        pci=known.pci,
        minor_number=known.minor_number,
        uuid=known.uuid,
        name=known.name,
        gsp_firmware_version=known.gsp_firmware_version,
    )


def nvlink(condition: Condition) -> NvLink:
    """Its NVLinks, spread over the switches."""
    links = tuple(
        Link(
            link=number,
            up=True,
            speed_mb_per_s=LINK_MB_PER_S,
            version=6,
            remote_type="switch",
            remote_pci=SWITCHES[number % len(SWITCHES)],
            remote_link=number,
            replay_errors=0,
            recovery_errors=0,
            crc_errors=0,
        )
        for number in range(LINKS)
    )
    newer = ("receive_errors", "symbol_errors", "effective_errors", "recoveries", "recoveries_failed")
    unread = {f"links.*.{name}": NOT_SUPPORTED for name in newer}
    if condition is Condition.DEGRADING:
        down = replace(
            links[BROKEN_LINK],
            up=False,
            speed_mb_per_s=None,
            replay_errors=4096,
            recovery_errors=9,
            crc_errors=311,
        )
        links = (*links[:BROKEN_LINK], down, *links[BROKEN_LINK + 1 :])
        unread[f"links.{BROKEN_LINK}.speed_mb_per_s"] = "the link is down"
    return NvLink(links=links, unread=unread)


def processes(board: Board, condition: Condition) -> Processes:
    """What runs on it. No process of this machine can have these pids."""
    if condition not in WORKING:
        return Processes(processes=())
    first = _FIRST_PID + 100 * board.index
    if board.mig:
        each = tuple(
            GpuProcess(first + gi, "compute", PROFILES[profile].memory_bytes // 2, gi=gi, ci=0)
            for gi, profile in enumerate(board.mig, start=1)
        )
        return Processes(processes=each)
    return Processes(processes=(GpuProcess(first, "compute", used_bytes(board)),))


def used_bytes(board: Board) -> int:
    """Device memory that its programs hold while it works."""
    if board.mig:
        return sum(PROFILES[profile].memory_bytes // 2 for profile in board.mig)
    return 148_600_000_000


def mig(board: Board) -> MigLayout:
    """Its MIG instances, each with one compute instance that takes all of it."""
    instances, start = [], 0
    for gi, name in enumerate(board.mig, start=1):
        profile = PROFILES[name]
        compute = ComputeInstance(
            id=0,
            uuid=board.mig_uuid(gi),
            index=gi - 1,
            profile_id=profile.compute_id,
            placement_start=0,
            placement_size=profile.compute_slices,
            multiprocessors=profile.multiprocessors,
        )
        instances.append(
            GpuInstance(
                id=gi,
                profile_id=profile.id,
                profile=f"MIG {name}",
                placement_start=start,
                placement_size=profile.memory_slices,
                memory_total_bytes=profile.memory_bytes,
                memory_used_bytes=0,
                compute_instances=(compute,),
            )
        )
        start += profile.memory_slices
    on = bool(board.mig)
    return MigLayout(
        enabled=on, enabled_pending=on, max_devices=7 if on else 0, gpu_instances=tuple(instances)
    )
