"""The default answers about eight GPUs fit an assistant's budget whatever has happened to them.

A real event has a long id and a fault is never alone, so the worst cases have both.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from mcp_types import TextContent

from daemon.event import Event
from daemon.gpu.mock import Command, MockFleet, MockSource, parse
from daemon.gpu.process import ProcessFacts, ProcessReader
from daemon.gpu.readings import GpuProcess, Processes
from daemon.gpu.source import Sweep
from daemon.gpu.watch import GpuWatch
from mcp_server.gpu_processes_tool import GpuProcessesTool
from mcp_server.gpu_summary import DATA_TOKENS
from mcp_server.quote import tokens
from mcp_server.tools import Answer
from mcp_server.wire_processes import GetGpuProcesses, ProcessesOut
from tests.mcp_server.gpu_fleet import Fleet, gpu_fleet
from tests.support import tool_calls

TOOLS = (
    "get_gpu_health",
    "get_gpu_inventory",
    "get_gpu_processes",
    "get_nvlink_topology",
    "describe_gpu_node",
)
SEVEN_INSTANCES = f"mig = {json.dumps(['1g.18gb'] * 7)}"


def eight(state: str, more: str = "") -> str:
    return f'[[gpu]]\nstate = "{state}"\n{more}\n' * 8


def heard(fleet: Fleet, *codes: int) -> None:
    """Each GPU has these Xids, in this order, with ids as long as real ones."""
    for index in range(8):
        for code in codes:
            digest = hashlib.blake2b(f"{index} {code}".encode(), digest_size=10).hexdigest()
            fleet.heard(index, code, event_id=f"ev_{digest}")


def to_all(fleet: Fleet, command: Command) -> None:
    tool_calls.call(fleet.url, "get_gpu_inventory")
    for index in range(8):
        fleet.mock.command(command, str(index))


def lost_after_events(fleet: Fleet) -> None:
    heard(fleet, 13, 31, 79)
    to_all(fleet, Command.FALL_OFF)


def hung_after_events(fleet: Fleet) -> None:
    to_all(fleet, Command.HANG)
    heard(fleet, 31, 119)


def unloaded(fleet: Fleet) -> None:
    to_all(fleet, Command.THROTTLE)
    fleet.unload()


CASES: Mapping[str, tuple[str, Callable[[Fleet], None]]] = {
    "the default fleet": ("", lambda fleet: None),
    "all busy": (eight("busy"), lambda fleet: None),
    "all lost, without a word": ("", lambda fleet: to_all(fleet, Command.FALL_OFF)),
    "all lost, with events": ("", lost_after_events),
    "all gone from the list": ("", lambda fleet: to_all(fleet, Command.VANISH)),
    "all hung": (eight("hung"), lambda fleet: None),
    "all hung, with events": ("", hung_after_events),
    "all left alone": ("", lambda fleet: heard(fleet, 119)),
    "all throttling": (eight("throttling"), lambda fleet: None),
    "all with several reasons": (eight("degrading"), lambda fleet: heard(fleet, 94, 48)),
    "all in seven instances": (eight("busy", SEVEN_INSTANCES), lambda fleet: None),
    "all in seven instances, with several reasons": (
        eight("degrading", SEVEN_INSTANCES),
        lambda fleet: heard(fleet, 94, 48),
    ),
    "nobody can look": ("", unloaded),
}


@pytest.mark.parametrize("case", CASES)
def test_the_default_answers_for_eight_gpus_fit_the_budget(case: str) -> None:
    scenario, happens = CASES[case]
    with gpu_fleet(scenario) as fleet:
        happens(fleet)
        costs = {tool: _costs(fleet, tool) for tool in TOOLS}
    assert {tool: cost for tool, cost in costs.items() if cost[0] > DATA_TOKENS or cost[1] > 1_600} == {}


def _costs(fleet: Fleet, tool: str) -> tuple[int, int]:
    """Tokens of the structured content and of the text."""
    result = tool_calls.call(fleet.url, tool)
    assert not result.is_error, result.content
    data: Any = result.structured_content
    assert len(data["gpus"]) == 8
    (only,) = result.content
    assert isinstance(only, TextContent)
    return tokens(json.dumps(data)), tokens(only.text)


def test_what_a_lost_gpu_is_told_by_is_told_once_and_nothing_of_it_is_missing() -> None:
    with gpu_fleet() as fleet:
        lost_after_events(fleet)
        data: Any = tool_calls.call(fleet.url, "get_gpu_health").structured_content
    (lost,) = [reason for reason in data["reasons"] if reason["code"] == "gpu_lost"]
    assert (lost["severity"], lost["reading"], lost["threshold"]) == ("unhealthy", "presence", "present")
    assert (lost["value"], lost["threshold_source"]) == ("lost", "driver")
    assert lost["gpus"] == [gpu["pci"] for gpu in data["gpus"]]
    assert data["gpus"][0]["lost"]["since"] in lost["sentence"]
    assert lost["events"]
    for gpu in data["gpus"]:
        assert (gpu["state"], gpu["lost"]["presence"]) == ("unhealthy", "lost")
        assert gpu["lost"]["since"]


def test_a_reason_that_differs_from_the_first_of_its_code_says_in_what() -> None:
    with gpu_fleet(eight("throttling")) as fleet:
        data: Any = tool_calls.call(fleet.url, "get_gpu_health", detail="full").structured_content
        keys = {frozenset(reason) for gpu in data["gpus"] for reason in gpu["reasons"]}
    assert len(keys) == 1, "full repeats everything"


def test_instances_that_have_no_room_are_counted_by_profile_and_told_of_one_gpu() -> None:
    with gpu_fleet(eight("busy", SEVEN_INSTANCES)) as fleet:
        data: Any = tool_calls.call(fleet.url, "get_gpu_inventory").structured_content
        for gpu in data["gpus"]:
            mig = gpu["mig"]
            assert mig["profiles"] == {"MIG 1g.18gb": 7}
            assert len(mig["instances"]) + mig.get("instances_left_out", 0) == 7
        one: Any = tool_calls.call(fleet.url, "get_gpu_inventory", gpu="3").structured_content
        assert len(one["gpus"][0]["mig"]["instances"]) == 7
        assert "instances_left_out" not in one["gpus"][0]["mig"]


class _EveryPidIsKnown(ProcessReader):
    """Says of every pid that it is a program in a container, of a user with a long name."""

    async def look_up(self, pids: Iterable[int], *, deadline_s: float = 1.0) -> dict[int, ProcessFacts]:
        container = hashlib.sha256(b"container").hexdigest()
        return {
            pid: ProcessFacts(
                pid,
                name="python3.11-trai",
                user="someone-with-a-long-name",
                start_ticks=pid,
                container_id=container,
                in_container=True,
            )
            for pid in pids
        }


class _Crowded(MockSource):
    """Eight GPUs, said to be real, each used by four processes."""

    async def processes(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        sweep = await super().processes(gpus)
        using = (
            replace(gpu, processes=Processes(processes=tuple(self._on(number))))
            for number, gpu in enumerate(sweep.gpus)
        )
        return Sweep(replace(sweep.state, mock=False, reason=None), tuple(using))

    def _on(self, number: int) -> Iterator[GpuProcess]:
        return (GpuProcess(3_900_000 + 10 * number + n, "compute", 34_359_738_368 + n) for n in range(4))


def test_real_processes_in_containers_fit_the_budget_too() -> None:
    async def no_events() -> Sequence[Event]:
        return ()

    async def ask() -> object:
        return await tool.run(GetGpuProcesses(), None)  # type: ignore[arg-type]  # no caller

    with gpu_fleet() as fleet:
        watch = GpuWatch(_Crowded(MockFleet(parse(""))), recent_events=no_events, wall_us=lambda: 1)
        services = replace(fleet.served.services, watch=watch, processes=_EveryPidIsKnown())
        tool = GpuProcessesTool(services).tool()
        told = asyncio.run(ask())
    assert isinstance(told, Answer)
    assert tokens(json.dumps(told.data)) <= DATA_TOKENS
    data: Any = ProcessesOut.model_validate(told.data).model_dump()
    for gpu in data["gpus"]:
        assert gpu["process_count"] == 4 == len(gpu["processes"]) + gpu["processes_left_out"]
        assert len(gpu["processes"][0]["container_id"]) == 64
