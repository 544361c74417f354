"""What the worker's operations make of what NVML answers, and of what it does not."""

from __future__ import annotations

import pytest

from tests.support import nvidia_smi
from tests.support.fake_nvml import GPU_IS_LOST, NO_PERMISSION, Scenario
from tests.support.gpu_reader import (
    FUNCTION_NOT_FOUND,
    INVALID_ARGUMENT,
    NOT_SUPPORTED,
    OLD,
    TIMEOUT,
    UNKNOWN,
    UNSUPPORTED,
    VERSION_MISMATCH,
    ReaderProcess,
    everything_null_has_a_reason,
    without_field,
)

NO_GPU_INSTANCE = 0xFFFFFFFF
OPERATIONS = ("identity", "health", "processes", "nvlink", "mig", "costly")


def test_its_identity_is_what_nvidia_smi_printed(reader: ReaderProcess) -> None:
    path = nvidia_smi.recorded()
    if not path.exists():
        pytest.skip(f"no {path.name} here")
    own = {"uuid", "pci", "module_id"}
    table = [same for same in nvidia_smi.IDENTITY if same.path not in own]
    printed = nvidia_smi.gpus(path.read_text())[0]
    assert list(nvidia_smi.compare(reader.ask("identity"), printed, table)) == []


def test_its_health_is_what_nvidia_smi_printed(reader: ReaderProcess) -> None:
    path = nvidia_smi.recorded()
    if not path.exists():
        pytest.skip(f"no {path.name} here")
    health = reader.ask("health")
    printed = nvidia_smi.gpus(path.read_text())[0]
    assert list(nvidia_smi.compare(health, printed, nvidia_smi.HEALTH + nvidia_smi.MOVING)) == []
    assert nvidia_smi.active_reasons(printed) == set(health["clock_events"]["reasons"])


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_null_has_its_reason(reader: ReaderProcess, operation: str) -> None:
    everything_null_has_a_reason(reader.ask(operation))


def test_what_does_not_change_is_asked_once(reader: ReaderProcess, scenario: Scenario) -> None:
    first = reader.ask("identity")
    scenario.log.unlink()
    assert reader.ask("identity", again=True) == first
    assert [function for _, function, _ in scenario.calls()] == ["nvmlDeviceGetMigMode"]


def test_health_takes_one_batch_of_field_values_once_its_facts_are_known(
    reader: ReaderProcess, scenario: Scenario
) -> None:
    first = reader.ask("health")
    scenario.log.unlink()
    second = reader.ask("health", again=True)
    del first["nvlink"]["errors_age_s"], second["nvlink"]["errors_age_s"]
    assert second == first
    calls = [function for _, function, _ in scenario.calls()]
    assert calls.count("nvmlDeviceGetFieldValues") == 1
    assert "nvmlDeviceGetTemperatureThreshold" not in calls


def test_idle_is_a_reason_for_low_clocks_and_no_throttling(reader: ReaderProcess) -> None:
    events = reader.ask("health")["clock_events"]
    assert (events["reasons"], events["throttling"]) == (["gpu_idle"], [])


@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name != "processes"])
def test_nothing_but_the_oldest_functions_still_gives_reasons(
    reader: ReaderProcess, scenario: Scenario, operation: str
) -> None:
    for function in (
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetTemperatureV",
        "nvmlDeviceGetMarginTemperature",
        "nvmlDeviceGetCurrentClocksEventReasons",
        "nvmlDeviceGetGpuFabricInfoV",
        "nvmlDeviceGetGpuFabricInfo",
        "nvmlDeviceGetSramEccErrorStatus",
        "nvmlDeviceGetRepairStatus",
        "nvmlDeviceGetUnrepairableMemoryFlag_v1",
        "nvmlDeviceGetMigMode",
        "nvmlSystemGetConfComputeSettings",
        "nvmlSystemGetConfComputeState",
        "nvmlDeviceGetConfComputeMemSizeInfo",
        "nvmlDeviceGetJpgUtilization",
        "nvmlDeviceGetOfaUtilization",
        "nvmlDeviceGetModuleId",
        "nvmlDeviceGetGspFirmwareMode",
        "nvmlSystemGetCudaDriverVersion_v2",
    ):
        scenario.fails(FUNCTION_NOT_FOUND, function)
    for field in range(138, 310):
        without_field(scenario, field, INVALID_ARGUMENT)
    payload = reader.ask(operation)
    everything_null_has_a_reason(payload)
    assert OLD in payload["unread"].values()


