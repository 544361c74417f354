"""`get_nvlink_topology`: where links lead, which are down, and no judgement."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from daemon.gpu.mock import Command
from daemon.gpu.mock.h200 import BROKEN_LINK, SWITCHES
from mcp_server.quote import tokens
from mcp_server.wire_nvlink import NvLinkOut
from tests.mcp_server.gpu_fleet import QUIET, Fleet, gpu_fleet
from tests.mcp_server.serving import Served
from tests.support import tool_calls

TOOL = "get_nvlink_topology"


@pytest.fixture(scope="module")
def eight() -> Iterator[Fleet]:
    """The default fleet, which no test changes."""
    with gpu_fleet() as fleet:
        yield fleet


def topology(fleet: Fleet, era: str = "legacy", **arguments: Any) -> tuple[dict[str, Any], str]:
    return tool_calls.answer(fleet.url, TOOL, NvLinkOut, era, **arguments)


@pytest.mark.parametrize("era", ["legacy", "2026-07-28"])
def test_gpus_that_are_connected_alike_are_told_once(eight: Fleet, era: str) -> None:
    data, text = topology(eight, era)
    first = data["gpus"][0]
    assert (first["links_total"], first["links_up"], first["links_down"]) == (18, 18, [])
    assert first["speed_mb_per_s"] == 18 * 26_562
    assert [switch["pci"] for switch in data["nvswitches"]] == list(SWITCHES)
    assert sum(switch["links"] for switch in data["nvswitches"]) == 8 * 18
    assert "- GPU 0, 1, 2, 3, 4, 6, 7, each: 18 of 18 links up; 478116 MB/s each way" in text
    assert f"; 5 to NVSwitch {SWITCHES[0]}, " in text


def test_a_link_that_is_down_is_named_with_its_errors_and_not_judged(eight: Fleet) -> None:
    data, text = topology(eight)
    gpu = data["gpus"][5]
    assert (gpu["links_up"], gpu["links_down"], gpu["crc_errors"]) == (17, [BROKEN_LINK], 311)
    assert "17 of 18 links up; DOWN: link 7" in text
    assert "replay errors 4096, recovery errors 9, crc errors 311" in text
    assert "get_gpu_health says whether one that is down is a fault" in text


def test_full_has_each_link(eight: Fleet) -> None:
    data, _ = topology(eight, gpu=5, detail="full")
    (gpu,) = data["gpus"]
    assert [link["link"] for link in gpu["links"]] == list(range(18))
    assert gpu["links"][BROKEN_LINK]["speed_mb_per_s"] is None
    assert gpu["unread"][f"links.{BROKEN_LINK}.speed_mb_per_s"] == "the link is down"
    assert {"type": "switch", "pci": SWITCHES[0], "links": 5} in gpu["peers"]


def test_the_default_answer_for_eight_gpus_fits_a_budget(eight: Fleet) -> None:
    data, text = topology(eight)
    assert data["mock"] is True
    assert text.startswith("MOCK: ")
    assert tokens(text) <= 500
    assert tokens(json.dumps(data)) <= 2_000


def test_links_that_were_not_read_are_unknown() -> None:
    with gpu_fleet(QUIET) as fleet:
        topology(fleet)
        fleet.mock.command(Command.FALL_OFF, "1")
        data, text = topology(fleet)
        assert (data["gpus"][1]["links_total"], data["gpus"][1]["links_down"]) == (None, None)
        assert "links unknown: LOST since " in text


def test_where_nobody_can_look_it_says_so(served: Served) -> None:
    data, text = tool_calls.answer(served.url, TOOL, NvLinkOut)
    assert data["gpus"] == []
    assert text.startswith("COULD NOT LOOK at the GPUs")


def test_where_no_link_could_be_read_the_switches_are_unknown_and_not_none() -> None:
    with gpu_fleet(QUIET) as fleet:
        topology(fleet)
        fleet.unload()
        data, _ = topology(fleet)
        assert data["nvswitches"] is None
