"""`describe_gpu_node`: the whole node in one answer, each part with what could not be known of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from mcp_types import TextContent

from daemon.gpu.mock import Command
from mcp_server.node_tool import MOST_FAULTS
from mcp_server.quote import tokens
from mcp_server.wire_node import NodeOut
from probes.health import ProbeHealth
from tests.mcp_server.gpu_fleet import QUIET, Fleet, gpu_fleet
from tests.mcp_server.serving import Served
from tests.support import tool_calls

TOOL = "describe_gpu_node"


@pytest.fixture
def three() -> Iterator[Fleet]:
    """Three healthy GPUs."""
    with gpu_fleet(QUIET) as fleet:
        yield fleet


def describe(url: str, era: str = "legacy", **arguments: Any) -> tuple[dict[str, Any], str]:
    return tool_calls.answer(url, TOOL, NodeOut, era, **arguments)


@pytest.mark.parametrize("era", ["legacy", "2026-07-28"])
def test_it_tells_machine_driver_gpus_events_and_who_hears(three: Fleet, era: str) -> None:
    data, text = describe(three.url, era)
    assert (data["node"], data["state"], data["mock"]) == ("gpu-17", "healthy", True)
    assert data["host"]["kernel_release"] == os.uname().release
    assert data["host"]["uptime_s"] > 0
    assert data["driver"] == {"version": "580.159.04", "cuda_version": "13.0"}
    assert [gpu["state"] for gpu in data["gpus"]] == ["healthy"] * 3
    assert [(probe["name"], probe["hears"]) for probe in data["probes"]] == [("kmsg", True)]
    assert (data["xidwatch_version"], data["xidwatch_uptime_s"]) == ("0.0.test", 12.5)
    lines = text.split("\n")
    assert lines[0].startswith("MOCK: ")
    assert lines[1] == "Node gpu-17 is HEALTHY."
    assert f"kernel {os.uname().release} {os.uname().machine}, " in lines[2]
    assert lines[2].endswith("NVIDIA driver 580.159.04, CUDA 13.0.")
    assert "GPUs: 3 × NVIDIA H200; 3 healthy." in lines
    assert "The kernel log is heard through kmsg." in lines


def test_a_lost_gpu_is_named_with_since_when_and_its_last_events(three: Fleet) -> None:
    describe(three.url)
    event = three.heard(1, 79)
    three.mock.command(Command.FALL_OFF, "1")
    data, text = describe(three.url)
    gpu = data["gpus"][1]
    assert (data["state"], gpu["state"], gpu["lost"]["presence"]) == ("unhealthy", "unhealthy", "lost")
    assert [last["id"] for last in gpu["lost"]["last_events"]] == [event.id]
    assert [(fault["title"], fault["device"]) for fault in data["events"]["faults"]] == [
        ("Xid 79 GPU_HAS_FALLEN_OFF_THE_BUS", three.board(1).pci)
    ]
    assert f"(was index 1): UNHEALTHY\n  unhealthy: The GPU is lost since {gpu['lost']['since']}" in text
    assert f"last event: Xid 79 [fatal] at {gpu['lost']['since'][:19]}Z" in text
    assert f"- [fatal] Xid 79 GPU_HAS_FALLEN_OFF_THE_BUS on {three.board(1).pci}, once, " in text
    assert data["reasons"][0]["code"] == "gpu_lost"
    full = describe(three.url, detail="full")[0]["gpus"][1]
    assert full["reasons"][0]["code"] == "gpu_lost"
    assert full["headline"].startswith("unhealthy: The GPU is lost since ")


def test_the_default_answer_for_eight_gpus_in_trouble_fits_a_budget() -> None:
    with gpu_fleet() as fleet:
        describe(fleet.url)
        for index, code in enumerate([13, 31, 43, 45, 48, 63]):
            fleet.heard(index, code, number=index)
        fleet.heard(7, 79, number=7)
        fleet.mock.command(Command.FALL_OFF, "7")
        fleet.mock.command(Command.HANG, "6")
        data, text = describe(fleet.url)
        assert 1 <= len(data["events"]["faults"]) <= MOST_FAULTS < data["events"]["faults_total"] == 7
        assert tokens(text) <= 1_000
        assert tokens(json.dumps(data)) <= 2_000


def test_it_speaks_of_no_other_node(served: Served) -> None:
    assert describe(served.url, node_name="gpu-17")[0]["node"] == "gpu-17"
    result = tool_calls.call(served.url, TOOL, node_name="gpu-18")
    (only,) = result.content
    assert isinstance(only, TextContent)
    assert result.is_error
    assert only.text.startswith("this is node gpu-17, and it speaks of no other. leave node_name out")


def test_without_a_look_at_the_gpus_the_rest_is_told(served: Served) -> None:
    data, text = describe(served.url)
    assert (data["state"], data["gpus"], data["source"]["state"]) == ("unknown", [], "off")
    assert "COULD NOT LOOK at the GPUs: no test asked for GPUs." in text
    assert "Node gpu-17 is UNKNOWN." in text
    assert "NVIDIA driver 580.159.04, CUDA unknown." in text
    assert "No GPU is known." in text


def test_deafness_is_said_and_no_fault_is_not_taken_for_health(served: Served) -> None:
    served.health = (ProbeHealth("kmsg", hears=False, live=True, reason="no permission", hint="be root"),)
    data, text = describe(served.url)
    assert data["hears"] is False
    assert "NOTHING HEARS the kernel log: that no fault is known says nothing." in text
    assert "kmsg does not hear: no permission (be root)." in text
    assert "No fault of severity warning or worse in the last 24h is known, but nothing hears" in text
