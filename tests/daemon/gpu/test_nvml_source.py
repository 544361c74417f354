from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from daemon.gpu.client import GpuWorker
from daemon.gpu.nvml_source import NvmlSource
from daemon.gpu.patience import Patience
from daemon.gpu.readings import Reading
from daemon.gpu.source import GpuSource, SourceName
from tests.support import fake_nvml
from tests.support.fake_nvml import Scenario, pci, uuid
from tests.support.gpu_asking import DEADLINE_S, SHORT_S


@asynccontextmanager
async def source_of(
    fleet: Scenario, proc: Path, *, deadline_s: float = DEADLINE_S, patience: Patience | None = None
) -> AsyncIterator[NvmlSource]:
    worker = GpuWorker(environment={**os.environ, **fleet.environment()}, patience=patience)
    source = NvmlSource(worker, proc=proc, deadline_s=deadline_s)
    try:
        yield source
    finally:
        await source.close()


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """/proc/driver/nvidia of eight GPUs."""
    root = tmp_path / "proc"
    for gpu in range(8):
        folder = root / "gpus" / pci(gpu)
        folder.mkdir(parents=True)
        (folder / "information").write_text(
            f"Model: \t\t NVIDIA H200\nGPU UUID: \t {uuid(gpu)}\nDevice Minor: \t {gpu}\n"
        )
    return root


def test_nothing_is_known_before_the_first_question(fleet: Scenario, proc: Path) -> None:
    async def scene() -> None:
        async with source_of(fleet, proc) as source:
            seam: GpuSource = source
            assert seam.state().name is SourceName.UNASKED
            assert seam.state().mock is False

    asyncio.run(scene())
    assert fleet.calls() == []


def test_every_question_brings_its_payload_of_every_gpu(fleet: Scenario, proc: Path) -> None:
    async def scene() -> None:
        async with source_of(fleet, proc) as source:
            for operation, question in [
                ("identity", source.inventory),
                ("health", source.health),
                ("processes", source.processes),
                ("nvlink", source.nvlink),
                ("costly", source.costly),
            ]:
                sweep = await question()
                assert sweep.state.name is SourceName.OK
                assert [reading.pci for reading in sweep.gpus] == [pci(gpu) for gpu in range(8)]
                for reading in sweep.gpus:
                    assert reading.answered, reading.reason
                    assert getattr(reading, operation) is not None
                    assert reading.took_ms is not None

    asyncio.run(scene())


def test_the_gpus_of_proc_are_asked_by_address_without_calling_others(fleet: Scenario, proc: Path) -> None:
    async def scene() -> None:
        async with source_of(fleet, proc) as source:
            (reading,) = (await source.inventory([pci(6)])).gpus
            assert reading.identity is not None
            assert reading.identity.uuid == uuid(6)

    asyncio.run(scene())
    assert {gpu for _, _, gpu in fleet.calls()} <= {"-", "6"}


def test_without_proc_the_driver_is_asked_which_gpus_there_are(fleet: Scenario, tmp_path: Path) -> None:
    fleet.present([0, 4])

    async def scene() -> None:
        async with source_of(fleet, tmp_path / "none") as source:
            assert [reading.pci for reading in (await source.inventory()).gpus] == [pci(0), pci(4)]

    asyncio.run(scene())


def test_a_hung_gpu_is_told_with_what_proc_says_of_it(fleet: Scenario, proc: Path) -> None:
    fleet.hangs("nvmlDeviceGetSerial", gpu=3)

    async def scene() -> None:
        async with source_of(fleet, proc, deadline_s=2 * SHORT_S) as source:
            sweep = await source.inventory()
            hung = _of(sweep.gpus, 3)
            assert (hung.answered, hung.trouble) == (False, "hung")
            assert hung.reason is not None
            assert "nvmlDeviceGetSerial has not returned" in hung.reason
            assert hung.identity is not None
            assert (hung.identity.uuid, hung.identity.name) == (uuid(3), "NVIDIA H200")
            assert sum(reading.answered for reading in sweep.gpus) == 7
            assert sweep.state.name is SourceName.OK
            assert [call.gpu for call in sweep.state.hung] == [pci(3)]
            assert sweep.state.abandoned == 1
            fleet.behaves("nvmlDeviceGetSerial", gpu=3)
            source.forgive(pci(3))
            assert all(reading.answered for reading in (await source.inventory()).gpus)

    asyncio.run(scene())


