"""The NVLink fabric as the GPU sees it: registration with the fabric manager, and its health."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from daemon.gpu.readings.section import Section


class FabricState(StrEnum):
    """How far the GPU's registration with the fabric manager is."""

    NOT_SUPPORTED = "not_supported"
    """This GPU is no part of a fabric."""
    NOT_STARTED = "not_started"
    """No fabric manager has come: CUDA cannot use this GPU."""
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"


@dataclass(frozen=True, slots=True)
class Fabric(Section):
    """Fabric state, and on newer drivers its health; a health field that the fabric does not give is null."""

    state: str | None = None
    """A `FabricState`; `unknown (N)` for one that is newer than this program."""
    status: str | None = None
    """How registration ended, once completed: `Success`, or NVML's name of the error."""
    clique_id: int | None = None
    cluster_uuid: str | None = None
    """All zeros where the fabric has no cluster."""
    health: str | None = None
    """`healthy`, `unhealthy` or `limited_capacity`."""
    degraded_bandwidth: bool | None = None
    route_recovery: bool | None = None
    """Routes are being recovered now."""
    route_unhealthy: bool | None = None
    access_timeout_recovery: bool | None = None
    incorrect_configuration: str | None = None
    """`none`, or what is wrong: `insufficient_nvlinks`, `incompatible_gpu_firmware`, …"""
    partition_assigned: bool | None = None
