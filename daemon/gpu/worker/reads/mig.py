"""The MIG layout: GPU instances, their compute instances, and where they lie.

MIG devices (a compute instance each) are open to everybody. GPU instances as such, and with them
placements and instances without a compute instance, take the right to the MIG configuration
(CAP_SYS_ADMIN, or /dev/nvidia-caps); without it their place is unread.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from daemon.gpu.readings import ComputeInstance, GpuInstance, MigLayout
from daemon.gpu.worker.reads import nvml
from daemon.gpu.worker.reads.convert import as_is, flag, text, whole
from daemon.gpu.worker.reads.reader import FORBIDDEN, OLD_DRIVER, Device, GpuReader, call, system

_PROFILES = nvml.number("NVML_GPU_INSTANCE_PROFILE_COUNT") or 0
_INVISIBLE = "GPU instances cannot be listed: "


def mig(device: Device, _arguments: Mapping[str, object]) -> dict[str, object]:
    """`readings.MigLayout` as JSON."""
    return layout(device).to_json()


def layout(device: Device) -> MigLayout:
    """The MIG mode and every instance. A GPU without MIG costs one call."""
    read = GpuReader(device)
    mode = read.get(("enabled", "enabled_pending"), call(nvml.items, "nvmlDeviceGetMigMode"))
    if mode is None:
        read.note(("max_devices", "gpu_instances"), read.unread["enabled"])
        return MigLayout(unread=read.unread)
    most = read.fact("max_devices", call(whole, "nvmlDeviceGetMaxMigDeviceCount"))
    enabled = flag(mode[0])
    return MigLayout(
        enabled=enabled,
        enabled_pending=flag(mode[1]),
        max_devices=most,
        gpu_instances=_gpu_instances(read, most or 0) if enabled else (),
        unread=read.unread,
    )


@dataclass(frozen=True, slots=True)
class _MigDevice:
    index: int
    handle: object
    gi: int
    ci: int


def _gpu_instances(read: GpuReader, most: int) -> tuple[GpuInstance, ...]:
    devices = list(_mig_devices(read, most))
    placed, hidden = _placed(read)
    if hidden is not None:
        read.note("gpu_instances.empty", _INVISIBLE + hidden)
    numbers = sorted({*placed, *(device.gi for device in devices)})
    return tuple(
        _gpu_instance(
            read.apart(), number, placed.get(number), hidden, [d for d in devices if d.gi == number]
        )
        for number in numbers
    )


def _mig_devices(read: GpuReader, most: int) -> Sequence[_MigDevice]:
    found = []
    for index in range(most):
        # Indices may have gaps: NotFound only says that this one is free.
        slot = read.apart()
        handle = slot.get("handle", call(as_is, "nvmlDeviceGetMigDeviceHandleByIndex", index))
        if handle is None:
            continue
        gi = slot.get("gi", system(whole, "nvmlDeviceGetGpuInstanceId", handle))
        ci = slot.get("ci", system(whole, "nvmlDeviceGetComputeInstanceId", handle))
        if gi is None or ci is None:
            read.note(f"gpu_instances.mig_device_{index}", next(iter(slot.unread.values())))
        else:
            found.append(_MigDevice(index, handle, gi, ci))
    return found


@dataclass(frozen=True, slots=True)
class _Placed:
    handle: object
    profile_id: int
    profile: str | None
    memory_total_bytes: int | None
    start: int
    size: int


def _placed(read: GpuReader) -> tuple[dict[int, _Placed], str | None]:
    """GPU instances by id, and why they could not be listed, if so."""
    found: dict[int, _Placed] = {}
    for number in range(_PROFILES):
        asking, path = read.apart(), f"mig_profile.{number}"
        profile = asking.fact(
            path,
            call(as_is, "nvmlDeviceGetGpuInstanceProfileInfo", number),
            call(as_is, "nvmlDeviceGetGpuInstanceProfileInfo", number, 1),
        )
        if profile is None:
            # A GPU has some of the profiles only; a driver refuses numbers that came after it.
            if asking.unread[path] in (OLD_DRIVER, FORBIDDEN):
                return found, asking.unread[path]
            continue
        listing = read.apart()
        handles = _instances_of(listing, profile)
        if handles is None:
            return found, listing.unread["handles"]
        for handle in handles:
            info = listing.get("info", system(as_is, "nvmlGpuInstanceGetInfo", handle))
            if info is None:
                return found, listing.unread["info"]
            name = getattr(profile, "name", None)
            placement = getattr(info, "placement")  # noqa: B009 - untyped structure
            found[nvml.member(info, "id")] = _Placed(
                handle=handle,
                profile_id=nvml.member(info, "profileId"),
                profile=name if isinstance(name, str) and name else None,
                memory_total_bytes=nvml.member(profile, "memorySizeMB") * 1024 * 1024,
                start=nvml.member(placement, "start"),
                size=nvml.member(placement, "size"),
            )
    return found, None


def _instances_of(read: GpuReader, profile: object) -> Sequence[object] | None:
    most = max(nvml.member(profile, "instanceCount"), 1)
    handles, count = nvml.gpu_instances(most), ctypes.c_uint(most)
    answer = call(
        lambda _: list(nvml.items(handles))[: count.value],
        "nvmlDeviceGetGpuInstances",
        nvml.member(profile, "id"),
        handles,
        ctypes.byref(count),
    )
    return read.get("handles", answer)


def _gpu_instance(
    read: GpuReader, number: int, placed: _Placed | None, hidden: str | None, members: Sequence[_MigDevice]
) -> GpuInstance:
    memory = None
    if members:
        ways = (
            system(as_is, "nvmlDeviceGetMemoryInfo", members[0].handle, nvml.MEMORY_V2),
            system(as_is, "nvmlDeviceGetMemoryInfo", members[0].handle),
        )
        memory = read.get(("memory_total_bytes", "memory_used_bytes"), *ways)
    else:
        read.note(("memory_total_bytes", "memory_used_bytes"), "it has no compute instance")
    if placed is None:
        place = ("profile_id", "profile", "placement_start", "placement_size")
        read.note(place, _INVISIBLE + (hidden or "not listed"))
    elif placed.profile is None:
        read.note("profile", "not named by this driver version")
    return GpuInstance(
        id=number,
        profile_id=placed.profile_id if placed else None,
        profile=placed.profile if placed else None,
        placement_start=placed.start if placed else None,
        placement_size=placed.size if placed else None,
        memory_total_bytes=nvml.member(memory, "total") if memory is not None else None,
        memory_used_bytes=nvml.member(memory, "used") if memory is not None else None,
        compute_instances=tuple(
            _compute_instance(read.apart(), placed, hidden, member) for member in members
        ),
        unread=read.unread,
    )


def _compute_instance(
    read: GpuReader, placed: _Placed | None, hidden: str | None, member: _MigDevice
) -> ComputeInstance:
    place = ("profile_id", "placement_start", "placement_size")
    info: object | None = None
    if placed is None:
        read.note(place, _INVISIBLE + (hidden or "not listed"))
    else:
        handle = read.get(
            place, system(as_is, "nvmlGpuInstanceGetComputeInstanceById", placed.handle, member.ci)
        )
        if handle is not None:
            info = read.get(place, system(as_is, "nvmlComputeInstanceGetInfo_v2", handle))
    placement = getattr(info, "placement", None)
    attributes = read.get("multiprocessors", system(as_is, "nvmlDeviceGetAttributes_v2", member.handle))
    return ComputeInstance(
        id=member.ci,
        index=member.index,
        uuid=read.get("uuid", system(text, "nvmlDeviceGetUUID", member.handle)),
        profile_id=nvml.member(info, "profileId") if info is not None else None,
        placement_start=nvml.member(placement, "start") if placement is not None else None,
        placement_size=nvml.member(placement, "size") if placement is not None else None,
        multiprocessors=nvml.member(attributes, "multiprocessorCount") if attributes is not None else None,
        unread=read.unread,
    )