def test_a_gpu_lost_in_mid_run_is_lost_and_after_a_reload_it_is_back(fleet: Scenario, proc: Path) -> None:
    async def scene() -> None:
        async with source_of(fleet, proc) as source:
            assert all(reading.answered for reading in (await source.health()).gpus)
            fleet.fails(fake_nvml.GPU_IS_LOST, gpu=1)
            lost = _of((await source.health()).gpus, 1)
            assert (lost.answered, lost.lost, lost.health) == (False, True, None)
            fleet.behaves(gpu=1)
            fleet.reloads(1)
            assert all(reading.answered for reading in (await source.health()).gpus)

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("code", "name", "hint"),
    [
        (fake_nvml.VERSION_MISMATCH, SourceName.VERSION_MISMATCH, "reload the module"),
        (fake_nvml.DRIVER_NOT_LOADED, SourceName.NO_DRIVER, "modprobe nvidia"),
        (fake_nvml.NO_PERMISSION, SourceName.NO_PERMISSION, "/dev/nvidiactl"),
    ],
)
def test_a_library_in_trouble_is_a_state_with_a_hint_and_the_gpus_of_proc_are_still_told(
    fleet: Scenario, proc: Path, code: int, name: SourceName, hint: str
) -> None:
    fleet.fails(code, "nvmlInitWithFlags")

    async def scene() -> None:
        async with source_of(fleet, proc) as source:
            sweep = await source.inventory()
            assert sweep.state.name is name
            assert sweep.state.hint is not None
            assert hint in sweep.state.hint
            assert len(sweep.gpus) == 8
            assert all(not reading.answered and reading.trouble == name for reading in sweep.gpus)
            assert _of(sweep.gpus, 5).identity is not None

    asyncio.run(scene())


def test_a_driver_without_gpus_is_a_state_of_its_own(fleet: Scenario, tmp_path: Path) -> None:
    fleet.present([])

    async def scene() -> None:
        async with source_of(fleet, tmp_path / "none") as source:
            sweep = await source.inventory()
            assert (sweep.state.name, sweep.gpus) == (SourceName.NO_GPU, ())

    asyncio.run(scene())


def test_a_proc_that_hangs_delays_an_answer_a_little_and_stops_none(fleet: Scenario, tmp_path: Path) -> None:
    folder = tmp_path / "proc" / "gpus" / pci(0)
    folder.mkdir(parents=True)
    os.mkfifo(folder / "information")
    assert stat.S_ISFIFO((folder / "information").stat().st_mode)

    async def scene() -> None:
        async with source_of(fleet, tmp_path / "proc") as source:
            for _ in range(2):
                assert len([reading for reading in (await source.health()).gpus if reading.answered]) == 8

    asyncio.run(scene())
    with (folder / "information").open("w"):
        pass  # lets the reading thread go


def _of(readings: tuple[Reading, ...], gpu: int) -> Reading:
    return next(reading for reading in readings if reading.pci == pci(gpu))


def test_questions_asked_at_the_same_time_share_one_look_into_proc(fleet: Scenario, proc: Path) -> None:
    async def scene() -> None:
        async with source_of(fleet, proc) as source:
            for _ in range(20):
                listed = await asyncio.gather(*(source.listed() for _ in range(5)))
                assert listed == [[pci(gpu) for gpu in range(8)]] * 5

    asyncio.run(scene())


def test_each_worker_numbers_the_gpus_anew(fleet: Scenario, proc: Path) -> None:
    async def scene() -> None:
        async with source_of(fleet, proc) as source:
            before = source.state().numbering
            assert (await source.inventory()).state.numbering == before
            assert (await source.health()).state.numbering == before
            await source.let_go()
            assert source.state().numbering > before
            assert (await source.health()).state.numbering == source.state().numbering > before

    asyncio.run(scene())


def test_a_driver_that_was_let_go_of_is_released_until_the_next_question(fleet: Scenario, proc: Path) -> None:
    async def scene() -> None:
        async with source_of(fleet, proc) as source:
            await source.health()
            assert source.released_us is None
            await source.let_go()
            assert source.released_us is not None
            await source.listed()
            assert source.released_us is not None
            await source.health()
            assert source.released_us is None
            source.release()  # before a reset
            assert source.released_us is None

    asyncio.run(scene())
