"""What is asked about an event, in which order, and what it says when nothing is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daemon.event import Event, Gpu, Kind, Process, Severity
from daemon.fault import Facts
from daemon.gpu import inquiry
from daemon.gpu.inquiry import Inquiry
from daemon.gpu.mock import MockFleet, MockSource, parse
from daemon.gpu.process import ProcessFacts, ProcessReader
from daemon.gpu.source import SourceName, SourceState, Sweep
from daemon.gpu.watch import GpuWatch
from tests.support.events import TIME_US, XID_79
from tests.support.gpu_asking import until

SCENARIO = "[[gpu]]\n" * 3
HOUR_US = 3_600_000_000


class Held(MockSource):
    """Mock GPUs that answer when `gate` is open, and note who was asked what."""

    def __init__(self, fleet: MockFleet) -> None:
        super().__init__(fleet)
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked: list[tuple[str, str]] = []
        self.trouble: SourceName | None = None
        self.has_list = True

    def state(self) -> SourceState:
        state = super().state()
        return state if self.trouble is None else replace(state, name=self.trouble)

    async def listed(self) -> Sequence[str] | None:
        return await super().listed() if self.has_list else None

    async def health(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        self.asked += [("health", pci) for pci in gpus or ()]
        await self.gate.wait()
        return replace(await super().health(gpus, insist=insist), state=self.state())

    async def inventory(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        self.asked += [("inventory", pci) for pci in gpus or ()]
        if gpus is not None:
            await self.gate.wait()
        return await super().inventory(gpus, insist=insist)


class HeldProcesses(ProcessReader):
    """Processes that are found when `gate` is open."""

    def __init__(self) -> None:
        super().__init__(Path("/proc"), host_pids=True)
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked: list[int] = []

    async def look_up(self, pids: Iterable[int], *, deadline_s: float = 0.5) -> dict[int, ProcessFacts]:
        wanted = list(pids)
        self.asked += wanted
        await self.gate.wait()
        return {pid: ProcessFacts(pid, "python3", start_ticks=1, started_us=1) for pid in wanted}


class Scene:
    """An inquiry over three mock GPUs that are known, and what it found out."""

    def __init__(self) -> None:
        self.fleet = MockFleet(parse(SCENARIO), wall_us=lambda: TIME_US)
        self.source = Held(self.fleet)
        self.processes = HeldProcesses()
        self.released_us: int | None = None
        self.told: list[tuple[str, Facts]] = []
        self.watch = GpuWatch(self.source, recent_events=self._none, wall_us=lambda: TIME_US)
        self.inquiry = Inquiry(
            self.watch,
            self.processes,
            lambda event_id, facts: self.told.append((event_id, facts)),
            wall_us=lambda: TIME_US,
            released_us=lambda: self.released_us,
        )
        self.pcis = [*self.fleet.boards]

    async def _none(self) -> Sequence[Event]:
        return ()

    def telemetry(self, event_id: str) -> dict[str, Any] | None:
        found = [facts.telemetry for id, facts in self.told if id == event_id and facts.telemetry is not None]
        assert len(found) <= 1
        return dict(found[0]) if found else None

    def why_unread(self, event_id: str) -> str:
        taken = self.telemetry(event_id)
        assert taken is not None
        reason: str = taken["unavailable"]
        return reason

    async def settle(self) -> None:
        """Until nothing is under way."""
        self.source.gate.set()
        self.processes.gate.set()
        await until(lambda: not self.inquiry.busy, "the inquiries to end")
        await asyncio.sleep(0)


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    made = Scene()
    try:
        await made.watch.inventory()
        made.source.asked.clear()
        yield made
    finally:
        await made.inquiry.close()


def xid(id: str, pci: str, *, severity: Severity = Severity.CRITICAL, pid: int | None = None) -> Event:
    process = Process(pid, "python3") if pid is not None else None
    return replace(XID_79, id=id, code=48, gpu=Gpu(pci, index=0), severity=severity, process=process)


def test_a_critical_event_gets_the_readings_of_its_gpu() -> None:
    async def main() -> None:
        async with scene() as node:
            node.inquiry.heard([xid("ev", node.pcis[0])])
            await node.settle()
            taken = node.telemetry("ev")
            assert taken is not None
            assert taken["readings"]

    asyncio.run(main())


def test_a_burst_of_processes_on_one_gpu_costs_no_other_its_readings() -> None:
    async def main() -> None:
        async with scene() as node:
            node.source.gate.clear()
            node.processes.gate.clear()
            burst = [xid(f"a{n}", node.pcis[0], severity=Severity.WARNING, pid=n + 1) for n in range(1000)]
            node.inquiry.heard(burst)
            assert node.inquiry.left_out > 0
            node.inquiry.heard([xid("b", node.pcis[1], pid=5000)])
            await until(lambda: ("health", node.pcis[1]) in node.source.asked, "the GPU to be asked")
            assert 5000 in node.processes.asked
            await node.settle()
            taken = node.telemetry("b")
            assert taken is not None
            assert "readings" in taken

    asyncio.run(main())


def test_a_storm_of_critical_events_on_one_gpu_reads_it_once_and_each_says_so() -> None:
    async def main() -> None:
        async with scene() as node:
            node.inquiry.heard([xid(f"a{n}", node.pcis[0]) for n in range(50)])
            node.inquiry.heard([xid("b", node.pcis[1])])
            await node.settle()
            read = [n for n in range(50) if "readings" in (node.telemetry(f"a{n}") or {})]
            assert len(read) == 1
            assert "another event of this moment" in node.why_unread("a49")
            assert "readings" in (node.telemetry("b") or {})

    asyncio.run(main())


def test_the_gravest_event_of_a_batch_gets_the_readings() -> None:
    async def main() -> None:
        async with scene() as node:
            worst = xid("worst", node.pcis[0], severity=Severity.FATAL)
            node.inquiry.heard([xid("first", node.pcis[0]), worst])
            await node.settle()
            assert "readings" in (node.telemetry("worst") or {})
            assert "another event" in node.why_unread("first")

    asyncio.run(main())


def test_grave_events_have_places_that_the_others_cannot_take() -> None:
    async def main() -> None:
        async with scene() as node:
            node.processes.gate.clear()
            pci = node.pcis[0]
            node.inquiry.heard(xid(f"w{n}", pci, severity=Severity.WARNING, pid=n + 1) for n in range(99))
            node.inquiry.heard([xid("grave", pci, severity=Severity.FATAL, pid=4000)])
            await until(lambda: 4000 in node.processes.asked, "the process of the fatal event")
            assert len(node.processes.asked) <= inquiry.PROCESSES_OF_EACH
            await node.settle()

    asyncio.run(main())


@pytest.mark.parametrize("has_list", [True, False])
def test_a_storm_of_made_up_addresses_is_bounded_and_costs_no_real_gpu_its_readings(has_list: bool) -> None:
    async def main() -> None:
        async with scene() as node:
            node.source.has_list = has_list
            node.source.gate.clear()
            node.processes.gate.clear()
            most = 0
            for number in range(2000):
                pci = f"{number // 256:04x}:{number % 256:02x}:1f.0"
                node.inquiry.heard([xid(f"ev{number}", pci, pid=number + 1)])
                most = max(most, node.inquiry.busy)
            assert most <= 2 * inquiry.STRANGERS_AT_ONCE + inquiry.PROCESSES_AT_ONCE
            node.inquiry.heard([xid("real", node.pcis[2])])
            await node.settle()
            assert "readings" in (node.telemetry("real") or {})
            told = sum(node.telemetry(f"ev{number}") is not None for number in range(2000))
            assert told == 2000
            assert "too many are being read" in node.why_unread("ev1999")
            if has_list:
                assert "does not list this GPU" in node.why_unread("ev0")
                assert {pci for _, pci in node.source.asked} == {node.pcis[2]}

    asyncio.run(main())


def test_a_question_that_was_not_begun_is_asked_by_the_next_revision() -> None:
    async def main() -> None:
        async with scene() as node:
            node.processes.gate.clear()
            pci = node.pcis[0]
            node.inquiry.heard([xid(f"a{n}", pci, pid=n + 1) for n in range(4)])
            late = xid("late", pci, severity=Severity.WARNING, pid=4000)
            node.inquiry.heard([late])
            await node.settle()
            assert 4000 not in node.processes.asked
            node.inquiry.heard([replace(late, revision=2)])
            await node.settle()
            assert node.processes.asked.count(4000) == 1
            node.inquiry.heard([replace(late, revision=3)])
            await node.settle()
            assert node.processes.asked.count(4000) == 1

    asyncio.run(main())


def test_an_event_that_has_its_answer_is_not_asked_about_again() -> None:
    async def main() -> None:
        async with scene() as node:
            node.inquiry.heard([replace(xid("ev", node.pcis[0]), telemetry={"unavailable": "it was busy"})])
            await node.settle()
            assert node.source.asked == []

    asyncio.run(main())


def test_while_the_driver_is_released_events_do_not_take_it_up_and_say_so() -> None:
    async def main() -> None:
        async with scene() as node:
            node.released_us = TIME_US - HOUR_US
            unnamed = replace(xid("ev", node.pcis[0]), gpu=Gpu(node.pcis[0]))
            node.inquiry.heard([unnamed])
            await node.settle()
            assert node.source.asked == []
            assert "the driver was released at 2026-11-22T10:20:06" in node.why_unread("ev")
            assert "takes the driver up again" in node.why_unread("ev")
            node.released_us = None
            node.inquiry.heard([replace(unnamed, id="next")])
            await node.settle()
            assert {*node.source.asked} >= {("health", node.pcis[0]), ("inventory", node.pcis[0])}

    asyncio.run(main())


def test_a_driver_that_is_released_while_a_question_waits_is_not_taken_up() -> None:
    async def main() -> None:
        async with scene() as node:
            node.inquiry.heard([xid("ev", node.pcis[0])])
            node.released_us = TIME_US
            await node.settle()
            assert node.source.asked == []
            assert "released" in node.why_unread("ev")

    asyncio.run(main())


@pytest.mark.parametrize("trouble", [SourceName.OFF, SourceName.NO_LIBRARY, SourceName.NO_DRIVER])
def test_where_there_is_nothing_to_read_no_event_says_that_it_was_not_read(trouble: SourceName) -> None:
    async def main() -> None:
        async with scene() as node:
            node.source.trouble = trouble
            node.inquiry.heard([xid(f"ev{n}", node.pcis[0]) for n in range(3)])
            await node.settle()
            assert [facts for _, facts in node.told if facts.telemetry is not None] == []

    asyncio.run(main())


def test_a_gpu_is_asked_for_its_name_again_when_the_set_of_gpus_has_changed() -> None:
    async def main() -> None:
        async with scene() as node:
            event = replace(xid("ev", node.pcis[0], severity=Severity.WARNING), gpu=Gpu(node.pcis[0]))
            for _ in range(2):
                node.inquiry.heard([event])
                await node.settle()
            assert node.source.asked == [("inventory", node.pcis[0])]
            node.watch.heard([replace(XID_79, gpu=Gpu(node.pcis[1]), time_us=TIME_US + 1)])
            node.inquiry.heard([replace(event, id="next")])
            await node.settle()
            assert len(node.source.asked) == 2

    asyncio.run(main())


def test_addresses_that_were_only_said_to_be_lost_take_no_place_of_a_gpu_that_was_seen() -> None:
    async def main() -> None:
        async with scene() as node:
            made_up = [f"{number:04x}:01:00.0" for number in range(64)]
            node.watch.heard(replace(XID_79, id=pci, gpu=Gpu(pci)) for pci in made_up)
            loaded = replace(XID_79, kind=Kind.DRIVER_LOADED, code=None, gpu=None, time_us=TIME_US + 1)
            node.watch.heard([loaded])
            node.source.gate.clear()
            node.inquiry.heard(xid(pci, pci) for pci in made_up)
            assert node.inquiry.busy == inquiry.STRANGERS_AT_ONCE
            node.inquiry.heard([xid("real", node.pcis[0])])
            await node.settle()
            assert "readings" in (node.telemetry("real") or {})

    asyncio.run(main())
