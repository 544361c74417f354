"""Which GPUs a process uses, by the driver's books and by its open files."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from daemon.operator.device_files import open_minors
from daemon.operator.holding import Holding, holdings
from probes.errors import UserError
from tests.support.operator_node import FakeGpus, pci, uuid, watch_of

PID = 4242


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc in which process 4242 has /dev/nvidia1 open, among other files."""
    files = tmp_path / f"{PID}/fd"
    files.mkdir(parents=True)
    for number, path in enumerate(("/dev/null", "/dev/nvidiactl", "/dev/nvidia1", "/dev/nvidia-uvm")):
        (files / str(number)).symlink_to(path)
    return tmp_path


def held(gpus: FakeGpus, *wanted: str, proc: Path) -> tuple[Holding, ...]:
    async def main() -> tuple[Holding, ...]:
        watch = watch_of(gpus)
        silent, gpus.silent = gpus.silent, {}
        await watch.inventory()  # while they still answered
        gpus.silent = silent
        return await holdings(watch, PID, wanted, proc)

    return asyncio.run(main())


def test_device_files_are_told_by_their_number(proc: Path) -> None:
    assert open_minors(PID, proc) == {1}


def test_a_real_process_without_a_gpu_has_none() -> None:
    assert open_minors(os.getpid()) == frozenset()


def test_a_gpu_that_does_not_answer_is_held_by_whoever_has_its_device_file_open(proc: Path) -> None:
    gpus = FakeGpus()
    gpus.silent = {pci(0): "it did not return", pci(1): "it did not return"}
    (found,) = held(gpus, proc=proc)
    assert (found.pci, found.uuid, found.types, found.others) == (pci(1), uuid(1), ("open",), None)
    assert "does not answer: by its open device file" in str(found)


def test_an_open_device_file_of_a_gpu_that_answers_is_no_use(proc: Path) -> None:
    gpus = FakeGpus()
    gpus.silent = {pci(0): "it did not return"}
    with pytest.raises(UserError, match="not all could be looked at"):
        held(gpus, proc=proc)


def test_a_process_on_two_gpus_is_told_with_both(proc: Path) -> None:
    gpus = FakeGpus()
    gpus.put(PID, gpu=0)
    gpus.put(PID, gpu=1)
    gpus.put(7, gpu=1)
    assert [(each.pci, each.others) for each in held(gpus, proc=proc)] == [(pci(0), 0), (pci(1), 1)]


def test_who_has_named_a_gpu_is_not_told_to_name_it() -> None:
    gpus = FakeGpus()
    gpus.silent = {pci(0): "it did not return"}
    for wanted, says_name in (((), True), (("0",), False)):
        with pytest.raises(UserError) as refused:
            held(gpus, *wanted, proc=Path("/nonexistent"))
        assert ("name a GPU to have it asked anyway" in (refused.value.hint or "")) is says_name
