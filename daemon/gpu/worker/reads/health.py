"""How the GPU is.

One batch of field values, and single calls for the rest, 58 in all. Measured on H200, driver 580: 5 ms a
GPU, and 9.5 for two read at once, as the driver mostly takes turns between them. Of the 5 ms the margin
temperature is 1.0, the clock-event durations 0.7, NVLink states 0.6, PCIe replays 0.3, BAR1, fabric, MIG
mode, repair status, unrepairable memory and pending ECC mode 0.2 to 0.4 each; some sixty other values take
0.2 together. Once a minute the NVLink error counters come on top (`links.sums`).
"""

from __future__ import annotations

from collections.abc import Mapping

from daemon.gpu.readings import (
    Clocks,
    Health,
    Memory,
    Modes,
    Pcie,
    Power,
    RecoveryAction,
    Temperature,
    Utilization,
)
from daemon.gpu.worker.reads import clock_events, ecc, nvml
from daemon.gpu.worker.reads.confidential import confidential_computing
from daemon.gpu.worker.reads.convert import as_is, first, flag, named, watts, whole
from daemon.gpu.worker.reads.fabric import fabric
from daemon.gpu.worker.reads.links import sums
from daemon.gpu.worker.reads.reader import Device, Field, GpuReader, call

_FIELDS = {
    "recovery_action": Field("NVML_FI_DEV_GET_GPU_RECOVERY_ACTION"),
    "temperature.memory_c": Field("NVML_FI_DEV_MEMORY_TEMP"),
    "power.draw_instant_w": Field("NVML_FI_DEV_POWER_INSTANT"),
    "power.limit_requested_w": Field("NVML_FI_DEV_POWER_REQUESTED_LIMIT"),
    "pcie.replays": Field("NVML_FI_DEV_PCIE_REPLAY_COUNTER"),
    "pcie.replay_rollovers": Field("NVML_FI_DEV_PCIE_REPLAY_ROLLOVER_COUNTER"),
    **clock_events.FIELDS,
    **ecc.FIELDS,
}
_MARGINS = {
    "temperature.slowdown_margin_c": Field("NVML_FI_DEV_TEMPERATURE_SLOWDOWN_TLIMIT"),
    "temperature.shutdown_margin_c": Field("NVML_FI_DEV_TEMPERATURE_SHUTDOWN_TLIMIT"),
    "temperature.gpu_max_margin_c": Field("NVML_FI_DEV_TEMPERATURE_GPU_MAX_TLIMIT"),
    "temperature.memory_max_margin_c": Field("NVML_FI_DEV_TEMPERATURE_MEM_MAX_TLIMIT"),
}
_RECOVERY_ACTIONS = dict(enumerate(RecoveryAction))
_COMPUTE_MODES = {0: "default", 1: "exclusive_thread", 2: "prohibited", 3: "exclusive_process"}
# nvml.h: nvmlTemperatureThresholds_t.
_SHUTDOWN, _SLOWDOWN, _MEMORY_MAX, _GPU_MAX = range(4)
_UNKNOWN_STATE = 32
"""NVML_PSTATE_UNKNOWN."""


def health(device: Device, _arguments: Mapping[str, object]) -> dict[str, object]:
    """`readings.Health` as JSON."""
    read = GpuReader(device)
    fields = read.fields(_FIELDS)
    action = fields.get("recovery_action")
    return Health(
        recovery_action=named(_RECOVERY_ACTIONS, action) if action is not None else None,
        memory=_memory(read),
        temperature=_temperature(read, fields),
        power=_power(read, fields),
        clocks=_clocks(read),
        clock_events=clock_events.clock_events(read, fields),
        utilization=_utilization(read),
        ecc=ecc.ecc(read, fields),
        row_remapping=ecc.row_remapping(read, fields),
        retired_pages=ecc.retired_pages(fields),
        pcie=_pcie(read, fields),
        nvlink=sums(read),
        fabric=fabric(read),
        modes=_modes(read),
        confidential_computing=confidential_computing(read),
        unread=read.unread,
    ).to_json()


def _memory(read: GpuReader) -> Memory:
    memory = read.get(
        ("memory.total_bytes", "memory.used_bytes", "memory.free_bytes", "memory.reserved_bytes"),
        call(as_is, "nvmlDeviceGetMemoryInfo", nvml.MEMORY_V2),
        call(as_is, "nvmlDeviceGetMemoryInfo"),
    )
    bar1 = read.get(
        ("memory.bar1_total_bytes", "memory.bar1_used_bytes"), call(as_is, "nvmlDeviceGetBAR1MemoryInfo")
    )
    reserved = memory is not None and hasattr(memory, "reserved")
    if memory is not None and not reserved:
        read.note("memory.reserved_bytes", "counted as used by this driver version")
    return Memory(
        total_bytes=nvml.member(memory, "total") if memory is not None else None,
        used_bytes=nvml.member(memory, "used") if memory is not None else None,
        free_bytes=nvml.member(memory, "free") if memory is not None else None,
        reserved_bytes=nvml.member(memory, "reserved") if reserved else None,
        bar1_total_bytes=nvml.member(bar1, "bar1Total") if bar1 is not None else None,
        bar1_used_bytes=nvml.member(bar1, "bar1Used") if bar1 is not None else None,
    )


