"""Memory errors: ECC counters by location, repairs, row remapping, retired pages."""

from __future__ import annotations

from collections.abc import Mapping

from daemon.gpu.readings import (
    Ecc,
    EccCounts,
    EccLocation,
    RemapBanks,
    RetiredPages,
    RowRemapping,
    SramErrors,
)
from daemon.gpu.worker.reads import nvml
from daemon.gpu.worker.reads.convert import as_is, flag, whole
from daemon.gpu.worker.reads.reader import NOT_SUPPORTED, Field, GpuReader, call, fill

FIELDS = {
    "ecc.enabled": Field("NVML_FI_DEV_ECC_CURRENT"),
    "ecc.enabled_pending": Field("NVML_FI_DEV_ECC_PENDING"),
    "ecc.volatile.corrected": Field("NVML_FI_DEV_ECC_SBE_VOL_TOTAL"),
    "ecc.volatile.uncorrected": Field("NVML_FI_DEV_ECC_DBE_VOL_TOTAL"),
    "ecc.aggregate.corrected": Field("NVML_FI_DEV_ECC_SBE_AGG_TOTAL"),
    "ecc.aggregate.uncorrected": Field("NVML_FI_DEV_ECC_DBE_AGG_TOTAL"),
    "row_remapping.correctable": Field("NVML_FI_DEV_REMAPPED_COR"),
    "row_remapping.uncorrectable": Field("NVML_FI_DEV_REMAPPED_UNC"),
    "row_remapping.correctable_inactive": Field("NVML_FI_DEV_REMAPPED_ROWS_COR_INACTIVE"),
    "row_remapping.uncorrectable_inactive": Field("NVML_FI_DEV_REMAPPED_ROWS_UNC_INACTIVE"),
    "row_remapping.pending": Field("NVML_FI_DEV_REMAPPED_PENDING"),
    "row_remapping.failure": Field("NVML_FI_DEV_REMAPPED_FAILURE"),
    "retired_pages.single_bit": Field("NVML_FI_DEV_RETIRED_SBE"),
    "retired_pages.double_bit": Field("NVML_FI_DEV_RETIRED_DBE"),
    "retired_pages.pending": Field("NVML_FI_DEV_RETIRED_PENDING"),
}
"""What comes with the one batch of field values."""

# nvml.h: nvmlMemoryLocation_t, nvmlMemoryErrorType_t, nvmlEccCounterType_t.
_LOCATIONS = {
    "dram": 2,
    "sram": 7,
    "l1_cache": 0,
    "l2_cache": 1,
    "register_file": 3,
    "texture": 4,
    "texture_shared": 5,
    "cbu": 6,
}
_CORRECTED, _UNCORRECTED = 0, 1
_VOLATILE, _AGGREGATE = 0, 1
_OFF = "ECC is off"


def ecc(read: GpuReader, fields: Mapping[str, int]) -> Ecc:
    """`readings.Ecc`; with ECC off there are no counters to ask for."""
    enabled = _flag(fields, "ecc.enabled")
    if enabled is False:
        counted = [path for path in FIELDS if path.startswith(("ecc.volatile.", "ecc.aggregate."))]
        located = [f"ecc.{kind}.{name}" for kind in ("volatile", "aggregate") for name in _LOCATIONS]
        read.note((*counted, *located, "ecc.sram"), _OFF)
        volatile = aggregate = EccCounts()
        sram = None
    else:
        volatile = _counts(read, fields, "volatile", _VOLATILE)
        aggregate = _counts(read, fields, "aggregate", _AGGREGATE)
        sram = _sram(read)
    repairs = read.get(
        ("ecc.channel_repair_pending", "ecc.tpc_repair_pending"),
        call(nvml.items, "nvmlDeviceGetRepairStatus"),
    )
    return Ecc(
        enabled=enabled,
        enabled_pending=_flag(fields, "ecc.enabled_pending"),
        volatile=volatile,
        aggregate=aggregate,
        sram=sram,
        channel_repair_pending=flag(repairs[0]) if repairs else None,
        tpc_repair_pending=flag(repairs[1]) if repairs else None,
        unrepairable_memory=read.get(
            "ecc.unrepairable_memory", call(flag, "nvmlDeviceGetUnrepairableMemoryFlag_v1")
        ),
    )