def test_functions_before_the_rename_are_asked_instead(reader: ReaderProcess, scenario: Scenario) -> None:
    scenario.fails(FUNCTION_NOT_FOUND, "nvmlDeviceGetMemoryInfo_v2")
    scenario.fails(FUNCTION_NOT_FOUND, "nvmlDeviceGetTemperatureV")
    scenario.fails(FUNCTION_NOT_FOUND, "nvmlDeviceGetCurrentClocksEventReasons")
    scenario.answers("nvmlDeviceGetTemperature(0)", 61)
    health = reader.ask("health")
    assert health["temperature"]["gpu_c"] == 61
    assert health["clock_events"]["reasons"] == ["gpu_idle"]
    assert health["memory"]["used_bytes"] == 644939776
    assert health["memory"]["reserved_bytes"] is None
    assert health["unread"]["memory.reserved_bytes"] == "counted as used by this driver version"


def test_processes_are_listed_by_the_older_function(reader: ReaderProcess, scenario: Scenario) -> None:
    scenario.fails(FUNCTION_NOT_FOUND, "nvmlDeviceGetComputeRunningProcesses_v3")
    scenario.answers(
        "nvmlDeviceGetComputeRunningProcesses_v2", 700, 1 << 30, NO_GPU_INSTANCE, NO_GPU_INSTANCE
    )
    assert [entry["pid"] for entry in reader.ask("processes")["processes"]] == [700]


def test_a_structure_that_is_too_new_is_asked_in_its_older_form(
    reader: ReaderProcess, scenario: Scenario
) -> None:
    scenario.fails(VERSION_MISMATCH, "nvmlDeviceGetGpuFabricInfoV")
    fabric = reader.ask("health")["fabric"]
    assert (fabric["state"], fabric["health"]) == ("completed", None)


def test_a_field_that_nvml_left_empty_is_no_zero(reader: ReaderProcess, scenario: Scenario) -> None:
    scenario.answers("field(142)", 0, 0, 0, 0)
    health = reader.ask("health")
    assert health["row_remapping"]["correctable"] is None
    assert health["unread"]["row_remapping.correctable"] == "not available"


def test_an_error_of_one_read_leaves_the_others(reader: ReaderProcess, scenario: Scenario) -> None:
    scenario.fails(UNKNOWN, "nvmlDeviceGetPowerUsage")
    scenario.fails(NO_PERMISSION, "nvmlDeviceGetMarginTemperature")
    health = reader.ask("health")
    assert health["power"]["draw_w"] is None
    assert health["power"]["limit_w"] == 700.0
    assert health["unread"]["power.draw_w"] == "unknown error"
    assert health["unread"]["temperature.margin_c"] == "no permission"


def test_what_failed_for_a_moment_is_asked_again(reader: ReaderProcess, scenario: Scenario) -> None:
    scenario.fails(UNKNOWN, "nvmlDeviceGetVbiosVersion")
    without_field(scenario, "91", UNKNOWN)
    assert reader.ask("identity")["vbios_version"] is None
    assert reader.ask("health", again=True)["nvlink"]["links"] is None
    scenario.behaves("nvmlDeviceGetVbiosVersion")
    scenario.field(91, 18)
    assert reader.ask("identity", again=True)["vbios_version"] == "96.00.A5.00.1A"
    assert reader.ask("health", again=True)["nvlink"]["links"] == 18


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_lost_gpu_ends_the_operation(reader: ReaderProcess, scenario: Scenario, operation: str) -> None:
    assert "gone" not in reader.ask("mig")
    scenario.fails(GPU_IS_LOST, gpu=0)
    assert "lost" in reader.ask(operation, again=True)["gone"].lower()


def test_a_lost_gpu_is_seen_in_field_values_too(reader: ReaderProcess, scenario: Scenario) -> None:
    without_field(scenario, "230", GPU_IS_LOST)
    assert "lost" in reader.ask("health")["gone"].lower()


def test_after_a_timeout_nothing_more_is_asked(reader: ReaderProcess, scenario: Scenario) -> None:
    scenario.fails(TIMEOUT, "nvmlDeviceGetPowerUsage")
    scenario.log.unlink(missing_ok=True)
    health = reader.ask("health")
    assert health["unread"]["power.draw_w"] == "the driver timed out"
    assert health["unread"]["utilization.gpu_percent"] == "not asked: the driver timed out before"
    everything_null_has_a_reason(health)
    calls = [function for _, function, _ in scenario.calls()]
    assert calls[-1] == "nvmlDeviceGetPowerUsage"


