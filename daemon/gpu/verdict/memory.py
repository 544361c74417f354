"""Rules about a GPU's memories: uncorrectable errors, repairs that wait, repairs that failed.

Aggregate ECC counters are for life and outlast every repair; only volatile ones and what the repair
mechanisms themselves say are held against a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator

from daemon.gpu.verdict.look import Look
from daemon.gpu.verdict.reason import Code, Reason, Severity, Source

MEMORY_GUIDE = "NVIDIA GPU Memory Error Management (docs.nvidia.com/deploy/a100-gpu-mem-error-mgmt)"
DCGM_HEALTH = "NVIDIA DCGM health checks (dcgm_errors.h, dcgm_gpu_hardware_limits.h)"
MOST_RETIRED_PAGES = 63
"""DCGM_LIMIT_MAX_RETIRED_PAGES."""


def ecc(look: Look) -> Iterator[Reason]:
    """Uncorrectable errors since the driver was loaded, and the limits that NVIDIA sets."""
    ecc = look.health.ecc
    now, life = ecc.volatile.uncorrected, ecc.aggregate.uncorrected
    if now:
        yield Reason(
            Code.ECC_UNCORRECTED,
            Severity.UNHEALTHY,
            f"{now} uncorrectable memory {_errors(now)} since the driver was loaded or the GPU reset.",
            "ecc.volatile.uncorrected",
            now,
            0,
            Source.NVIDIA,
            DCGM_HEALTH,
        )
    elif life:
        yield Reason(
            Code.ECC_LIFETIME,
            Severity.NOTE,
            f"{life} uncorrectable memory {_errors(life)} in the life of this GPU, none since the driver was "
            "loaded; counters for life are not held against it.",
            "ecc.aggregate.uncorrected",
            life,
            None,
            Source.JUDGEMENT,
        )
    if ecc.sram is not None and ecc.sram.threshold_exceeded:
        yield Reason(
            Code.SRAM_THRESHOLD,
            Severity.UNHEALTHY,
            "Uncorrectable SRAM errors have passed NVIDIA's limit for returning the GPU.",
            "ecc.sram.threshold_exceeded",
            True,
            False,
            Source.NVIDIA,
            MEMORY_GUIDE,
        )
    if ecc.enabled is False:
        yield Reason(
            Code.ECC_OFF,
            Severity.NOTE,
            "ECC is off: memory errors are neither corrected nor counted.",
            "ecc.enabled",
            False,
            True,
            Source.JUDGEMENT,
        )


def repairs(look: Look) -> Iterator[Reason]:
    """Repairs of a channel or a TPC, and memory beyond repair."""
    ecc = look.health.ecc
    if ecc.unrepairable_memory:
        yield Reason(
            Code.MEMORY_UNREPAIRABLE,
            Severity.UNHEALTHY,
            "The driver says that memory is beyond repair: the GPU is to be replaced.",
            "ecc.unrepairable_memory",
            True,
            False,
        )
    for pending, reading, what in (
        (ecc.channel_repair_pending, "ecc.channel_repair_pending", "memory channel"),
        (ecc.tpc_repair_pending, "ecc.tpc_repair_pending", "TPC"),
    ):
        if pending:
            yield Reason(
                Code.REPAIR_PENDING,
                Severity.DEGRADED,
                f"A {what} is repaired at the next GPU reset.",
                reading,
                True,
                False,
            )


def row_remapping(look: Look) -> Iterator[Reason]:
    """Rows that could not be replaced, or are replaced only at the next reset (Ampere and later)."""
    rows = look.health.row_remapping
    if rows.failure:
        yield Reason(
            Code.ROW_REMAP_FAILURE,
            Severity.UNHEALTHY,
            "A bad row of memory could not be replaced by a spare one: run the field diagnostic, the GPU "
            "qualifies for return.",
            "row_remapping.failure",
            True,
            False,
            Source.NVIDIA,
            MEMORY_GUIDE,
        )
    if rows.pending:
        yield Reason(
            Code.ROW_REMAP_PENDING,
            Severity.DEGRADED,
            "A bad row of memory is replaced at the next GPU reset.",
            "row_remapping.pending",
            True,
            False,
            Source.NVIDIA,
            MEMORY_GUIDE,
        )
    if rows.banks is not None and rows.banks.none:
        banks = rows.banks.none
        yield Reason(
            Code.SPARE_ROWS_USED_UP,
            Severity.NOTE,
            f"{banks} memory {'bank has' if banks == 1 else 'banks have'} no spare row left: the next "
            "bad row there cannot be replaced.",
            "row_remapping.banks.none",
            banks,
            0,
            Source.JUDGEMENT,
        )


def retired_pages(look: Look) -> Iterator[Reason]:
    """Pages taken out of use (before Ampere)."""
    pages = look.health.retired_pages
    if pages.pending:
        yield Reason(
            Code.PAGE_RETIREMENT_PENDING,
            Severity.DEGRADED,
            "A bad page of memory is taken out of use at the next GPU reset.",
            "retired_pages.pending",
            True,
            False,
            Source.NVIDIA,
            DCGM_HEALTH,
        )
    if pages.single_bit is not None and pages.double_bit is not None:
        total = pages.single_bit + pages.double_bit
        if total >= MOST_RETIRED_PAGES:
            yield Reason(
                Code.PAGES_RETIRED,
                Severity.UNHEALTHY,
                f"{total} bad pages of memory were taken out of use; the table holds no more.",
                "retired_pages",
                total,
                MOST_RETIRED_PAGES,
                Source.NVIDIA,
                DCGM_HEALTH,
            )


def _errors(count: int) -> str:
    return "error" if count == 1 else "errors"
