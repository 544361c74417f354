"""The GPU side of a daemon: what it keeps over a reboot, and a driver that was let go of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daemon.config import Config
from daemon.event import Event
from daemon.filter import EVERYTHING
from daemon.gpu.nvml_source import NvmlSource
from daemon.intake import Intake
from daemon.pipeline import Pipeline
from daemon.store import Store
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
        pipeline = Pipeline(node="n")
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
