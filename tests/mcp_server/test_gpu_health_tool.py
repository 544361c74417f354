"""`get_gpu_health`: a verdict for each GPU, reasons first, and unknown where nobody could look."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from daemon.gpu.mock import Command
from mcp_server.quote import tokens
from mcp_server.wire_gpu import HealthOut
from tests.mcp_server.gpu_fleet import QUIET, Fleet, gpu_fleet
from tests.mcp_server.serving import Served
from tests.support import tool_calls

TOOL = "get_gpu_health"


@pytest.fixture(scope="module")
def eight() -> Iterator[Fleet]:
    """The default fleet, which no test changes."""
    with gpu_fleet() as fleet:
        yield fleet


@pytest.fixture
def three() -> Iterator[Fleet]:
    """Three healthy GPUs that were seen once."""
    with gpu_fleet(QUIET) as fleet:
        health(fleet)
        yield fleet


def health(fleet: Fleet, era: str = "legacy", **arguments: Any) -> tuple[dict[str, Any], str]:
    return tool_calls.answer(fleet.url, TOOL, HealthOut, era, **arguments)


def reasons_of(data: dict[str, Any], index: int) -> list[dict[str, Any]]:
    """The reasons of a summary that the GPU at this place has, gravest first."""
    gpu = data["gpus"][index]
    return [reason for reason in data["reasons"] if {gpu["index"], gpu["pci"]} & {*reason.get("gpus", ())}]


def codes(data: dict[str, Any], index: int) -> list[str]:
    return [reason["code"] for reason in reasons_of(data, index)]


@pytest.mark.parametrize("era", ["legacy", "2026-07-28"])
def test_the_state_comes_first_then_the_reasons_then_who_is_well(eight: Fleet, era: str) -> None:
    data, text = health(eight, era)
    assert (data["state"], data["healthy_count"], data["degraded_count"]) == ("degraded", 6, 2)
    mock, first, *rest = text.split("\n")
    assert mock.startswith("MOCK: ")
    assert first == "Node gpu-17 is DEGRADED; GPUs: 2 degraded, 6 healthy, of 8."
    assert rest[0] == f"- GPU 4 {eight.board(4).pci} {eight.board(4).uuid}: DEGRADED"
    assert rest[-1] == "healthy: GPU 0, 1, 2, 3, 6, 7."


def test_a_reason_names_its_reading_its_threshold_and_where_that_comes_from(eight: Fleet) -> None:
    data, text = health(eight)
    hot = next(reason for reason in reasons_of(data, 4) if reason["code"] == "gpu_temperature")
    assert (hot["reading"], hot["value"], hot["threshold"], hot["threshold_source"]) == (
        "temperature.margin_c",
        -3,
        -2,
        "driver",
    )
    assert "row_remap_pending" in codes(data, 5)
    assert any("docs.nvidia.com" in reason.get("reference", "") for reason in reasons_of(data, 5))
    assert hot["sentence"] in text


def test_work_at_the_limit_is_no_fault(eight: Fleet) -> None:
    data = health(eight)[0]
    busy = data["gpus"][1]
    assert (busy["state"], busy["utilization"], codes(data, 1)) == ("healthy", {"gpu_percent": 100}, [])
    assert busy["power"] == {"draw_w": 699.1}


def test_the_default_answer_for_eight_gpus_fits_a_budget_also_when_many_are_ill() -> None:
    with gpu_fleet() as fleet:
        for index, command in enumerate([Command.HANG, Command.FALL_OFF, Command.DEGRADE, Command.THROTTLE]):
            data, text = health(fleet)
            assert tokens(text) <= 800
            assert tokens(json.dumps(data)) <= 2_000
            fleet.mock.command(command, str(index))


def test_some_gpus_have_no_verdict_of_the_node_but_their_readings_in_words(eight: Fleet) -> None:
    data, text = health(eight, gpu=["1", "GPU-a4"])
    assert (data["state"], data["device_count"]) == (None, 2)
    assert "GPUs asked for on gpu-17: 1 degraded, 1 healthy, of 2." in text
    assert "readings: 65 °C, 699.1 of 700 W, utilization 100 %, 138.4 of 140.4 GiB used" in text


def test_full_has_every_reading_with_why_one_is_null_and_what_was_not_checked(eight: Fleet) -> None:
    data, text = health(eight, gpu=5, detail="full")
    (gpu,) = data["gpus"]
    assert gpu["readings"]["row_remapping"]["pending"] is True
    assert gpu["readings"]["nvlink"]["links_down"] == [7]
    assert gpu["temperature"]["memory_c"] is not None
    assert gpu["unread"]["ecc.volatile.l1_cache"] == "not supported by this GPU"
    assert "page retirement" in [check["check"] for check in gpu["not_checked"]]
    assert "not checked: page retirement (" in text
    assert "note" in {reason["severity"] for reason in gpu["reasons"]}


def test_costly_readings_come_only_when_they_are_asked_for(eight: Fleet) -> None:
    assert "costly" not in health(eight, gpu=1, detail="full")[0]["gpus"][0]
    data, text = health(eight, gpu=1, costly=True)
    assert data["gpus"][0]["costly"]["energy_j"] == 41_280_000.0
    assert "41280000 J since the driver was loaded; PCIe sends 1840000 KB/s" in text


def test_a_gpu_lost_with_its_xid_says_since_when_and_with_which_events(three: Fleet) -> None:
    three.heard(2, 13, number=1)
    fell_off = three.heard(2, 79, number=2)
    three.mock.command(Command.FALL_OFF, "2")
    data, text = health(three)
    lost = data["gpus"][2]
    assert (data["state"], lost["state"], codes(data, 2)[0]) == ("unhealthy", "unhealthy", "gpu_lost")
    assert [event["id"] for event in lost["lost"]["last_events"]] == ["ev_13_1", fell_off.id]
    assert fell_off.id in reasons_of(data, 2)[0]["events"]
    assert f"GPU {three.board(2).pci} {three.board(2).uuid} (was index 2): UNHEALTHY" in text
    assert "unhealthy: The GPU is lost since 20" in text
    assert "last event: Xid 79 [fatal] at " in text
    assert f"xid://events/{fell_off.id}" in text


def test_a_gpu_after_xid_119_is_left_alone_until_somebody_names_it(three: Fleet) -> None:
    three.heard(1, 119)
    data, text = health(three)
    assert data["gpus"][1]["no_answer"]["trouble"] == "not_asked"
    assert "left alone since Xid 119" in text
    assert "name it to ask it anyway" in text
    assert "no_answer" not in health(three, gpu=1)[0]["gpus"][0]


def test_a_gpu_that_hangs_is_unhealthy_with_the_call_that_did_not_return(three: Fleet) -> None:
    three.mock.command(Command.HANG, "0")
    data, text = health(three)
    assert codes(data, 0) == ["nvml_hung"]
    assert "nvmlDeviceGetTemperature" in text


def test_what_was_broken_and_came_back_is_healthy_again(three: Fleet) -> None:
    for command, state in ((Command.DEGRADE, "degraded"), (Command.VANISH, "unhealthy")):
        three.mock.command(command, "0")
        assert health(three)[0]["state"] == state
        three.mock.command(Command.COME_BACK, three.board(0).uuid)
        assert health(three)[0]["state"] == "healthy"


def test_gpus_that_nobody_can_look_at_are_unknown_and_not_healthy(three: Fleet) -> None:
    three.unload()
    data, text = health(three)
    assert (data["state"], data["unknown_count"], data["healthy_count"]) == ("unknown", 3, 0)
    assert {gpu["no_answer"]["trouble"] for gpu in data["gpus"]} == {"off"}
    assert "COULD NOT LOOK at the GPUs: the driver was unloaded (load it with modprobe nvidia)." in text
    assert "Node gpu-17 is UNKNOWN; GPUs: 3 unknown, of 3." in text
    assert "unknown: The GPU did not answer: the driver was unloaded." in text
    assert "healthy:" not in text


def test_a_node_without_a_source_is_unknown(served: Served) -> None:
    data, text = tool_calls.answer(served.url, TOOL, HealthOut)
    assert (data["state"], data["gpus"], data["mock"]) == ("unknown", [], False)
    assert [reason["code"] for reason in data["reasons"]] == ["gpus_unreadable"]
    assert "Node gpu-17 is UNKNOWN; GPUs: no GPU was looked at." in text


def test_a_driver_without_gpus_says_that_it_has_none() -> None:
    with gpu_fleet('[[gpu]]\nstate = "gone"') as fleet:
        data, text = health(fleet)
        assert (data["source"]["state"], data["gpus"]) == ("no_gpu", [])
        assert "The driver answers, but no GPU is listed." in text
        assert data["state"] != "healthy"
