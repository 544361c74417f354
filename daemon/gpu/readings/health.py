"""How a GPU is: everything that a verdict on its health is made from.

Nothing here is judged. A value that could not be read is None and `Health.unread` says why; so is one
that the GPU does not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from daemon.gpu.readings.clock_events import ClockEvents
from daemon.gpu.readings.fabric import Fabric
from daemon.gpu.readings.memory_errors import Ecc, RetiredPages, RowRemapping
from daemon.gpu.readings.section import Section


class RecoveryAction(StrEnum):
    """What the driver says is needed to recover the GPU (NVML_GPU_RECOVERY_ACTION_…)."""

    NONE = "none"
    GPU_RESET = "gpu_reset"
    NODE_REBOOT = "node_reboot"
    DRAIN_P2P = "drain_p2p"
    DRAIN_AND_RESET = "drain_and_reset"
    RECOVER_IMEX_DOMAIN = "recover_imex_domain"
    BUS_RESET = "bus_reset"
    SYSTEM_REBOOT = "system_reboot"


@dataclass(frozen=True, slots=True)
class Memory(Section):
    """Device memory and the BAR1 window. Full memory is normal: frameworks reserve what they may need."""

    total_bytes: int | None = None
    used_bytes: int | None = None
    """Without `reserved_bytes`; with it where `reserved_bytes` is unread (drivers before R510)."""
    free_bytes: int | None = None
    reserved_bytes: int | None = None
    """Held by driver and firmware."""
    bar1_total_bytes: int | None = None
    bar1_used_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Temperature(Section):
    """Temperatures, this GPU's own thresholds, and the distance to them.

    Newer GPUs measure against a limit that moves (T.Limit): `margin_c` degrees are left, slowdown comes
    at `slowdown_margin_c` left, shutdown at `shutdown_margin_c`; both may be negative.
    """

    gpu_c: int | None = None
    memory_c: int | None = None
    margin_c: int | None = None
    slowdown_c: int | None = None
    shutdown_c: int | None = None
    gpu_max_c: int | None = None
    """Highest temperature at which the clocks stay up."""
    memory_max_c: int | None = None
    slowdown_margin_c: int | None = None
    shutdown_margin_c: int | None = None
    gpu_max_margin_c: int | None = None
    memory_max_margin_c: int | None = None
    fan_percent: int | None = None
    """What the fan is asked for, of its highest speed."""


@dataclass(frozen=True, slots=True)
class Power(Section):
    """Power and its limits. At the limit is normal under load."""

    draw_w: float | None = None
    """Averaged over one second from Ampere on (not on GA100), else of the moment."""
    draw_instant_w: float | None = None
    limit_w: float | None = None
    """The limit in force: the lowest of all that apply."""
    limit_requested_w: float | None = None
    limit_default_w: float | None = None
    limit_min_w: float | None = None
    limit_max_w: float | None = None


@dataclass(frozen=True, slots=True)
class Clocks(Section):
    """Clocks now; the highest possible ones are in `Identity.max_clocks`."""

    graphics_mhz: int | None = None
    sm_mhz: int | None = None
    memory_mhz: int | None = None
    video_mhz: int | None = None
    performance_state: int | None = None
    """0 (P0, the highest) to 15."""


@dataclass(frozen=True, slots=True)
class Utilization(Section):
    """Share of the last sample period (1/6 s to 1 s) in which an engine was busy."""

    gpu_percent: int | None = None
    """Some kernel ran; says nothing of how many multiprocessors it filled. Null under MIG."""
    memory_percent: int | None = None
    """Device memory was read or written; not how full it is."""
    encoder_percent: int | None = None
    decoder_percent: int | None = None
    jpeg_percent: int | None = None
    ofa_percent: int | None = None
    """Optical flow engine."""


@dataclass(frozen=True, slots=True)
class Pcie(Section):
    """The PCIe link. Many GPUs lower the generation while idle: compare the width, or under load."""

    generation: int | None = None
    generation_max: int | None = None
    """What GPU and slot together can do."""
    generation_gpu_max: int | None = None
    """What the GPU alone can do."""
    width: int | None = None
    """Lanes."""
    width_max: int | None = None
    """What GPU and slot together can do."""
    replays: int | None = None
    """Replays since the driver was loaded or the GPU reset."""
    replay_rollovers: int | None = None


@dataclass(frozen=True, slots=True)
class NvLinkSums(Section):
    """NVLink of a GPU in a few numbers; each link is in `readings.NvLink`."""

    links: int | None = None
    """Links of this GPU, wired or not."""
    links_up: int | None = None
    links_down: tuple[int, ...] | None = None
    """Numbers of the links that are down; a board may leave links unwired."""
    replay_errors: int | None = None
    """This and the two below: sum over all links since the driver was loaded or the GPU reset."""
    recovery_errors: int | None = None
    crc_errors: int | None = None
    errors_age_s: float | None = None
    """The error counters may be up to a minute old: reading them is costly."""


@dataclass(frozen=True, slots=True)
class Modes(Section):
    """Settings of the GPU."""

    persistence: bool | None = None
    compute: str | None = None
    """`default`, `exclusive_process`, `prohibited` or `exclusive_thread` (removed in CUDA 8)."""
    mig: bool | None = None
    mig_pending: bool | None = None
    """The mode after the next reset."""


@dataclass(frozen=True, slots=True)
class ConfidentialComputing(Section):
    """Confidential computing: the state of the system, and this GPU's memory in it."""

    enabled: bool | None = None
    environment: str | None = None
    """`unavailable`, `simulation` or `production`."""
    devtools_mode: bool | None = None
    """Debugging is allowed: nothing is confidential."""
    multi_gpu_mode: str | None = None
    """`none`, `protected_pcie` or `nvlink_encryption`."""
    gpus_ready: bool | None = None
    """The GPUs accept work; false until attestation is done. Meaningful only when enabled."""
    protected_memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Health(Section):
    """One GPU's health readings, all taken within one request."""

    recovery_action: str | None = None
    """A `RecoveryAction`; `unknown (N)` for one that is newer than this program."""
    memory: Memory = field(default_factory=Memory)
    temperature: Temperature = field(default_factory=Temperature)
    power: Power = field(default_factory=Power)
    clocks: Clocks = field(default_factory=Clocks)
    clock_events: ClockEvents = field(default_factory=ClockEvents)
    utilization: Utilization = field(default_factory=Utilization)
    ecc: Ecc = field(default_factory=Ecc)
    row_remapping: RowRemapping = field(default_factory=RowRemapping)
    retired_pages: RetiredPages = field(default_factory=RetiredPages)
    pcie: Pcie = field(default_factory=Pcie)
    nvlink: NvLinkSums = field(default_factory=NvLinkSums)
    fabric: Fabric = field(default_factory=Fabric)
    modes: Modes = field(default_factory=Modes)
    confidential_computing: ConfidentialComputing = field(default_factory=ConfidentialComputing)
    unread: Mapping[str, str] = field(default_factory=dict)
    """Why a value is null: its path → reason (`temperature.memory_c` → "not supported by this GPU").

    The path of an object that is null as a whole stands for all within it (`ecc.volatile.l1_cache`).
    """
