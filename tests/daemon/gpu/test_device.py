from __future__ import annotations

from daemon.gpu.protocol import Done, Ready
from tests.support import fake_nvml
from tests.support.fake_nvml import Scenario, pci
from tests.support.raw_gpu_worker import raw_worker
from tests.support.waiting import wait_for


def test_a_call_that_fails_says_what_nvml_said(fleet: Scenario) -> None:
    fleet.fails(3, "nvmlDeviceGetFanSpeed")
    with raw_worker(fleet) as worker:
        assert worker.receive() == Ready()
        answer = worker.done("call", pci(0), function="nvmlDeviceGetFanSpeed")
        assert answer == {"value": None, "code": 3, "name": "NotSupported", "message": "Not Supported"}


def test_a_function_missing_in_library_or_binding_fails_alike(fleet: Scenario) -> None:
    with raw_worker(fleet) as worker:
        assert worker.receive() == Ready()
        for function in ("nvmlDeviceGetFanSpeedRPM", "nvmlDeviceGetWhatNobodyKnows"):
            assert worker.done("call", pci(0), function=function)["name"] == "FunctionNotFound"


def test_a_fact_is_read_once_until_the_gpu_is_gone(fleet: Scenario) -> None:
    def reads() -> int:
        return len([1 for _, function, _ in fleet.calls() if function == "nvmlDeviceGetName"])

    with raw_worker(fleet) as worker:
        assert worker.receive() == Ready()
        for _ in range(3):
            assert worker.done("once", pci(0)) == {"name": "NVIDIA H200"}
        assert reads() == 1
        fleet.fails(fake_nvml.GPU_IS_LOST, gpu=0)
        worker.failed("temperature", pci(0))
        fleet.behaves(gpu=0)
        worker.done("once", pci(0))
        assert reads() == 2


def test_a_call_that_takes_no_gpu_is_noted_under_the_gpu_it_is_made_for(fleet: Scenario) -> None:
    fleet.hangs("nvmlSystemGetDriverVersion")
    with raw_worker(fleet) as worker:
        assert worker.receive() == Ready()
        worker.done("temperature", pci(1))
        worker.send("driver", pci(1))
        worker.done("temperature", pci(0))
        call = wait_for(lambda: worker.notes.open_calls().get(pci(1)), "the call to be noted")
        assert call.function == "nvmlSystemGetDriverVersion"


def test_gpus_never_get_each_others_values(fleet: Scenario) -> None:
    """nvidia-ml-py returns nvmlDeviceGetModuleId through one object that all threads share."""
    for gpu in range(8):
        fleet.takes(gpu % 3 * 100, "nvmlDeviceGetModuleId", gpu=gpu)
    with raw_worker(fleet) as worker:
        assert worker.receive() == Ready()
        for _ in range(40):
            expected = {worker.send("module", pci(gpu)): gpu for gpu in range(8)}
            for _ in expected.copy():
                message = worker.receive()
                assert isinstance(message, Done)
                assert message.data == {"module": expected.pop(message.id)}
