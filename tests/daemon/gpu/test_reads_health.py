"""Health readings, section by section."""

from __future__ import annotations

from tests.support.fake_nvml import NO_PERMISSION, Scenario
from tests.support.gpu_reader import (
    INVALID_ARGUMENT,
    NOT_SUPPORTED,
    UNKNOWN,
    UNSUPPORTED,
    ReaderProcess,
    everything_null_has_a_reason,
    without_field,
)


def test_heat_and_power_brake_are_throttling_the_power_limit_is_not(
    reader: ReaderProcess, scenario: Scenario
) -> None:
    scenario.answers("nvmlDeviceGetCurrentClocksEventReasons", 0x4 | 0x8 | 0x20 | 0x80)
    events = reader.ask("health")["clock_events"]
    assert events["reasons"] == [
        "sw_power_cap",
        "hw_slowdown",
        "sw_thermal_slowdown",
        "hw_power_brake_slowdown",
    ]
    assert events["throttling"] == ["hw_slowdown", "sw_thermal_slowdown", "hw_power_brake_slowdown"]


def test_a_reason_from_the_future_is_named_by_its_bit(reader: ReaderProcess, scenario: Scenario) -> None:
    scenario.answers("nvmlDeviceGetCurrentClocksEventReasons", 0x1 | 0x10000)
    events = reader.ask("health")["clock_events"]
    assert (events["reasons"], events["throttling"]) == (["gpu_idle", "unknown_0x10000"], [])


def test_durations_are_microseconds(reader: ReaderProcess, scenario: Scenario) -> None:
    scenario.field(270, 2_500_000, type=3)
    assert reader.ask("health")["clock_events"]["hw_thermal_slowdown_us"] == 2500


def test_a_driver_that_does_not_count_by_cause_is_asked_for_the_thermal_policy(
    reader: ReaderProcess, scenario: Scenario
) -> None:
    without_field(scenario, "269", INVALID_ARGUMENT)
    scenario.field(75, 7_000, type=3)
    events = reader.ask("health")["clock_events"]
    assert (events["sw_thermal_slowdown_us"], events["thermal_policy_us"]) == (None, 7)


def test_only_the_memories_that_this_gpu_counts_are_there(reader: ReaderProcess) -> None:
    health = reader.ask("health")
    assert health["ecc"]["volatile"]["dram"] == {"corrected": 0, "uncorrected": 0}
    assert health["ecc"]["volatile"]["l1_cache"] is None
    assert health["unread"]["ecc.volatile.l1_cache"] == UNSUPPORTED


def test_memories_that_are_not_counted_are_asked_for_once(reader: ReaderProcess, scenario: Scenario) -> None:
    first = reader.ask("health")["ecc"]
    scenario.log.unlink()
    assert reader.ask("health", again=True)["ecc"] == first
    calls = [function for _, function, _ in scenario.calls()]
    assert calls.count("nvmlDeviceGetMemoryErrorCounter") == 8


def test_an_older_gpu_counts_other_memories(reader: ReaderProcess, scenario: Scenario) -> None:
    scenario.answers("nvmlDeviceGetMemoryErrorCounter(1,1,6)", 3)
    cbu = reader.ask("health")["ecc"]["aggregate"]["cbu"]
    assert cbu == {"corrected": None, "uncorrected": 3}


def test_counters_by_location_and_time_are_kept_apart(reader: ReaderProcess, scenario: Scenario) -> None:
    scenario.answers("nvmlDeviceGetMemoryErrorCounter(0,0,2)", 1)
    scenario.answers("nvmlDeviceGetMemoryErrorCounter(1,0,2)", 2)
    scenario.answers("nvmlDeviceGetMemoryErrorCounter(0,1,7)", 3)
    scenario.field(4, 20, type=3)
    scenario.answers("nvmlDeviceGetSramEccErrorStatus", *range(10, 22))
    ecc = reader.ask("health")["ecc"]
    assert ecc["volatile"]["dram"] == {"corrected": 1, "uncorrected": 2}
    assert ecc["aggregate"]["sram"] == {"corrected": 3, "uncorrected": 0}
    assert ecc["volatile"]["uncorrected"] == 20
    assert ecc["sram"]["aggregate_uncorrected_parity"] == 10
    assert ecc["sram"]["volatile_uncorrected_secded"] == 14
    assert ecc["sram"]["aggregate_uncorrected_other"] == 20
    assert ecc["sram"]["threshold_exceeded"] is True


def test_with_ecc_off_there_is_nothing_counted(reader: ReaderProcess, scenario: Scenario) -> None:
    scenario.field(1, 0, type=3)
    for field in range(3, 7):
        without_field(scenario, field, NOT_SUPPORTED)
    health = reader.ask("health")
    everything_null_has_a_reason(health)
    assert health["ecc"]["enabled"] is False
    assert health["unread"]["ecc.volatile.uncorrected"] == "ECC is off"
    assert health["unread"]["ecc.sram"] == "ECC is off"