def _temperature(read: GpuReader, fields: Mapping[str, int]) -> Temperature:
    margins = read.field_facts("temperature margins", _MARGINS)
    return Temperature(
        gpu_c=read.get(
            "temperature.gpu_c",
            call(whole, "nvmlDeviceGetTemperatureV", 0),
            call(whole, "nvmlDeviceGetTemperature", 0),
        ),
        memory_c=fields.get("temperature.memory_c"),
        margin_c=read.get("temperature.margin_c", call(whole, "nvmlDeviceGetMarginTemperature")),
        slowdown_c=_threshold(read, "slowdown_c", _SLOWDOWN),
        shutdown_c=_threshold(read, "shutdown_c", _SHUTDOWN),
        gpu_max_c=_threshold(read, "gpu_max_c", _GPU_MAX),
        memory_max_c=_threshold(read, "memory_max_c", _MEMORY_MAX),
        slowdown_margin_c=margins.get("temperature.slowdown_margin_c"),
        shutdown_margin_c=margins.get("temperature.shutdown_margin_c"),
        gpu_max_margin_c=margins.get("temperature.gpu_max_margin_c"),
        memory_max_margin_c=margins.get("temperature.memory_max_margin_c"),
        fan_percent=_fan_percent(read),
    )


def _threshold(read: GpuReader, name: str, threshold: int) -> int | None:
    return read.fact(f"temperature.{name}", call(whole, "nvmlDeviceGetTemperatureThreshold", threshold))


def _fan_percent(read: GpuReader) -> int | None:
    path = "temperature.fan_percent"
    # Asking a GPU without a fan for its speed costs 0.16 ms each time.
    fans = read.fact(path, call(whole, "nvmlDeviceGetNumFans"))
    if fans == 0:
        read.note(path, "this GPU has no fan of its own")
    return read.get(path, call(whole, "nvmlDeviceGetFanSpeed")) if fans else None


def _power(read: GpuReader, fields: Mapping[str, int]) -> Power:
    limits = read.get(
        ("power.limit_min_w", "power.limit_max_w"),
        call(nvml.items, "nvmlDeviceGetPowerManagementLimitConstraints"),
    )
    return Power(
        draw_w=read.get("power.draw_w", call(watts, "nvmlDeviceGetPowerUsage")),
        draw_instant_w=_watts(fields, "power.draw_instant_w"),
        limit_w=read.get("power.limit_w", call(watts, "nvmlDeviceGetEnforcedPowerLimit")),
        limit_requested_w=_watts(fields, "power.limit_requested_w"),
        limit_default_w=read.get(
            "power.limit_default_w", call(watts, "nvmlDeviceGetPowerManagementDefaultLimit")
        ),
        limit_min_w=watts(limits[0]) if limits else None,
        limit_max_w=watts(limits[1]) if limits else None,
    )


def _watts(fields: Mapping[str, int], path: str) -> float | None:
    milliwatts = fields.get(path)
    return None if milliwatts is None else milliwatts / 1000


def _clocks(read: GpuReader) -> Clocks:
    state = read.get("clocks.performance_state", call(whole, "nvmlDeviceGetPerformanceState"))
    if state == _UNKNOWN_STATE:
        read.note("clocks.performance_state", "unknown to the driver")
        state = None
    return Clocks(
        graphics_mhz=read.get("clocks.graphics_mhz", call(whole, "nvmlDeviceGetClockInfo", 0)),
        sm_mhz=read.get("clocks.sm_mhz", call(whole, "nvmlDeviceGetClockInfo", 1)),
        memory_mhz=read.get("clocks.memory_mhz", call(whole, "nvmlDeviceGetClockInfo", 2)),
        video_mhz=read.get("clocks.video_mhz", call(whole, "nvmlDeviceGetClockInfo", 3)),
        performance_state=state,
    )


def _utilization(read: GpuReader) -> Utilization:
    rates = read.get(
        ("utilization.gpu_percent", "utilization.memory_percent"),
        call(as_is, "nvmlDeviceGetUtilizationRates"),
    )
    return Utilization(
        gpu_percent=nvml.member(rates, "gpu") if rates is not None else None,
        memory_percent=nvml.member(rates, "memory") if rates is not None else None,
        encoder_percent=read.get(
            "utilization.encoder_percent", call(first, "nvmlDeviceGetEncoderUtilization")
        ),
        decoder_percent=read.get(
            "utilization.decoder_percent", call(first, "nvmlDeviceGetDecoderUtilization")
        ),
        jpeg_percent=read.get("utilization.jpeg_percent", call(first, "nvmlDeviceGetJpgUtilization")),
        ofa_percent=read.get("utilization.ofa_percent", call(first, "nvmlDeviceGetOfaUtilization")),
    )


def _pcie(read: GpuReader, fields: Mapping[str, int]) -> Pcie:
    return Pcie(
        generation=read.get("pcie.generation", call(whole, "nvmlDeviceGetCurrPcieLinkGeneration")),
        generation_max=read.fact("pcie.generation_max", call(whole, "nvmlDeviceGetMaxPcieLinkGeneration")),
        generation_gpu_max=read.fact(
            "pcie.generation_gpu_max", call(whole, "nvmlDeviceGetGpuMaxPcieLinkGeneration")
        ),
        width=read.get("pcie.width", call(whole, "nvmlDeviceGetCurrPcieLinkWidth")),
        width_max=read.fact("pcie.width_max", call(whole, "nvmlDeviceGetMaxPcieLinkWidth")),
        replays=fields.get("pcie.replays"),
        replay_rollovers=fields.get("pcie.replay_rollovers"),
    )


def _modes(read: GpuReader) -> Modes:
    compute = read.get("modes.compute", call(whole, "nvmlDeviceGetComputeMode"))
    mig = read.get(("modes.mig", "modes.mig_pending"), call(nvml.items, "nvmlDeviceGetMigMode"))
    return Modes(
        persistence=read.get("modes.persistence", call(flag, "nvmlDeviceGetPersistenceMode")),
        compute=named(_COMPUTE_MODES, compute) if compute is not None else None,
        mig=flag(mig[0]) if mig else None,
        mig_pending=flag(mig[1]) if mig else None,
    )
