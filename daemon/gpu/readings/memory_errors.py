"""Errors of a GPU's memories: ECC counters, remapped rows, retired pages.

*Volatile* counters count since the driver was loaded or the GPU reset, *aggregate* ones for life: judge
by the volatile ones and by row remapping.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from daemon.gpu.readings.section import Section


@dataclass(frozen=True, slots=True)
class EccLocation(Section):
    """Errors of one memory."""

    corrected: int | None = None
    uncorrected: int | None = None


@dataclass(frozen=True, slots=True)
class EccCounts(Section):
    """Errors since one point in time. Ampere and later count `dram` and `sram`, older GPUs the others."""

    corrected: int | None = None
    """All locations."""
    uncorrected: int | None = None
    """All locations."""
    dram: EccLocation | None = None
    """Device memory."""
    sram: EccLocation | None = None
    l1_cache: EccLocation | None = None
    l2_cache: EccLocation | None = None
    register_file: EccLocation | None = None
    texture: EccLocation | None = None
    texture_shared: EccLocation | None = None
    cbu: EccLocation | None = None
    """Convergence barrier unit."""


@dataclass(frozen=True, slots=True)
class SramErrors(Section):
    """SRAM errors by how they were found and where (Hopper and later)."""

    volatile_corrected: int | None = None
    volatile_uncorrected_parity: int | None = None
    volatile_uncorrected_secded: int | None = None
    aggregate_corrected: int | None = None
    aggregate_uncorrected_parity: int | None = None
    aggregate_uncorrected_secded: int | None = None
    aggregate_uncorrected_l2: int | None = None
    aggregate_uncorrected_sm: int | None = None
    aggregate_uncorrected_pcie: int | None = None
    aggregate_uncorrected_microcontroller: int | None = None
    aggregate_uncorrected_other: int | None = None
    threshold_exceeded: bool | None = None
    """NVIDIA's limit for returning the GPU is passed."""


@dataclass(frozen=True, slots=True)
class Ecc(Section):
    """ECC mode and counters, and the repairs that the GPU waits for."""

    enabled: bool | None = None
    enabled_pending: bool | None = None
    """The mode after the next reset."""
    volatile: EccCounts = field(default_factory=EccCounts)
    aggregate: EccCounts = field(default_factory=EccCounts)
    sram: SramErrors | None = None
    channel_repair_pending: bool | None = None
    """A reset lets the GPU repair a memory channel."""
    tpc_repair_pending: bool | None = None
    """A reset lets the GPU repair a TPC."""
    unrepairable_memory: bool | None = None
    """Memory is beyond repair: the GPU is to be replaced."""


@dataclass(frozen=True, slots=True)
class RemapBanks(Section):
    """Memory banks by how many spare rows are left to each."""

    max: int | None = None
    high: int | None = None
    partial: int | None = None
    low: int | None = None
    none: int | None = None


@dataclass(frozen=True, slots=True)
class RowRemapping(Section):
    """Rows of device memory replaced by spare ones (Ampere and later)."""

    correctable: int | None = None
    """Rows replaced for correctable errors."""
    uncorrectable: int | None = None
    """Rows replaced for uncorrectable errors."""
    correctable_inactive: int | None = None
    uncorrectable_inactive: int | None = None
    pending: bool | None = None
    """A row is replaced at the next reset; until then the bad one may be in use."""
    failure: bool | None = None
    """A row could not be replaced: the GPU is to be returned."""
    banks: RemapBanks | None = None


@dataclass(frozen=True, slots=True)
class RetiredPages(Section):
    """Pages of device memory taken out of use (before Ampere)."""

    single_bit: int | None = None
    double_bit: int | None = None
    pending: bool | None = None
    """A page is taken out at the next reset."""