def test_rows_that_wait_for_a_reset_and_rows_that_could_not_be_replaced(
    reader: ReaderProcess, scenario: Scenario
) -> None:
    scenario.field(143, 4, type=3)
    scenario.field(144, 1, type=3)
    scenario.field(145, 1, type=3)
    scenario.answers("nvmlDeviceGetRowRemapperHistogram", 3070, 1, 1, 0, 2)
    rows = reader.ask("health")["row_remapping"]
    assert (rows["uncorrectable"], rows["pending"], rows["failure"]) == (4, True, True)
    assert rows["banks"] == {"max": 3070, "high": 1, "partial": 1, "low": 0, "none": 2}


def test_an_older_gpu_retires_pages(reader: ReaderProcess, scenario: Scenario) -> None:
    for field, value in ((29, 5), (30, 1), (31, 1)):
        scenario.field(field, value, type=3)
    assert reader.ask("health")["retired_pages"] == {"single_bit": 5, "double_bit": 1, "pending": True}


def test_the_recovery_action_has_its_name(reader: ReaderProcess, scenario: Scenario) -> None:
    scenario.field(230, 4)
    assert reader.ask("health")["recovery_action"] == "drain_and_reset"
    scenario.field(230, 99)
    assert reader.ask("health")["recovery_action"] == "unknown (99)"


def test_confidential_computing_is_read_only_where_it_is_on(
    reader: ReaderProcess, scenario: Scenario
) -> None:
    off = reader.ask("health")
    assert off["confidential_computing"]["gpus_ready"] is None
    assert off["unread"]["confidential_computing.gpus_ready"] == "confidential computing is off"
    scenario.answers("nvmlSystemGetConfComputeSettings", 2, 1, 0, 1)
    scenario.answers("nvmlSystemGetConfComputeGpusReadyState", 1)
    scenario.answers("nvmlDeviceGetConfComputeMemSizeInfo", 1024, 0)
    assert reader.ask("health")["confidential_computing"] == {
        "enabled": True,
        "environment": "production",
        "devtools_mode": False,
        "multi_gpu_mode": "protected_pcie",
        "gpus_ready": True,
        "protected_memory_bytes": 1024 * 1024,
    }


def test_an_error_code_that_nvidia_ml_py_returns_is_an_error(
    reader: ReaderProcess, scenario: Scenario
) -> None:
    scenario.fails(NO_PERMISSION, "nvmlSystemGetConfComputeSettings")
    health = reader.ask("health")
    assert health["confidential_computing"]["enabled"] is None
    assert health["unread"]["confidential_computing.enabled"] == "no permission"


def test_a_fan_is_read_where_there_is_one(reader: ReaderProcess, scenario: Scenario) -> None:
    scenario.answers("nvmlDeviceGetNumFans", 2)
    scenario.answers("nvmlDeviceGetFanSpeed", 55)
    assert reader.ask("health")["temperature"]["fan_percent"] == 55


def test_a_gpu_without_a_fabric_says_so(reader: ReaderProcess, scenario: Scenario) -> None:
    scenario.answers("nvmlDeviceGetGpuFabricInfoV", "0" * 32, 0, 0, 0, 0, 0)
    health = reader.ask("health")
    assert health["fabric"]["state"] == "not_supported"
    assert health["unread"]["fabric.status"] == "this GPU is no part of a fabric"


def test_a_gpu_that_waits_for_the_fabric_manager_has_no_status_yet(
    reader: ReaderProcess, scenario: Scenario
) -> None:
    scenario.answers("nvmlDeviceGetGpuFabricInfoV", "0" * 32, 0, 0, 2, 0, 0)
    fabric = reader.ask("health")["fabric"]
    assert (fabric["state"], fabric["status"], fabric["clique_id"]) == ("in_progress", None, None)


def test_the_health_of_the_fabric_is_told_bit_by_bit(reader: ReaderProcess, scenario: Scenario) -> None:
    mask = 1 << 0 | 2 << 2 | 1 << 4 | 2 << 6 | 5 << 8 | 1 << 12
    uuid = "00112233445566778899aabbccddeeff"
    scenario.answers("nvmlDeviceGetGpuFabricInfoV", uuid, UNKNOWN, 7, 3, mask, 2)
    health = reader.ask("health")
    everything_null_has_a_reason(health)
    assert health["fabric"] == {
        "state": "completed",
        "status": "unknown error",
        "clique_id": 7,
        "cluster_uuid": "00112233-4455-6677-8899-aabbccddeeff",
        "health": "unhealthy",
        "degraded_bandwidth": True,
        "route_recovery": False,
        "route_unhealthy": True,
        "access_timeout_recovery": False,
        "incorrect_configuration": "insufficient_nvlinks",
        "partition_assigned": True,
    }
