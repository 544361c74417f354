from __future__ import annotations

from pathlib import Path

import pytest

from daemon.gpu.protocol import Ready, Trouble
from tests.support import fake_nvml
from tests.support.fake_nvml import Scenario, pci
from tests.support.raw_gpu_worker import raw_worker


@pytest.mark.parametrize(
    ("code", "trouble"),
    [
        (fake_nvml.VERSION_MISMATCH, Trouble.VERSION_MISMATCH),
        (fake_nvml.DRIVER_NOT_LOADED, Trouble.NO_DRIVER),
        (fake_nvml.NO_PERMISSION, Trouble.NO_PERMISSION),
        (999, Trouble.FAILED),
    ],
)
def test_a_failed_initialisation_has_a_name(fleet: Scenario, code: int, trouble: Trouble) -> None:
    fleet.fails(code, "nvmlInitWithFlags")
    with raw_worker(fleet) as worker:
        assert worker.receive() == Ready()
        failure = worker.failed("temperature", pci(0))
        assert (failure.trouble, failure.call, failure.code) == (trouble, "nvmlInitWithFlags", code)
        assert failure.reason.startswith("nvmlInitWithFlags: ")
        assert worker.failed("count", None).trouble is trouble


def test_a_library_that_is_not_there_has_a_name(tmp_path: Path) -> None:
    broken = tmp_path / "libnvidia-ml.so.1"
    broken.write_bytes(b"not a library")
    with raw_worker(None, environment={"LD_LIBRARY_PATH": str(tmp_path)}) as worker:
        assert worker.receive() == Ready()
        failure = worker.failed("count", None)
        assert (failure.trouble, failure.call) == (Trouble.NO_LIBRARY, "nvmlInitWithFlags")


def test_initialising_calls_no_gpu(fleet: Scenario) -> None:
    with raw_worker(fleet) as worker:
        assert worker.receive() == Ready()
        assert worker.done("count", None) == {"count": 8}
    assert [(function, gpu) for _, function, gpu in fleet.calls()] == [
        ("nvmlInitWithFlags", "-"),
        ("nvmlDeviceGetCount_v2", "-"),
    ]


def test_no_gpu_at_all_is_a_count_of_zero(fleet: Scenario) -> None:
    fleet.present([])
    with raw_worker(fleet) as worker:
        assert worker.receive() == Ready()
        assert worker.done("count", None) == {"count": 0}


def test_a_gpu_is_found_by_its_index_and_by_its_address(fleet: Scenario) -> None:
    fleet.present([5, 6])
    with raw_worker(fleet) as worker:
        assert worker.receive() == Ready()
        assert worker.done("locate", "#1") == {"pci": pci(6)}
        assert worker.done("locate", pci(5)) == {"pci": pci(5)}


def test_an_address_without_a_gpu_is_not_found(fleet: Scenario) -> None:
    with raw_worker(fleet) as worker:
        assert worker.receive() == Ready()
        assert worker.failed("temperature", "0000:ff:00.0").trouble is Trouble.NOT_FOUND


def test_a_lost_gpu_is_lost_and_is_looked_for_again_at_every_question(fleet: Scenario) -> None:
    with raw_worker(fleet) as worker:
        assert worker.receive() == Ready()
        assert worker.done("temperature", pci(2)) == {"temperature_c": 36}
        fleet.fails(fake_nvml.GPU_IS_LOST, gpu=2)
        failure = worker.failed("temperature", pci(2))
        assert (failure.trouble, failure.call) == (Trouble.LOST, "nvmlDeviceGetTemperature")
        again = worker.failed("temperature", pci(2))
        assert (again.trouble, again.call) == (Trouble.LOST, "nvmlDeviceGetHandleByPciBusId")
        fleet.behaves(gpu=2)
        assert worker.done("temperature", pci(2)) == {"temperature_c": 36}
