"""Clock-event reasons and how long each held."""

from __future__ import annotations

from collections.abc import Mapping

from daemon.gpu.readings import ClockEvents, ClockReason
from daemon.gpu.worker.reads.convert import whole
from daemon.gpu.worker.reads.reader import Field, GpuReader, call

FIELDS = {
    "clock_events.sw_power_cap_us": Field("NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP"),
    "clock_events.sync_boost_us": Field("NVML_FI_DEV_CLOCKS_EVENT_REASON_SYNC_BOOST"),
    "clock_events.sw_thermal_slowdown_us": Field("NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN"),
    "clock_events.hw_thermal_slowdown_us": Field("NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN"),
    "clock_events.hw_power_brake_slowdown_us": Field(
        "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN"
    ),
    "clock_events.board_limit_us": Field("NVML_FI_DEV_PERF_POLICY_BOARD_LIMIT"),
    "clock_events.reliability_us": Field("NVML_FI_DEV_PERF_POLICY_RELIABILITY"),
}
"""What comes with the one batch of field values; all in nanoseconds."""

_THERMAL = "clock_events.thermal_policy_us"
_COUNTED_BY_CAUSE = "counted as sw_thermal_slowdown_us and hw_thermal_slowdown_us"

# nvml.h: nvmlClocksEventReason…, nvmlClocksThrottleReason….
_BITS = {
    0x001: ClockReason.GPU_IDLE,
    0x002: ClockReason.APPLICATIONS_CLOCKS_SETTING,
    0x004: ClockReason.SW_POWER_CAP,
    0x008: ClockReason.HW_SLOWDOWN,
    0x010: ClockReason.SYNC_BOOST,
    0x020: ClockReason.SW_THERMAL_SLOWDOWN,
    0x040: ClockReason.HW_THERMAL_SLOWDOWN,
    0x080: ClockReason.HW_POWER_BRAKE_SLOWDOWN,
    0x100: ClockReason.DISPLAY_CLOCK_SETTING,
    0x200: ClockReason.BOARD_LIMIT,
    0x400: ClockReason.RELIABILITY,
}


def clock_events(read: GpuReader, fields: Mapping[str, int]) -> ClockEvents:
    """`readings.ClockEvents`."""
    mask = read.get(
        ("clock_events.reasons", "clock_events.throttling"),
        call(whole, "nvmlDeviceGetCurrentClocksEventReasons"),
        call(whole, "nvmlDeviceGetCurrentClocksThrottleReasons"),  # the name before R535
    )
    return ClockEvents(
        reasons=reasons(mask) if mask is not None else None,
        throttling=_throttling(mask) if mask is not None else None,
        sw_power_cap_us=_us(fields, "sw_power_cap_us"),
        sync_boost_us=_us(fields, "sync_boost_us"),
        sw_thermal_slowdown_us=_us(fields, "sw_thermal_slowdown_us"),
        hw_thermal_slowdown_us=_us(fields, "hw_thermal_slowdown_us"),
        hw_power_brake_slowdown_us=_us(fields, "hw_power_brake_slowdown_us"),
        thermal_policy_us=_thermal_policy_us(read, fields),
        board_limit_us=_us(fields, "board_limit_us"),
        reliability_us=_us(fields, "reliability_us"),
    )


def reasons(mask: int) -> tuple[str, ...]:
    """The reasons in a mask, lowest bit first."""
    bits = (1 << number for number in range(mask.bit_length()) if mask >> number & 1)
    return tuple(_BITS[bit].value if bit in _BITS else f"unknown_{bit:#x}" for bit in bits)


def _throttling(mask: int) -> tuple[str, ...]:
    return tuple(reason.value for bit, reason in _BITS.items() if mask & bit and reason.throttling)


def _thermal_policy_us(read: GpuReader, fields: Mapping[str, int]) -> int | None:
    # 0.6 ms on an H200: only where the driver does not count by cause (before R570).
    if "clock_events.sw_thermal_slowdown_us" in fields:
        read.note(_THERMAL, _COUNTED_BY_CAUSE)
        return None
    nanoseconds = read.fields({_THERMAL: Field("NVML_FI_DEV_PERF_POLICY_THERMAL")}).get(_THERMAL)
    return None if nanoseconds is None else nanoseconds // 1000


def _us(fields: Mapping[str, int], name: str) -> int | None:
    nanoseconds = fields.get(f"clock_events.{name}")
    return None if nanoseconds is None else nanoseconds // 1000
