"""`get_gpu_inventory`: every GPU of the node, lost ones too, and clear errors for names that fit none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from mcp_types import TextContent

from daemon.gpu.mock import Command
from mcp_server.quote import tokens
from mcp_server.wire_gpu import InventoryOut
from tests.mcp_server.gpu_fleet import QUIET, Fleet, gpu_fleet
from tests.mcp_server.serving import Served
from tests.support import tool_calls

TOOL = "get_gpu_inventory"


@pytest.fixture(scope="module")
def eight() -> Iterator[Fleet]:
    """The default fleet, which no test changes."""
    with gpu_fleet() as fleet:
        yield fleet


def inventory(fleet: Fleet, era: str = "legacy", **arguments: Any) -> tuple[dict[str, Any], str]:
    return tool_calls.answer(fleet.url, TOOL, InventoryOut, era, **arguments)


def refusal(url: str, **arguments: Any) -> str:
    result = tool_calls.call(url, TOOL, **arguments)
    assert result.is_error
    (only,) = result.content
    assert isinstance(only, TextContent)
    return only.text


@pytest.mark.parametrize("era", ["legacy", "2026-07-28"])
def test_each_gpu_has_its_names_and_what_it_does_now(eight: Fleet, era: str) -> None:
    data, text = inventory(eight, era)
    assert (data["node"], data["device_count"], data["answered_count"]) == ("gpu-17", 8, 8)
    assert (data["driver_version"], data["cuda_version"]) == ("580.159.04", "13.0")
    assert [gpu["index"] for gpu in data["gpus"]] == list(range(8))
    busy = data["gpus"][1]
    assert (busy["uuid"], busy["pci"], busy["name"]) == (
        eight.board(1).uuid,
        eight.board(1).pci,
        "NVIDIA H200",
    )
    assert (busy["temperature"], busy["power"]) == ({"gpu_c": 65}, {"draw_w": 699.1, "limit_w": 700.0})
    assert busy["utilization"] == {"gpu_percent": 100}
    assert busy["memory"] == {"total_bytes": 150_754_820_096, "used_bytes": 148_600_000_000}
    assert "8 GPUs on gpu-17: 8 × NVIDIA H200; driver 580.159.04." in text
    assert f"GPU 1 {busy['pci']} {busy['uuid']}: 138.4 of 140.4 GiB used, 65 °C, 699.1 of 700 W" in text


def test_mock_gpus_say_so_in_text_and_structure(eight: Fleet) -> None:
    data, text = inventory(eight)
    assert data["mock"] is True
    assert text.startswith("MOCK: the GPUs and their readings are invented")


def test_the_default_answer_for_eight_gpus_fits_a_budget(eight: Fleet) -> None:
    data, text = inventory(eight)
    assert tokens(text) <= 800
    assert tokens(json.dumps(data)) <= 2_000


def test_what_cannot_be_read_is_null_with_its_reason(eight: Fleet) -> None:
    data, text = inventory(eight, gpu=2)
    (gpu,) = data["gpus"]
    assert gpu["utilization"] == {"gpu_percent": None}
    assert data["unread"] == {"utilization.gpu_percent": "not supported by this GPU"}
    assert "utilization unknown" in text


def test_mig_instances_are_named_and_can_be_asked_for(eight: Fleet) -> None:
    board = eight.board(2)
    data, text = inventory(eight, gpu=board.mig_uuid(2))
    (gpu,) = data["gpus"]
    assert gpu["pci"] == board.pci
    assert [each["uuid"] for each in gpu["mig"]["instances"]] == [board.mig_uuid(gi) for gi in (1, 2, 3)]
    assert data["mig_asked_for"] == [{"pci": board.pci, "uuid": board.mig_uuid(2), "gi": 2, "ci": 0}]
    assert f"{board.mig_uuid(2)} is GPU instance 2, compute instance 0 of GPU {board.pci}." in text


def test_full_has_everything_that_identifies_the_board(eight: Fleet) -> None:
    data, _ = inventory(eight, gpu=2, detail="full")
    (gpu,) = data["gpus"]
    assert gpu["identity"]["serial"] == "MOCK000000002"
    assert gpu["identity"]["vbios_version"] == "96.00.A5.00.1A"
    assert gpu["temperature"]["slowdown_c"] == 89
    assert gpu["mig"]["gpu_instances"][0]["compute_instances"][0]["multiprocessors"] == 60
    assert data["detail"] == "full"


@pytest.mark.parametrize(
    "spelling", [3, "3", "0000:61:00.0", "61:00", "00000000:61:00.0", "GPU-a3", "a3000000"]
)
def test_a_gpu_is_found_in_every_spelling(eight: Fleet, spelling: object) -> None:
    data, _ = inventory(eight, gpu=spelling)
    assert [gpu["index"] for gpu in data["gpus"]] == [3]


def test_several_gpus_can_be_named_at_once(eight: Fleet) -> None:
    data, _ = inventory(eight, gpu="3, 1,GPU-a3")
    assert sorted(gpu["index"] for gpu in data["gpus"]) == [1, 3]


@pytest.mark.parametrize(
    ("arguments", "sentences"),
    [
        ({"gpu": 8}, ["no GPU of this node is '8'", "the valid ones are 0 = GPU-a0000000"]),
        ({"gpu": "GPU-a"}, ["'GPU-a' could be any of GPU-a0000000", "give more of it"]),
        (
            {"gpu": "61:00:zz"},
            ["'61:00:zz' names no GPU", "give an index, a UUID or its beginning"],
        ),
        ({"gpu": "0000:ff:00.0"}, ["no GPU of this node is '0000:ff:00.0'"]),
        ({"gpu": "MIG-ffff"}, ["no GPU of this node is 'MIG-ffff'", "its MIG instances are MIG-a2000001"]),
        ({"gpu": -1}, ["'-1' names no GPU"]),
        ({"gpu": True}, ["gpu", "arguments of get_gpu_inventory"]),
        ({"detail": "everything"}, ["detail: Input should be 'summary' or 'full'"]),
        ({"gpus": 1}, ["gpus: not known here", "gpu, detail"]),
    ],
)
def test_a_name_that_fits_no_gpu_is_an_error_that_names_the_valid_ones(
    eight: Fleet, arguments: dict[str, Any], sentences: list[str]
) -> None:
    text = refusal(eight.url, **arguments)
    assert all(sentence in text for sentence in sentences), text


def test_a_gpu_that_fell_off_or_vanished_stays_in_the_inventory_as_lost() -> None:
    with gpu_fleet(QUIET) as fleet:
        inventory(fleet)
        fleet.mock.command(Command.FALL_OFF, "0")
        fleet.mock.command(Command.VANISH, "2")
        data, text = inventory(fleet)
        assert (data["device_count"], data["answered_count"]) == (3, 1)
        first, _, last = data["gpus"]
        assert (first["lost"]["presence"], last["lost"]["presence"]) == ("lost", "gone")
        assert (last["index"], last["lost"]["last_index"], last["uuid"]) == (None, 2, fleet.board(2).uuid)
        assert "temperature" not in last
        assert f"(was index 2): GONE since {last['lost']['since'][:16]}" in text
        fleet.mock.command(Command.COME_BACK, fleet.board(2).uuid)
        assert "lost" not in inventory(fleet)[0]["gpus"][2]


def test_a_gpu_that_hangs_is_named_with_the_call_while_the_others_answer() -> None:
    with gpu_fleet(QUIET) as fleet:
        inventory(fleet)
        fleet.mock.command(Command.HANG, "0")
        data, text = inventory(fleet)
        assert data["gpus"][0]["no_answer"]["trouble"] == "hung"
        assert data["source"]["hung"][0]["call"] == "nvmlDeviceGetTemperature"
        assert "did not answer: nvmlDeviceGetTemperature has not returned since " in text
        assert data["answered_count"] == 2


def test_where_nobody_can_look_the_answer_says_so_and_not_that_there_is_no_gpu(served: Served) -> None:
    data, text = tool_calls.answer(served.url, TOOL, InventoryOut)
    assert (data["source"]["state"], data["source"]["reason"]) == ("off", "no test asked for GPUs")
    assert text.startswith("COULD NOT LOOK at the GPUs: no test asked for GPUs. This says nothing")
    assert "the GPUs of this node could not be looked at: no test asked for GPUs" in refusal(
        served.url, gpu=0
    )


def test_gpus_known_from_before_stay_in_an_answer_that_could_not_look() -> None:
    with gpu_fleet(QUIET) as fleet:
        inventory(fleet)
        fleet.unload()
        data, text = inventory(fleet)
        assert [gpu["no_answer"]["trouble"] for gpu in data["gpus"]] == ["off"] * 3
        assert not any("lost" in gpu for gpu in data["gpus"])
        assert "COULD NOT LOOK at the GPUs: the driver was unloaded (load it with modprobe nvidia)." in text


def test_where_nobody_could_ever_look_the_number_of_gpus_is_unknown() -> None:
    with gpu_fleet(QUIET) as fleet:
        fleet.unload()
        data, _ = inventory(fleet)
        assert (data["device_count"], data["gpus"]) == (None, [])
    with gpu_fleet('[[gpu]]\nstate = "gone"') as fleet:
        assert inventory(fleet)[0]["device_count"] == 0
