"""Output schemas: short enough to be paid for by every client, and true of every answer."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

import jsonschema  # type: ignore[import-untyped]  # it comes without types
import pytest
from mcp import Client
from pydantic import BaseModel, Field

from daemon.gpu.mock import Command
from mcp_server.quote import tokens
from mcp_server.schemas import Brief, output_schema
from mcp_server.wire_gpu import HealthOut, InventoryOut
from mcp_server.wire_node import NodeOut
from mcp_server.wire_nvlink import NvLinkOut
from mcp_server.wire_processes import ProcessesOut
from tests.mcp_server.gpu_fleet import gpu_fleet
from tests.support import tool_calls

GPU_TOOLS: dict[str, type[BaseModel]] = {
    "get_gpu_health": HealthOut,
    "get_gpu_inventory": InventoryOut,
    "get_gpu_processes": ProcessesOut,
    "get_nvlink_topology": NvLinkOut,
    "describe_gpu_node": NodeOut,
}


class Inner(Brief):
    """Deep in it."""

    size_bytes: int
    why: Annotated[str | None, Field(description="Null: no reason.")] = None


class Outer(BaseModel):
    """An answer."""

    name: str | None
    one: Inner
    many: list[Inner] = Field(default=[], description="All of them.")
    either: Inner | None = None


def test_of_a_brief_object_the_keys_are_told_in_words() -> None:
    schema = output_schema(Outer)
    assert schema["required"] == ["name", "one"]
    assert schema["properties"]["name"] == {"type": ["string", "null"]}
    inner = schema["$defs"]["Inner"]
    assert inner == {
        "type": "object",
        "description": "Deep in it. Keys: size_bytes, why?|null (Null: no reason).",
    }
    assert "title" not in json.dumps(schema)


def test_what_a_list_is_and_what_its_entries_have_are_two_sentences() -> None:
    class Around(Brief):
        """Around it."""

        many: Annotated[list[Inner] | None, Field(description="null: not read.")]

    class Answer(BaseModel):
        around: Around

    told = output_schema(Answer)["properties"]["around"]["description"]
    assert told == (
        "Around it. Keys: many[]|null (null: not read; keys: size_bytes, why?|null (Null: no reason))."
    )


@pytest.mark.parametrize("tool", ["get_gpu_health", "describe_gpu_node"])
def test_a_schema_says_where_the_reason_of_a_null_is(tool: str) -> None:
    schema = json.dumps(output_schema(GPU_TOOLS[tool]))
    assert "reason? (missing: see reasons)" in schema
    assert "null: lost, or not known." in schema
    assert "missing: as before, at first hung" in schema


def test_what_is_used_once_stands_in_its_place() -> None:
    class Once(BaseModel):
        either: Annotated[Inner | None, Field(description="Or nothing.")] = None

    told = "Or nothing. Deep in it. Keys: size_bytes, why?|null (Null: no reason)."
    assert output_schema(Once) == {
        "type": "object",
        "properties": {"either": {"type": ["object", "null"], "description": told}},
    }


@pytest.mark.parametrize("value", [{}, {"name": 3, "one": {}}, {"name": None, "one": []}, {"name": None}])
def test_the_short_schema_refuses_what_is_no_answer(value: object) -> None:
    schema = output_schema(Outer)
    jsonschema.validate({"name": None, "one": {}, "either": None}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(value, schema)


@pytest.mark.parametrize("tool", GPU_TOOLS)
def test_the_schema_of_a_gpu_tool_costs_less_than_1500_tokens(tool: str) -> None:
    schema = output_schema(GPU_TOOLS[tool])
    assert tokens(json.dumps(schema)) < 1_500
    jsonschema.Draft202012Validator.check_schema(schema)
    assert {"node", "source", "device_count", "gpus"} <= set(schema["required"])


def test_a_client_pays_a_bounded_price_for_all_tools() -> None:
    async def main(url: str) -> list[Any]:
        async with Client(f"{url}/mcp", mode="legacy") as client:
            return list((await client.list_tools()).tools)

    with gpu_fleet("[[gpu]]") as fleet:
        tools = asyncio.run(main(fleet.url))
    listed = [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in tools]
    assert len(listed) >= 11
    assert sum(tokens(json.dumps(tool)) for tool in listed) <= 27_000


@pytest.mark.parametrize("detail", ["summary", "full"])
@pytest.mark.parametrize("tool", GPU_TOOLS)
def test_answers_about_gpus_in_every_condition_are_of_the_schema(tool: str, detail: str) -> None:
    with gpu_fleet() as fleet:
        for index, command in enumerate(Command):
            fleet.mock.command(command, str(index))
        # The client checks each answer against the schema that it was given.
        data, _ = tool_calls.answer(fleet.url, tool, GPU_TOOLS[tool], detail=detail)
        assert data["device_count"] == len(data["gpus"])
        fleet.unload()
        tool_calls.answer(fleet.url, tool, GPU_TOOLS[tool], detail=detail)
