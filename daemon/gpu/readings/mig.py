"""How a GPU is cut into MIG instances."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from daemon.gpu.readings.section import Section


@dataclass(frozen=True, slots=True)
class ComputeInstance(Section):
    """A compute instance: what a program is given as one MIG device."""

    id: int
    """Unique within its GPU instance: `GPU-CI` of a kernel line."""
    uuid: str | None = None
    """`MIG-…`, what CUDA_VISIBLE_DEVICES takes."""
    index: int | None = None
    """Index of the MIG device under its GPU."""
    profile_id: int | None = None
    placement_start: int | None = None
    """First compute slice within the GPU instance."""
    placement_size: int | None = None
    multiprocessors: int | None = None
    unread: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GpuInstance(Section):
    """A GPU instance: a share of memory and engines."""

    id: int
    """Unique within its GPU: `GPU-I` of a kernel line."""
    profile_id: int | None = None
    profile: str | None = None
    """Name of the profile: `MIG 1g.18gb`."""
    placement_start: int | None = None
    """First memory slice."""
    placement_size: int | None = None
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    compute_instances: tuple[ComputeInstance, ...] = ()
    """May be empty: nothing can run in such a GPU instance."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """Why a field is null, for this instance."""


@dataclass(frozen=True, slots=True)
class MigLayout(Section):
    """The MIG mode of a GPU and its instances."""

    enabled: bool | None = None
    enabled_pending: bool | None = None
    """The mode after the next reset of the GPU."""
    max_devices: int | None = None
    gpu_instances: tuple[GpuInstance, ...] | None = None
    """None: not read. Empty: MIG is off, or on with nothing created."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """Why a field is null: name → reason; also `gpu_instances.empty` where GPU instances without a compute
    instance could not be listed, and `gpu_instances.mig_device_N` for a MIG device that cannot be placed."""
