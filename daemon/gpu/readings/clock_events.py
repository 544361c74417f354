"""Why the clocks of a GPU are below their maximum, and for how long they were.

Being idle is a clock-event reason too: it is not throttling. Neither is running at the power limit,
which is how a GPU in training works, nor a limit that somebody set.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from daemon.gpu.readings.section import Section


class ClockReason(StrEnum):
    """NVML's clock-event reasons (nvml.h, nvmlClocksEventReason…)."""

    GPU_IDLE = "gpu_idle"
    APPLICATIONS_CLOCKS_SETTING = "applications_clocks_setting"
    """Somebody set or locked the clocks."""
    SW_POWER_CAP = "sw_power_cap"
    """At its power limit."""
    HW_SLOWDOWN = "hw_slowdown"
    """Clocks at half or less: too hot, or short of power. The other two `hw_` reasons tell which."""
    SYNC_BOOST = "sync_boost"
    """Held to the clocks of the slowest GPU of its group."""
    SW_THERMAL_SLOWDOWN = "sw_thermal_slowdown"
    """GPU or memory above the temperature that the driver keeps to."""
    HW_THERMAL_SLOWDOWN = "hw_thermal_slowdown"
    """Above the slowdown temperature: the hardware steps in."""
    HW_POWER_BRAKE_SLOWDOWN = "hw_power_brake_slowdown"
    """The system asks for less power, from outside the GPU."""
    DISPLAY_CLOCK_SETTING = "display_clock_setting"
    BOARD_LIMIT = "board_limit"
    """Old drivers: the voltage regulator's limit."""
    RELIABILITY = "reliability"
    """Old drivers: the reliability voltage."""

    @property
    def throttling(self) -> bool:
        """Whether the GPU is held back by heat or by its supply, not by load or by a setting."""
        return self in _THROTTLING


_THROTTLING = frozenset(
    {
        ClockReason.HW_SLOWDOWN,
        ClockReason.SW_THERMAL_SLOWDOWN,
        ClockReason.HW_THERMAL_SLOWDOWN,
        ClockReason.HW_POWER_BRAKE_SLOWDOWN,
        ClockReason.BOARD_LIMIT,
        ClockReason.RELIABILITY,
    }
)


@dataclass(frozen=True, slots=True)
class ClockEvents(Section):
    """Reasons that hold now, and how long each held since the driver was loaded."""

    reasons: tuple[str, ...] | None = None
    """`ClockReason` values in NVML's order; a bit that is newer than this program is `unknown_0x…`."""
    throttling: tuple[str, ...] | None = None
    """Those of `reasons` that are throttling."""
    sw_power_cap_us: int | None = None
    """This and the durations below: total time since the driver was loaded, µs."""
    sync_boost_us: int | None = None
    sw_thermal_slowdown_us: int | None = None
    hw_thermal_slowdown_us: int | None = None
    hw_power_brake_slowdown_us: int | None = None
    thermal_policy_us: int | None = None
    """Time below the application clocks for heat (NVML's violation counter, also on old GPUs)."""
    board_limit_us: int | None = None
    reliability_us: int | None = None
