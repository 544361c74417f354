"""Prompts written against k8s-gpu-mcp-server find the tools and the fields that they know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.mcp_server.gpu_fleet import Fleet, gpu_fleet
from tests.support import tool_calls

DOCUMENT = Path(__file__).parents[2] / "docs" / "gpus.md"

KNOWN: Mapping[str, tuple[str, ...]] = {
    "get_gpu_inventory": (
        "device_count",
        "driver_version",
        "cuda_version",
        *(f"gpus.{name}" for name in ("index", "name", "uuid", "memory.total_bytes", "memory.used_bytes")),
        *(f"gpus.{name}" for name in ("temperature.gpu_c", "power.limit_w", "utilization.gpu_percent")),
    ),
    "get_gpu_health": (
        *("device_count", "healthy_count", "degraded_count", "state", "reasons"),
        *(f"gpus.{name}" for name in ("index", "name", "uuid", "pci", "state")),
        *(f"gpus.{name}" for name in ("temperature.gpu_c", "memory.used_bytes", "power.draw_w")),
    ),
    "describe_gpu_node": (
        *("node", "driver.version", "driver.cuda_version"),
        *(f"gpus.{name}" for name in ("index", "name", "uuid", "state")),
    ),
    "get_nvlink_topology": ("gpus.links_up", "gpus.crc_errors"),
}
"""Where the fields of the old answers, or what took their place, are."""


@pytest.fixture(scope="module")
def two() -> Iterator[Fleet]:
    with gpu_fleet('[[gpu]]\nstate = "busy"\n[[gpu]]') as fleet:
        yield fleet


@pytest.mark.parametrize("tool", KNOWN)
def test_the_fields_of_old_prompts_are_where_the_documentation_says(two: Fleet, tool: str) -> None:
    arguments = {"node_name": "gpu-17"} if tool == "describe_gpu_node" else {}
    result = tool_calls.call(two.url, tool, **arguments)
    assert not result.is_error, result.content
    for path in KNOWN[tool]:
        assert _at(result.structured_content, path) is not None, path


def test_readings_that_moved_to_full_are_there(two: Fleet) -> None:
    result: Any = tool_calls.call(two.url, "get_gpu_health", detail="full").structured_content
    for path in ("readings.clock_events", "readings.ecc", "readings.clocks"):
        assert _at(result, f"gpus.{path}") is not None
        assert f"`{path}`" in DOCUMENT.read_text()


def _at(data: Any, path: str) -> Any:
    """The value at a path; of a list its first."""
    for key in path.split("."):
        data = data[0] if isinstance(data, list) else data
        data = data[key]
    return data
