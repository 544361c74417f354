"""The readings that become part of an event."""

from __future__ import annotations

from typing import Any

from daemon.gpu import telemetry
from daemon.gpu.readings import Health, Reading, Temperature
from daemon.gpu.readings.memory_errors import RowRemapping

PCI = "0000:91:00.0"
TIME_US = 1_769_079_600_000_000


def test_every_reading_is_one_that_a_gpus_health_has() -> None:
    health = Health().to_json()
    for path in telemetry.READINGS.values():
        value: Any = health
        for part in path.split("."):
            assert part in value, path
            value = value[part]


def test_what_was_read_stands_apart_from_what_was_not_and_why() -> None:
    health = Health(
        temperature=Temperature(gpu_c=66),
        row_remapping=RowRemapping(pending=False),
        unread={"power": "not supported by this GPU", "temperature.memory_c": "GPU is lost"},
    )
    taken = telemetry.of_reading(Reading(PCI, answered=True, took_ms=2.5, health=health), TIME_US)
    assert taken["time"] == "2026-01-22T11:00:00.000000Z"
    assert taken["took_ms"] == 2.5
    assert taken["readings"] == {"temperature_gpu_c": 66, "row_remap_pending": False}
    assert taken["unread"]["power_draw_w"] == "not supported by this GPU"
    assert taken["unread"]["temperature_memory_c"] == "GPU is lost"
    assert taken["readings"].keys() | taken["unread"].keys() == telemetry.READINGS.keys()


def test_a_gpu_that_did_not_answer_says_why() -> None:
    silent = Reading(PCI, answered=False, trouble="hung", reason="nvmlDeviceGetTemperature did not return")
    taken = telemetry.of_reading(silent, TIME_US)
    assert taken["unavailable"] == "nvmlDeviceGetTemperature did not return"
    assert "readings" not in taken