def row_remapping(read: GpuReader, fields: Mapping[str, int]) -> RowRemapping:
    """`readings.RowRemapping`."""
    banks = read.get("row_remapping.banks", call(as_is, "nvmlDeviceGetRowRemapperHistogram"))
    return RowRemapping(
        correctable=fields.get("row_remapping.correctable"),
        uncorrectable=fields.get("row_remapping.uncorrectable"),
        correctable_inactive=fields.get("row_remapping.correctable_inactive"),
        uncorrectable_inactive=fields.get("row_remapping.uncorrectable_inactive"),
        pending=_flag(fields, "row_remapping.pending"),
        failure=_flag(fields, "row_remapping.failure"),
        banks=RemapBanks(
            max=nvml.member(banks, "max"),
            high=nvml.member(banks, "high"),
            partial=nvml.member(banks, "partial"),
            low=nvml.member(banks, "low"),
            none=nvml.member(banks, "none"),
        )
        if banks is not None
        else None,
    )


def retired_pages(fields: Mapping[str, int]) -> RetiredPages:
    """`readings.RetiredPages`."""
    return RetiredPages(
        single_bit=fields.get("retired_pages.single_bit"),
        double_bit=fields.get("retired_pages.double_bit"),
        pending=_flag(fields, "retired_pages.pending"),
    )


def _counts(read: GpuReader, fields: Mapping[str, int], name: str, kind: int) -> EccCounts:
    def at(location: str) -> EccLocation | None:
        return _location(read, f"ecc.{name}.{location}", kind, _LOCATIONS[location])

    return EccCounts(
        corrected=fields.get(f"ecc.{name}.corrected"),
        uncorrected=fields.get(f"ecc.{name}.uncorrected"),
        dram=at("dram"),
        sram=at("sram"),
        l1_cache=at("l1_cache"),
        l2_cache=at("l2_cache"),
        register_file=at("register_file"),
        texture=at("texture"),
        texture_shared=at("texture_shared"),
        cbu=at("cbu"),
    )


def _location(read: GpuReader, path: str, kind: int, location: int) -> EccLocation | None:
    # Which memories are counted is a fact of the GPU: asking for the others took 0.2 ms a read.
    not_counted: dict[str, str] = read.device.once("memories without ECC counters", dict)
    if path in not_counted:
        read.note(path, not_counted[path])
        return None
    asking = read.apart()
    corrected, uncorrected = (
        asking.get(str(error), call(whole, "nvmlDeviceGetMemoryErrorCounter", error, kind, location))
        for error in (_CORRECTED, _UNCORRECTED)
    )
    if corrected is None and uncorrected is None:
        reason = asking.unread[str(_CORRECTED)]
        read.note(path, reason)
        if reason == NOT_SUPPORTED:
            not_counted[path] = reason
        return None
    for name, error in (("corrected", _CORRECTED), ("uncorrected", _UNCORRECTED)):
        if str(error) in asking.unread:
            read.note(f"{path}.{name}", asking.unread[str(error)])
    return EccLocation(corrected, uncorrected)


def _sram(read: GpuReader) -> SramErrors | None:
    found = read.get(
        "ecc.sram", fill(as_is, "nvmlDeviceGetSramEccErrorStatus", "c_nvmlEccSramErrorStatus_v1_t")
    )
    if found is None:
        return None
    return SramErrors(
        volatile_corrected=nvml.member(found, "volatileCor"),
        volatile_uncorrected_parity=nvml.member(found, "volatileUncParity"),
        volatile_uncorrected_secded=nvml.member(found, "volatileUncSecDed"),
        aggregate_corrected=nvml.member(found, "aggregateCor"),
        aggregate_uncorrected_parity=nvml.member(found, "aggregateUncParity"),
        aggregate_uncorrected_secded=nvml.member(found, "aggregateUncSecDed"),
        aggregate_uncorrected_l2=nvml.member(found, "aggregateUncBucketL2"),
        aggregate_uncorrected_sm=nvml.member(found, "aggregateUncBucketSm"),
        aggregate_uncorrected_pcie=nvml.member(found, "aggregateUncBucketPcie"),
        aggregate_uncorrected_microcontroller=nvml.member(found, "aggregateUncBucketMcu"),
        aggregate_uncorrected_other=nvml.member(found, "aggregateUncBucketOther"),
        threshold_exceeded=nvml.member(found, "bThresholdExceeded") != 0,
    )


def _flag(fields: Mapping[str, int], path: str) -> bool | None:
    value = fields.get(path)
    return None if value is None else value != 0
