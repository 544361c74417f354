from __future__ import annotations

import pytest

from daemon.gpu.protocol import Done, Ready, Trouble
from tests.support.fake_nvml import Scenario, pci, uuid
from tests.support.raw_gpu_worker import raw_worker
from tests.support.waiting import wait_for


def test_the_worker_says_ready_before_it_touches_the_driver(fleet: Scenario) -> None:
    fleet.hangs("nvmlInitWithFlags")
    with raw_worker(fleet) as worker:
        assert worker.receive() == Ready()


def test_a_hanging_gpu_holds_up_only_itself_and_its_call_can_be_read(fleet: Scenario) -> None:
    fleet.hangs("nvmlDeviceGetTemperature", gpu=0)
    with raw_worker(fleet) as worker:
        assert worker.receive() == Ready()
        worker.send("temperature", pci(0))
        for gpu in range(1, 8):
            assert worker.done("temperature", pci(gpu)) == {"temperature_c": 36}
        call = wait_for(lambda: worker.notes.open_calls().get(pci(0)), "the hanging call")
        assert call.function == "nvmlDeviceGetTemperature"
        assert list(worker.notes.open_calls()) == [pci(0)]


def test_answers_come_as_they_are_ready_not_as_they_were_asked_for(fleet: Scenario) -> None:
    fleet.takes(300_000, "nvmlDeviceGetTemperature", gpu=0)
    with raw_worker(fleet) as worker:
        assert worker.receive() == Ready()
        ids = [worker.send("temperature", pci(gpu)) for gpu in (0, 1)]
        answers = [worker.receive() for _ in ids]
        assert [getattr(answer, "id", None) for answer in answers] == list(reversed(ids))


def test_one_gpu_answers_in_the_order_in_which_it_was_asked(fleet: Scenario) -> None:
    with raw_worker(fleet) as worker:
        assert worker.receive() == Ready()
        ids = [worker.send("temperature", pci(0)) for _ in range(50)]
        assert [getattr(worker.receive(), "id", None) for _ in ids] == ids


@pytest.mark.parametrize("stuck", [False, True])
def test_the_worker_ends_when_the_daemon_does_even_with_a_call_that_hangs(
    fleet: Scenario, stuck: bool
) -> None:
    with raw_worker(fleet) as worker:
        assert worker.receive() == Ready()
        if stuck:
            fleet.hangs("nvmlDeviceGetTemperature", gpu=0)
            worker.send("temperature", pci(0))
            wait_for(worker.notes.open_calls, "the hanging call")
        worker.connection.close()
        assert worker.process.wait(timeout=30) == 0


def test_a_bug_in_an_operation_is_its_answer_and_the_gpu_goes_on(fleet: Scenario) -> None:
    with raw_worker(fleet) as worker:
        assert worker.receive() == Ready()
        for operation, reason in [
            ("bug", "ZeroDivisionError: a bug"),
            ("unsendable", "cannot be sent"),
            ("unheard of", "KeyError"),
        ]:
            failure = worker.failed(operation, pci(0))
            assert failure.trouble is Trouble.FAILED
            assert reason in failure.reason
        assert worker.done("temperature", pci(0)) == {"temperature_c": 36}


def test_nonsense_on_the_socket_ends_the_worker(fleet: Scenario) -> None:
    with raw_worker(fleet) as worker:
        assert worker.receive() == Ready()
        worker.connection.sendall(b"\xff\xff\xff\xff")
        assert worker.process.wait(timeout=30) == 0


def test_the_installed_worker_serves_every_operation(fleet: Scenario) -> None:
    with raw_worker(fleet, program=("-m", "daemon.gpu.worker")) as worker:
        assert worker.receive() == Ready()
        assert worker.done("identity", pci(3))["uuid"] == uuid(3)
        for operation in ("health", "processes", "nvlink", "mig", "costly"):
            worker.send(operation, pci(3))
            message = worker.receive()
            assert isinstance(message, Done), message
            assert message.took_us >= 0
