"""The GPU side of a daemon: what it keeps over a reboot, and a driver that was let go of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daemon.config import Config
from daemon.event import Event
from daemon.filter import EVERYTHING, EventFilter
from daemon.gpu.nvml_source import NvmlSource
from daemon.gpu.source import SourceName
from daemon.intake import Intake
from daemon.page import Page
from daemon.pipeline import Pipeline
from daemon.store import Store
from mcp_server.gpu_looks import index_of
from probes.kernel import SystemClock
from probes.line import Batch, KernelLine
from tests.support import fake_nvml
from tests.support.fake_nvml import Scenario, pci
from tests.support.gpu_asking import until
from tests.support.records import BOOT, record
from xidwatch.gpu_side import GpuSide

CLOCK = SystemClock()
LOADED = "NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_nvml.build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def fleet(tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> Scenario:
    """Eight fake GPUs, which workers started by this process find."""
    scenario = Scenario(tmp_path, library)
    for name, value in scenario.environment().items():
        monkeypatch.setenv(name, value)
    return scenario


class Side:
    """A GPU side over a journal, and a kernel log that tests write."""

    def __init__(self, state_dir: Path, boot_id: str) -> None:
        self.pipeline = pipeline = Pipeline(node="n")
        self.store = Store.open(state_dir, reserve_key=pipeline.reserve_key)
        self.intake = Intake(pipeline, self.store, boot_id=BOOT, clock=CLOCK, proc=Path("/nonexistent"))
        self.gpus = GpuSide(
            Config(),
            pipeline=pipeline,
            intake=self.intake,
            store=self.store,
            clock=CLOCK,
            boot_id=boot_id,
        )
        self._seq = 0

    def hear(self, text: str) -> None:
        self._seq += 1
        self.intake.take(Batch("kmsg", BOOT, (self._record(text),), self._seq))

    def _record(self, text: str) -> KernelLine:
        return replace(record(text, CLOCK.monotonic_us(), seq=self._seq), wall_us=CLOCK.wall_us())

    async def events(self, code: int) -> list[Event]:
        page = await self.store.stream.page(0, 1000, EVERYTHING)
        newest = {item.event.id: item.event for item in page.items if item.event.code == code}
        return [*newest.values()]

    async def telemetry(self, code: int, number: int = 0) -> dict[str, Any]:
        """That of the event of this code, when it is there."""
        for _ in range(2000):
            events = await self.events(code)
            if len(events) > number and (taken := events[number].telemetry) is not None:
                return dict(taken)
            await asyncio.sleep(0.01)
        raise AssertionError(f"waited in vain for the telemetry of Xid {code}")


@asynccontextmanager
async def side(state_dir: Path, boot_id: str = BOOT) -> AsyncIterator[Side]:
    made = Side(state_dir, boot_id)
    made.gpus.start()
    made.intake.start()
    try:
        yield made
    finally:
        made.intake.close()
        await made.gpus.close()
        await made.store.close()


def xid(code: int, rest: str, gpu: int = 3) -> str:
    return f"NVRM: Xid (PCI:{pci(gpu)[:-2]}): {code}, {rest}"


DBE = "pid=446, name=train, DBE (double bit error)"


def source_of(node: Side) -> NvmlSource:
    source = node.gpus.source
    assert isinstance(source, NvmlSource)
    return source


def test_an_event_does_not_take_up_a_driver_that_was_released_and_a_question_does(
    tmp_path: Path, fleet: Scenario
) -> None:
    async def main() -> None:
        async with side(tmp_path / "state") as node:
            await node.gpus.watch.inventory()
            await node.gpus.hold.let_go()
            asked = len(fleet.calls())
            node.hear(xid(48, DBE))
            unread = (await node.telemetry(48))["unavailable"]
            assert "the driver was released at 20" in unread
            assert "takes the driver up again" in unread
            assert len(fleet.calls()) == asked
            await node.gpus.watch.health(["3"])
            node.hear(xid(95, "pid=446, name=train, Uncontained: FBHUB. RST: Yes, D-RST: No"))
            assert "readings" in await node.telemetry(95)

    asyncio.run(main())


def test_a_driver_that_is_loaded_after_it_was_released_is_read_again(tmp_path: Path, fleet: Scenario) -> None:
    async def main() -> None:
        async with side(tmp_path / "state") as node:
            node.hear(LOADED)
            await node.gpus.hold.let_go()
            assert source_of(node).released_us is not None
            fleet.reloads(2)
            node.hear(LOADED)
            await until(lambda: source_of(node).released_us is None, "the driver to be taken up")
            node.hear(xid(48, DBE))
            assert "readings" in await node.telemetry(48)

    asyncio.run(main())


def test_sickness_is_over_after_a_reboot_of_which_the_log_no_longer_tells(
    tmp_path: Path, fleet: Scenario
) -> None:
    async def main() -> None:
        async with side(tmp_path / "state") as node:
            await node.gpus.watch.inventory()
            node.hear(
                xid(119, "pid=446, name=train, Timeout after 6s of waiting for RPC response from GPU3 GSP!")
            )
            await until(lambda: node.gpus.watch.sick.get(pci(3)), "the GPU to be left alone")
        async with side(tmp_path / "state") as restarted:
            look = await restarted.gpus.watch.health()
            assert [gpu.reading.trouble for gpu in look.gpus][3] == "not_asked"
        async with side(tmp_path / "state", boot_id="another") as rebooted:
            look = await rebooted.gpus.watch.health()
            assert all(gpu.reading.answered for gpu in look.gpus)

    asyncio.run(main())


def test_a_gpu_that_hangs_at_its_first_call_is_known_from_the_journal(
    tmp_path: Path, fleet: Scenario
) -> None:
    async def main() -> None:
        async with side(tmp_path / "state") as node:
            await node.gpus.watch.inventory()
        fleet.hangs(gpu=3)
        async with side(tmp_path / "state", boot_id="another") as rebooted:
            look = await rebooted.gpus.watch.inventory()
            assert [gpu.pci for gpu in look.gpus] == [pci(gpu) for gpu in range(8)]
            assert [hung.gpu for hung in look.state.hung] == [pci(3)]
            assert [hung["pci"] for hung in rebooted.gpus.status()["hung"]] == [pci(3)]
        async with side(tmp_path / "empty") as stranger:
            look = await stranger.gpus.watch.inventory()
            assert [gpu.pci for gpu in look.gpus if not gpu.reading.answered] == ["at NVML index 3"]
            assert [hung["pci"] for hung in stranger.gpus.status()["hung"]] == ["at NVML index 3"]

    asyncio.run(main())


def test_a_driver_that_was_loaded_anew_is_asked_for_the_gpu_that_hung(
    tmp_path: Path, fleet: Scenario
) -> None:
    async def main() -> None:
        async with side(tmp_path / "state") as node:
            await node.gpus.watch.inventory()
            fleet.hangs("nvmlDeviceGetTemperatureV", gpu=3)
            hung = (await node.gpus.watch.health()).gpus[3]
            assert hung.reading.trouble == "hung"
            assert index_of(hung) == 3
            fleet.behaves("nvmlDeviceGetTemperatureV", gpu=3)
            fleet.reloads(2)
            node.hear(LOADED)
            await until(lambda: not source_of(node).state().hung, "the hang to be forgiven")
            look = await node.gpus.watch.health()
            assert all(gpu.reading.answered for gpu in look.gpus)
            assert [index_of(gpu) for gpu in look.gpus] == [*range(8)]

    asyncio.run(main())


def test_a_hung_gpu_that_is_named_is_asked_anew_and_the_others_are_not_held_up(
    tmp_path: Path, fleet: Scenario
) -> None:
    async def main() -> None:
        async with side(tmp_path / "state") as node:
            await node.gpus.watch.inventory()
            fleet.hangs("nvmlDeviceGetTemperatureV", gpu=3)
            await node.gpus.watch.health()
            named = asyncio.create_task(node.gpus.watch.health(["3"]))
            await until(lambda: fleet.calls()[-1][1:] == ("nvmlDeviceGetTemperatureV", "3"), "it to hang")
            others = await node.gpus.watch.health()
            assert not named.done()
            assert [gpu.reading.answered for gpu in others.gpus].count(True) == 7
            assert (await named).gpus[0].reading.trouble == "hung"
            fleet.behaves("nvmlDeviceGetTemperatureV", gpu=3)
            assert (await node.gpus.watch.health(["3"])).gpus[0].reading.answered
            assert not source_of(node).state().hung

    asyncio.run(main())


def test_a_gpu_that_is_known_by_its_index_alone_is_asked_by_it(tmp_path: Path, fleet: Scenario) -> None:
    fleet.hangs(gpu=3)

    async def main() -> None:
        async with side(tmp_path / "state") as node:
            for _ in range(2):
                (hung,) = (await node.gpus.watch.health(["3"])).gpus
                assert (hung.pci, hung.reading.trouble) == ("at NVML index 3", "hung")
            fleet.behaves(gpu=3)
            node.hear(LOADED)
            await until(lambda: not source_of(node).state().hung, "the hang to be forgiven")
            (found,) = (await node.gpus.watch.health(["3"])).gpus
            assert (found.pci, found.reading.answered) == (pci(3), True)

    asyncio.run(main())


def test_a_driver_that_was_loaded_is_believed_at_once(tmp_path: Path, fleet: Scenario) -> None:
    async def main() -> None:
        async with side(tmp_path / "state") as node:
            fleet.fails(fake_nvml.DRIVER_NOT_LOADED)
            assert (await node.gpus.watch.health()).state.name is SourceName.NO_DRIVER
            fleet.behaves()
            node.hear(LOADED)
            await until(lambda: source_of(node).state().name is SourceName.UNASKED, "the trouble to be over")
            assert len((await node.gpus.watch.health()).gpus) == 8

    asyncio.run(main())


def test_the_version_of_the_driver_is_learnt_from_nvml_where_nothing_else_tells_it(
    tmp_path: Path, fleet: Scenario
) -> None:
    async def main() -> None:
        async with side(tmp_path / "state") as node:
            assert node.pipeline.driver_version is None
            await node.gpus.watch.inventory()
            assert node.pipeline.driver_version == "580.159.04"
            node.hear(LOADED.replace("580.159.04", "590.10"))
            assert node.pipeline.driver_version == "590.10"
            await node.gpus.watch.inventory()
            assert node.pipeline.driver_version == "590.10"  # the log's word is the newer one

    asyncio.run(main())


def test_events_are_asked_for_by_the_index_that_a_gpu_has_now(tmp_path: Path, fleet: Scenario) -> None:
    def asked(node: Side, index: int) -> Awaitable[Page]:
        return node.store.stream.page(0, 1000, EventFilter.parse(gpu=[str(index)]))

    async def gpus(node: Side, index: int) -> set[str]:
        return {item.event.device or "" for item in (await asked(node, index)).items}

    async def main() -> None:
        async with side(tmp_path / "state") as node:
            await node.gpus.watch.inventory()
            for gpu in (3, 4):
                node.hear(xid(31, "pid=446, name=train, MMU Fault: ENGINE GRAPHICS", gpu=gpu))
            async with asyncio.timeout(30):
                while len(await node.events(31)) < 2:
                    await node.store.stream.wait_beyond(node.store.stream.newest)
            assert await gpus(node, 3) == {pci(3)}
            fleet.present([0, 1, 2, 4, 5, 6, 7])
            await node.gpus.hold.let_go()
            await node.gpus.watch.inventory()
            assert await gpus(node, 3) == {pci(4)}
            assert await gpus(node, 4) == set()
            assert await gpus(node, 42) == set()
            lost = await node.store.stream.page(0, 1000, EventFilter.parse(gpu=[pci(3)]))
            assert [item.event.code for item in lost.items] == [31]

    asyncio.run(main())
