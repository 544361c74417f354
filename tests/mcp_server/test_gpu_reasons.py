"""No fault of a GPU is missing from a summary, whatever else has happened, and the summary fits."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.catalog import lookup
from daemon.event import Event, Gpu, Item, Kind
from daemon.gpu.mock import Command, MockFleet, MockSource, parse
from daemon.gpu.verdict import Reason, Severity
from daemon.gpu.watch import GpuLook, GpuWatch
from daemon.ring import Ring
from daemon.stream import EventStream
from mcp_server.gpu_health_tool import GpuHealthTool
from mcp_server.gpu_looks import index_of
from mcp_server.gpu_summary import DATA_TOKENS
from mcp_server.node_tool import NodeTool
from mcp_server.quote import tokens
from mcp_server.services import Services
from mcp_server.tools import Answer
from mcp_server.wire_gpu import GetGpuHealth, HealthOut
from mcp_server.wire_node import DescribeGpuNode, NodeOut
from probes.health import ProbeHealth
from tests.mcp_server.samples import STATUS, xid

HEARS = ProbeHealth("kmsg", hears=True, live=True)
XIDS = (31, 48, 61, 62, 63, 64, 74, 79, 94, 95, 110, 119, 120, 140, 143)
UNREADABLE = ("temperature", "power", "utilization")


@dataclass(frozen=True)
class Trouble:
    """What happens to one GPU."""

    command: Command | None = None
    xids: Sequence[int] = ()
    remembered: bool = True
    """Whether the watch heard of the Xids, too, so that a GPU is left alone."""


WELL = Trouble()


def event(fleet: MockFleet, index: int, code: int) -> Event:
    """An Xid as the catalogue tells of it, with an id as long as real ones."""
    board = [*fleet.boards.values()][index]
    told = lookup(Kind.XID, code)
    assert told is not None
    return replace(
        xid(code),
        id=f"ev_{index:02d}{code:03d}c4f1a09b3e7d52",
        gpu=Gpu(pci=board.pci, uuid=board.uuid, index=index, name="NVIDIA H200"),
        severity=told.severity,
        blame=told.blame,
        summary=told.summary,
    )


class _Blind(MockSource):
    """Whose GPUs do not give some readings."""

    unread: Mapping[int, str] = {}

    async def health(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Any:
        sweep = await super().health(gpus, insist=insist)
        return replace(sweep, gpus=tuple(map(self._without, sweep.gpus)))

    def _without(self, reading: Any) -> Any:
        index = [*self.fleet.boards].index(reading.pci)
        if reading.health is None or index not in self.unread:
            return reading
        why = {"temperature.gpu_c": self.unread[index]}
        temperature = replace(reading.health.temperature, gpu_c=None)
        health = replace(reading.health, temperature=temperature, unread={**reading.health.unread, **why})
        return replace(reading, health=health)


async def answers(
    troubles: Sequence[Trouble], unread: Mapping[int, str] | None = None
) -> tuple[Answer, Answer, Sequence[GpuLook]]:
    """What both tools say of eight GPUs with these troubles, and the verdicts themselves."""
    fleet = MockFleet(parse("[[gpu]]\n" * len(troubles)))
    source = _Blind(fleet)
    source.unread = unread or {}
    events = [event(fleet, index, code) for index, each in enumerate(troubles) for code in each.xids]

    async def recent_events() -> Sequence[Event]:
        return events

    watch = GpuWatch(source, recent_events=recent_events, wall_us=lambda: time.time_ns() // 1000)
    await watch.inventory()
    remembered = {[*fleet.boards][index] for index, each in enumerate(troubles) if each.remembered}
    watch.heard([each for each in events if each.gpu is not None and each.gpu.pci in remembered])
    for index, each in enumerate(troubles):
        if each.command is not None:
            fleet.command(each.command, str(index))
    stream = EventStream(Ring(1024), first_cursor=1)
    stream.publish([Item.of(cursor, each, stored=True) for cursor, each in enumerate(events, 1)])
    services = Services("gpu-17", "0.1.0", "127.0.0.1", stream, lambda: STATUS, lambda: (HEARS,), watch=watch)
    health = await GpuHealthTool(services).tool().run(GetGpuHealth(), None)  # type: ignore[arg-type]
    node = await NodeTool(services).tool().run(DescribeGpuNode(), None)  # type: ignore[arg-type]
    assert isinstance(health, Answer)
    assert isinstance(node, Answer)
    HealthOut.model_validate(health.data)
    NodeOut.model_validate(node.data)
    return health, node, (await watch.health()).gpus


def asked(troubles: Sequence[Trouble], unread: Mapping[int, str] | None = None) -> Any:
    return asyncio.run(answers(troubles, unread))


def missing(data: Any, gpus: Sequence[GpuLook]) -> Iterator[tuple[int | str, str]]:
    """What is wrong with a GPU and not in this answer."""
    told: set[tuple[int | str, str, str]] = set()
    for reason in data["reasons"]:
        name = reason.get("fault", reason["code"])
        told |= {(gpu, reason["severity"], name) for gpu in reason.get("gpus", ())}
    for gpu in data["gpus"]:
        key = gpu["pci"] if gpu["index"] is None else gpu["index"]
        for part in filter(None, gpu.get("more_reasons", "").split("; ")):
            severity, _, names = part.partition(": ")
            told |= {(key, severity, name) for name in names.split(", ")}
    for gpu in gpus:
        index = index_of(gpu)
        key = gpu.pci if index is None else index
        assert gpu.verdict is not None
        for reason in filter(_counts, gpu.verdict.reasons):
            if (key, reason.severity.value, reason.name) not in told:
                yield key, reason.name


def _counts(reason: Reason) -> bool:
    return reason.severity is not Severity.NOTE


TROUBLES = st.builds(
    Trouble,
    st.one_of(st.none(), st.sampled_from([each for each in Command if each is not Command.COME_BACK])),
    st.lists(st.sampled_from(XIDS), max_size=7, unique=True),
    st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(TROUBLES, min_size=8, max_size=8))
def test_every_fault_of_every_gpu_is_in_a_summary_that_fits(troubles: list[Trouble]) -> None:
    health, node, gpus = asked(troubles)
    for answer in (health, node):
        assert [*missing(answer.data, gpus)] == []
        assert tokens(json.dumps(answer.data)) <= DATA_TOKENS
    assert tokens(health.text) <= 1_800


def test_faults_that_all_gpus_have_are_told_once_each_what_was_broken_before_what_follows() -> None:
    health, node, _ = asked([Trouble(xids=(94, 74, 48), remembered=False)] * 8)
    for answer in (health, node):
        told = [reason for reason in answer.data["reasons"] if reason.get("gpus") == [*range(8)]]
        assert {reason["fault"] for reason in told[:2]} == {"Xid 48", "Xid 94"}
        assert [(reason["fault"], reason["blame"]) for reason in told[2:]] == [("Xid 74", "fabric")]
        assert all(reason["severity"] == "degraded" and reason["events"] for reason in told)
        assert "more_reasons" not in json.dumps(answer.data)
        assert all(fault in answer.text for fault in ("Xid 48", "Xid 94", "Xid 74"))


def test_where_words_have_no_room_the_gravest_has_its_event_and_the_others_their_names() -> None:
    troubles = [Trouble(Command.DEGRADE, XIDS[index : index + 7], remembered=False) for index in range(8)]
    health, node, gpus = asked(troubles)
    for answer in (health, node):
        gravest, *_ = answer.data["reasons"]
        assert gravest["severity"] == "unhealthy"
        assert gravest["events"]
        assert any("degraded: " in gpu.get("more_reasons", "") for gpu in answer.data["gpus"])
        assert [*missing(answer.data, gpus)] == []


def test_a_value_that_differs_is_told_of_each_gpu() -> None:
    health, _, _ = asked([Trouble(xids=(48,), remembered=False), WELL, Trouble(Command.HANG)])
    hung = next(reason for reason in health.data["reasons"] if reason["code"] == "nvml_hung")
    assert isinstance(hung["value"], float)
    two, _, _ = asked([Trouble(Command.HANG), WELL, Trouble(Command.HANG)])
    (both,) = [reason for reason in two.data["reasons"] if reason["code"] == "nvml_hung"]
    assert both["gpus"] == [0, 2]
    assert ("values" in both) != ("value" in both)


def test_a_reading_that_is_null_has_its_reason_once_with_the_gpus() -> None:
    health, _, _ = asked([WELL] * 4, {1: "Unknown Error", 3: "Unknown Error"})
    assert [gpu["temperature"]["gpu_c"] is None for gpu in health.data["gpus"]] == [False, True, False, True]
    assert health.data["unread"] == {"temperature.gpu_c": "Unknown Error (GPU 1, 3)"}
    assert "unread" not in health.data["gpus"][1]


def test_a_gpu_without_an_answer_has_its_reason_in_both_tools() -> None:
    health, node, _ = asked([Trouble(xids=(48, 119)), WELL])
    for answer in (health, node):
        assert answer.data["gpus"][0]["no_answer"]["trouble"] == "not_asked"
        why = [reason for reason in answer.data["reasons"] if reason["code"] == "not_answered"]
        assert [reason["gpus"] for reason in why] == [[0]]
        assert "left alone since Xid 119" in why[0]["sentence"]
