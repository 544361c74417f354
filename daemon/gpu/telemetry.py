"""How a GPU was right after a fault: the few readings that belong into an event.

`{"time", "took_ms", "readings": {…}, "unread": {name: reason}}`, or `{"time", "unavailable": reason}`.
Units are in the names; a reading that could not be taken is left out of `readings` and stands in
`unread`, so that nothing missing looks like nothing wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from daemon.event import rfc3339
from daemon.gpu.readings import Reading
from daemon.gpu.verdict.look import why_unread

READINGS: Final[Mapping[str, str]] = {
    "recovery_action": "recovery_action",
    "temperature_gpu_c": "temperature.gpu_c",
    "temperature_memory_c": "temperature.memory_c",
    "temperature_margin_c": "temperature.margin_c",
    "power_draw_w": "power.draw_w",
    "power_limit_w": "power.limit_w",
    "clock_graphics_mhz": "clocks.graphics_mhz",
    "clock_memory_mhz": "clocks.memory_mhz",
    "clock_event_reasons": "clock_events.reasons",
    "utilization_gpu_percent": "utilization.gpu_percent",
    "memory_used_bytes": "memory.used_bytes",
    "memory_total_bytes": "memory.total_bytes",
    "ecc_volatile_corrected": "ecc.volatile.corrected",
    "ecc_volatile_uncorrected": "ecc.volatile.uncorrected",
    "row_remap_correctable": "row_remapping.correctable",
    "row_remap_uncorrectable": "row_remapping.uncorrectable",
    "row_remap_pending": "row_remapping.pending",
    "row_remap_failure": "row_remapping.failure",
    "pcie_generation": "pcie.generation",
    "pcie_width": "pcie.width",
    "pcie_replays": "pcie.replays",
    "nvlink_links_up": "nvlink.links_up",
    "fabric_state": "fabric.state",
}
"""Name in an event → path among the readings of a GPU's health."""


def of_reading(reading: Reading, time_us: int) -> dict[str, Any]:
    """The telemetry of a health reading taken at `time_us` (wall clock, µs since the Unix epoch)."""
    if reading.health is None:
        return unavailable(reading.reason or "the GPU did not answer", time_us)
    health = reading.health.to_json()
    values = {name: _at(health, path) for name, path in READINGS.items()}
    missing = [name for name, value in values.items() if value is None]
    return {
        "time": rfc3339(time_us),
        "took_ms": reading.took_ms,
        "readings": {name: value for name, value in values.items() if value is not None},
        "unread": {name: why_unread(reading.health.unread, READINGS[name]) for name in missing},
    }


def unavailable(reason: str, time_us: int) -> dict[str, Any]:
    """The telemetry of a GPU that was not read."""
    return {"time": rfc3339(time_us), "unavailable": reason}


def _at(health: Mapping[str, Any], path: str) -> Any:
    value: Any = health
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