def test_processes_have_their_kind_memory_and_mig_instance(reader: ReaderProcess, scenario: Scenario) -> None:
    scenario.answers(
        "nvmlDeviceGetComputeRunningProcesses_v3",
        *(900, 1 << 30, NO_GPU_INSTANCE, NO_GPU_INSTANCE),
        *(800, 2**64 - 1, 5, 0),
    )
    scenario.answers("nvmlDeviceGetGraphicsRunningProcesses_v3", 900, 4096, NO_GPU_INSTANCE, NO_GPU_INSTANCE)
    assert reader.ask("processes")["processes"] == [
        {"pid": 800, "type": "compute", "memory_used_bytes": None, "gi": 5, "ci": 0},
        {"pid": 900, "type": "compute", "memory_used_bytes": 1 << 30, "gi": None, "ci": None},
        {"pid": 900, "type": "graphics", "memory_used_bytes": 4096, "gi": None, "ci": None},
    ]


def test_no_process_is_an_empty_list(reader: ReaderProcess) -> None:
    assert reader.ask("processes") == {"processes": [], "unread": {}}


def test_processes_that_cannot_be_listed_are_not_none(reader: ReaderProcess, scenario: Scenario) -> None:
    scenario.fails(NOT_SUPPORTED, "nvmlDeviceGetGraphicsRunningProcesses_v3")
    assert reader.ask("processes") == {"processes": [], "unread": {"graphics": UNSUPPORTED}}
    scenario.fails(NO_PERMISSION, "nvmlDeviceGetComputeRunningProcesses_v3")
    read = reader.ask("processes")
    assert read["processes"] is None
    assert read["unread"]["processes"] == "no permission"


def test_the_inventory_holds_the_layout(reader: ReaderProcess, scenario: Scenario) -> None:
    assert reader.ask("identity")["mig"]["gpu_instances"] == []
    scenario.answers("nvmlDeviceGetMigMode", 1, 1)
    scenario.answers("nvmlDeviceGetMaxMigDeviceCount", 7)
    scenario.answers("nvmlDeviceGetMigDeviceHandleByIndex", 0)
    for index, uuid in ((0, "MIG-0e0e0000-0000-5000-8000-000000000001"), (3, "MIG-0e0e1111")):
        scenario.answers("nvmlDeviceGetUUID", uuid, gpu=f"0m{index}")
        scenario.answers("nvmlDeviceGetGpuInstanceId", 5 + index, gpu=f"0m{index}")
        scenario.answers("nvmlDeviceGetComputeInstanceId", 0, gpu=f"0m{index}")
        scenario.answers("nvmlDeviceGetMemoryInfo_v2", 18 << 30, 0, 17 << 30, 1 << 30, gpu=f"0m{index}")
        scenario.answers("nvmlDeviceGetAttributes_v2", 16, 0, 0, 0, 0, 0, 1, 1, 18 << 10, gpu=f"0m{index}")
    identity = reader.ask("identity")
    everything_null_has_a_reason({"unread": {}, "mig": {**identity["mig"], "unread": {}}})
    first, second = identity["mig"]["gpu_instances"]
    assert (first["id"], second["id"], first["memory_used_bytes"]) == (5, 8, 1 << 30)
    (instance,) = second["compute_instances"]
    assert (instance["uuid"], instance["index"], instance["multiprocessors"]) == ("MIG-0e0e1111", 3, 16)
    # This library has no functions for GPU instances.
    assert OLD in first["unread"]["placement_start"]
    assert OLD in identity["mig"]["unread"]["gpu_instances.empty"]


def test_only_what_was_asked_for_is_read(reader: ReaderProcess, scenario: Scenario) -> None:
    scenario.log.unlink(missing_ok=True)
    read = reader.ask("costly", what=["pcie_throughput"])
    everything_null_has_a_reason(read)
    assert read["pcie_sent_kb_per_s"] == 120
    assert read["unread"]["energy_j"] == "not asked for"
    assert "nvmlDeviceGetTotalEnergyConsumption" not in {function for _, function, _ in scenario.calls()}


def test_health_reads_nothing_costly(reader: ReaderProcess, scenario: Scenario) -> None:
    scenario.log.unlink(missing_ok=True)
    reader.ask("health")
    called = {function for _, function, _ in scenario.calls()}
    assert not called & {"nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPcieThroughput"}
