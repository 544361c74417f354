"""The worker's event set, over its socket."""

from __future__ import annotations

from daemon.gpu.protocol import Done, Failed, Ready
from tests.support.fake_nvml import GPU_IS_LOST, Scenario, pci
from tests.support.raw_gpu_worker import RawWorker, raw_worker
from tests.support.waiting import wait_for


def begun(worker: RawWorker, *, wait_ms: int = 50, gpus: list[str] | None = None) -> int:
    """The id of a request for events that the worker has begun to answer."""
    assert worker.receive() == Ready()
    id = worker.send("events", None, gpus=gpus, skip=[], wait_ms=wait_ms)
    first = worker.receive()
    assert isinstance(first, Done)
    assert first.id == id
    return id


def test_one_request_is_answered_again_and_again(fleet: Scenario) -> None:
    with raw_worker(fleet) as worker:
        id = begun(worker)
        for _ in range(3):
            assert worker.receive() == Done(id, {"quiet": True}, 0)


def test_questions_are_answered_meanwhile(fleet: Scenario) -> None:
    with raw_worker(fleet) as worker:
        begun(worker, wait_ms=600_000)
        assert worker.done("temperature", pci(3)) == {"temperature_c": 36}
        assert worker.done("count", None) == {"count": 8}


def test_the_wait_can_be_seen_among_the_open_calls(fleet: Scenario) -> None:
    with raw_worker(fleet) as worker:
        begun(worker, wait_ms=600_000)
        call = wait_for(lambda: worker.notes.open_calls().get("events"), "the wait")
        assert call.function == "nvmlEventSetWait_v2"


def test_gpus_that_cannot_be_listened_to_are_named_with_the_reason(fleet: Scenario) -> None:
    fleet.fails(GPU_IS_LOST, "nvmlDeviceRegisterEvents", gpu=1)
    with raw_worker(fleet) as worker:
        assert worker.receive() == Ready()
        worker.send("events", None, gpus=[pci(0), pci(1)], skip=[], wait_ms=50)
        first = worker.receive()
        assert isinstance(first, Done)
        assert first.data["listens_to"] == [pci(0)]
        refused = first.data["refused"]
        assert isinstance(refused, dict)
        assert "nvmlDeviceRegisterEvents" in refused[pci(1)]


def test_without_any_gpu_to_listen_to_it_fails_with_every_reason(fleet: Scenario) -> None:
    fleet.fails(GPU_IS_LOST, "nvmlDeviceRegisterEvents")
    with raw_worker(fleet) as worker:
        assert worker.receive() == Ready()
        answer = worker.failed("events", None, gpus=[pci(0), pci(1)], skip=[], wait_ms=50)
        assert answer.reason.startswith("no GPU can be listened to (")
        assert pci(0) in answer.reason
        assert pci(1) in answer.reason


def test_arguments_that_are_none_are_an_answer_and_not_the_end_of_the_worker(fleet: Scenario) -> None:
    with raw_worker(fleet) as worker:
        assert worker.receive() == Ready()
        wrong: tuple[dict[str, object], ...] = (
            {},
            {"gpus": None, "skip": []},
            {"gpus": "all", "skip": [], "wait_ms": 5},
            {"gpus": None, "skip": [], "wait_ms": 0},
        )
        for arguments in wrong:
            worker.send("events", None, **arguments)
            answer = worker.receive()
            assert isinstance(answer, Failed)
            assert "events failed: ValueError" in answer.reason
        assert worker.done("count", None) == {"count": 8}


def test_a_gpu_known_by_its_index_alone_can_be_left_out(fleet: Scenario) -> None:
    with raw_worker(fleet) as worker:
        assert worker.receive() == Ready()
        worker.send("events", None, gpus=None, skip=["#1"], wait_ms=50)
        first = worker.receive()
        assert isinstance(first, Done)
        assert first.data["listens_to"] == [pci(index) for index in range(8) if index != 1]
