"""The state of the NVLink fabric, in whichever of three structures the driver knows."""

from __future__ import annotations

from daemon.gpu.readings import Fabric, FabricState
from daemon.gpu.worker.reads import nvml
from daemon.gpu.worker.reads.convert import as_is, named
from daemon.gpu.worker.reads.reader import GpuReader, fill

_STATES = dict(enumerate(FabricState))
_HEALTH = {1: "healthy", 2: "unhealthy", 3: "limited_capacity"}
_CONFIGURATION = {
    1: "none",
    2: "incorrect_sysguid",
    3: "incorrect_chassis_serial",
    4: "no_partition",
    5: "insufficient_nvlinks",
    6: "incompatible_gpu_firmware",
    7: "invalid_location",
    8: "gpu_state_invalid",
}
# nvml.h, NVML_GPU_FABRIC_HEALTH_MASK_…: shift of each two-bit answer, 0 not supported, 1 true, 2 false.
_FLAGS = {
    "degraded_bandwidth": 0,
    "route_recovery": 2,
    "route_unhealthy": 4,
    "access_timeout_recovery": 6,
    "partition_assigned": 12,
}
_CONFIGURATION_SHIFT, _CONFIGURATION_MASK = 8, 0xF

_REGISTERED = ("status", "clique_id", "cluster_uuid")
_JUDGED = ("health", "incorrect_configuration", *_FLAGS)
_NO_PART = "this GPU is no part of a fabric"
_UNFINISHED = "registration with the fabric manager is not completed"
_SILENT = "the fabric does not tell"


def fabric(read: GpuReader) -> Fabric:
    """`readings.Fabric`; reasons go under `fabric.…`."""
    info = read.get(
        _paths(("state", *_REGISTERED, *_JUDGED)),
        fill(as_is, "nvmlDeviceGetGpuFabricInfoV", "c_nvmlGpuFabricInfo_v3_t"),
        fill(as_is, "nvmlDeviceGetGpuFabricInfoV", "c_nvmlGpuFabricInfo_v2_t"),
        fill(as_is, "nvmlDeviceGetGpuFabricInfo", "c_nvmlGpuFabricInfo_t"),
    )
    if info is None:
        return Fabric()
    state = named(_STATES, nvml.member(info, "state"))
    if state == FabricState.NOT_SUPPORTED:
        read.note(_paths((*_REGISTERED, *_JUDGED)), _NO_PART)
        return Fabric(state=state)
    completed = state == FabricState.COMPLETED
    if not completed:
        read.note(_paths(_REGISTERED), _UNFINISHED)
    mask = nvml.member(info, "healthMask") if hasattr(info, "healthMask") else 0
    summary = nvml.member(info, "healthSummary") if hasattr(info, "healthSummary") else 0
    configuration = mask >> _CONFIGURATION_SHIFT & _CONFIGURATION_MASK
    flags = {name: mask >> shift & 3 for name, shift in _FLAGS.items()}
    told = {"health": summary, "incorrect_configuration": configuration, **flags}
    read.note(_paths(tuple(name for name, value in told.items() if not value)), _SILENT)
    return Fabric(
        state=state,
        status=_status(nvml.member(info, "status")) if completed else None,
        clique_id=nvml.member(info, "cliqueId") if completed else None,
        cluster_uuid=_uuid(info) if completed else None,
        health=named(_HEALTH, summary) if summary else None,
        incorrect_configuration=named(_CONFIGURATION, configuration) if configuration else None,
        degraded_bandwidth=_flag(flags["degraded_bandwidth"]),
        route_recovery=_flag(flags["route_recovery"]),
        route_unhealthy=_flag(flags["route_unhealthy"]),
        access_timeout_recovery=_flag(flags["access_timeout_recovery"]),
        partition_assigned=_flag(flags["partition_assigned"]),
    )


def _paths(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"fabric.{name}" for name in names)


def _flag(value: int) -> bool | None:
    return value == 1 if value else None


def _status(code: int) -> str:
    return "success" if code == 0 else nvml.error_text(code)


def _uuid(info: object) -> str:
    digits = bytes(nvml.octets(info, "clusterUuid")).hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
