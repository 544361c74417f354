"""Letting go of the driver, with real workers over the fake library."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from daemon.gpu.client import GpuWorker
from daemon.gpu.driver_hold import DriverHold
from daemon.gpu.nvml_events import NvmlEvents, Tempo
from daemon.gpu.nvml_source import NvmlSource
from tests.support.fake_nvml import Scenario, pci
from tests.support.frozen import frozen_file_system
from tests.support.gpu_asking import until

QUICK = Tempo(wait_s=0.2, pause_s=0.05, closing_s=0.5)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def holders(scenario: Scenario) -> Sequence[int]:
    """Every process that has initialised the library and runs."""
    return [pid for pid in {pid for pid, _, _ in scenario.calls()} if is_running(pid)]


class Both:
    """A reader and a witness of events over the fake library."""

    def __init__(self, scenario: Scenario, proc: Path) -> None:
        environment = {**os.environ, **scenario.environment()}
        self.worker = GpuWorker(environment=environment)
        self.source = NvmlSource(self.worker, proc=proc, deadline_s=20)
        self.events = NvmlEvents(lambda event: None, environment=environment, tempo=QUICK)
        self.hold = DriverHold(self.source, self.events)

    async def take_up(self) -> None:
        self.events.start()
        await self.source.inventory()
        await until(lambda: self.events.health().hears, "the witness to hear")

    async def close(self) -> None:
        await self.events.close()
        await self.source.close()


def test_everything_that_held_the_driver_has_ended_when_it_says_so(fleet: Scenario, tmp_path: Path) -> None:
    async def scene() -> None:
        both = Both(fleet, tmp_path)
        await both.take_up()
        held = set(holders(fleet))
        assert len(held) == 2
        answer = await both.hold.let_go()
        assert holders(fleet) == []
        reader, events = answer["reader"], answer["events"]
        assert isinstance(reader, dict)
        assert isinstance(events, dict)
        assert {*reader["ended"], *events["ended"]} == held
        assert reader["stuck"] == events["stuck"] == []
        assert events["until"].startswith("20")
        await both.close()

    asyncio.run(scene())


def test_a_question_takes_it_up_again_and_the_witness_waits_for_its_time(
    fleet: Scenario, tmp_path: Path
) -> None:
    async def scene() -> None:
        both = Both(fleet, tmp_path)
        await both.take_up()
        await both.hold.let_go()
        sweep = await both.source.inventory()
        assert len(sweep.gpus) == 8
        assert not both.events.health().hears
        both.hold.forgive(pci(0))
        await until(lambda: both.events.health().hears, "the witness to hear")
        await both.close()

    asyncio.run(scene())


def test_a_question_that_is_being_answered_is_answered(fleet: Scenario, tmp_path: Path) -> None:
    fleet.takes(500_000, "nvmlDeviceGetName", gpu=0)

    async def scene() -> None:
        both = Both(fleet, tmp_path)
        question = asyncio.create_task(both.source.inventory())
        await until(lambda: ("nvmlDeviceGetName", "0") in called(fleet), "the question")
        answer = await both.source.let_go()
        sweep = await question
        assert [reading.answered for reading in sweep.gpus] == [True] * 8
        assert len(answer.ended) == 1
        assert holders(fleet) == []
        await both.close()

    asyncio.run(scene())


def test_a_process_that_is_stuck_is_named_and_does_not_hold_up_the_answer(
    fleet: Scenario, tmp_path: Path
) -> None:
    async def scene() -> None:
        with frozen_file_system(tmp_path) as frozen:
            fleet.writes(frozen.path / "never", "nvmlDeviceRegisterEvents", gpu=3)
            both = Both(fleet, tmp_path)
            both.events.start()
            await until(lambda: ("nvmlDeviceRegisterEvents", "3") in called(fleet), "the call that hangs")
            answer = await both.hold.let_go()
            events = answer["events"]
            assert isinstance(events, dict)
            assert events["ended"] == []
            assert events["stuck"] == list(holders(fleet))
            frozen.thaw()
            await until(lambda: not holders(fleet), "the process to wake and end")
            await both.close()

    asyncio.run(scene())


def called(scenario: Scenario) -> set[tuple[str, str]]:
    return {(function, gpu) for _, function, gpu in scenario.calls()}


class PinnedModule:
    """Stands in for the probe of the driver's tracepoint."""

    def __init__(self) -> None:
        self.attached = True

    def let_go(self) -> None:
        self.attached = False

    def take_up(self) -> None:
        self.attached = True


def test_the_tracepoint_is_let_go_of_and_comes_back_with_the_driver() -> None:
    async def scene() -> None:
        module = PinnedModule()
        hold = DriverHold(tracepoint=module)
        answer = await hold.let_go()
        assert answer == {"reader": None, "events": None, "tracepoint": {"was_attached": True}}
        assert not module.attached
        assert (await hold.let_go())["tracepoint"] == {"was_attached": False}
        hold.take_up()
        assert module.attached

    asyncio.run(scene())
