from __future__ import annotations

import asyncio
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from daemon.gpu import client
from daemon.gpu.answers import Answers
from daemon.gpu.client import GpuWorker
from daemon.gpu.patience import Patience
from daemon.gpu.protocol import Trouble
from tests.support import fake_nvml
from tests.support.exec_gate import exec_gate
from tests.support.fake_nvml import Scenario, pci
from tests.support.frozen import frozen_file_system
from tests.support.gpu_asking import ALL, DEADLINE_S, SHORT_S, answered, asking, silence, until, value

IMPATIENT = Patience(alone_s=0, together_s=0, again_s=0, trouble_s=0)
"""Nothing is remembered: every question reaches the library again."""


def test_every_gpu_answers_for_itself(fleet: Scenario) -> None:
    for gpu in range(8):
        fleet.answers("nvmlDeviceGetTemperature", 40 + gpu, gpu=gpu)

    async def scene() -> Answers:
        async with asking(fleet) as worker:
            return await worker.ask("temperature", ALL, deadline_s=DEADLINE_S)

    answers = asyncio.run(scene())
    assert [value(answers, gpu, "temperature_c") for gpu in range(8)] == list(range(40, 48))


def test_no_gpu_is_called_that_nobody_asked_about(fleet: Scenario) -> None:
    async def scene() -> None:
        async with asking(fleet) as worker:
            await worker.ask("temperature", [pci(2), pci(5)], deadline_s=DEADLINE_S)

    asyncio.run(scene())
    assert {gpu for _, _, gpu in fleet.calls()} == {"-", "2", "5"}


def test_without_a_list_all_gpus_of_the_driver_are_asked(fleet: Scenario) -> None:
    fleet.present([1, 3, 6])

    async def scene() -> Answers:
        async with asking(fleet) as worker:
            return await worker.ask("temperature", None, deadline_s=DEADLINE_S)

    assert answered(asyncio.run(scene())) == [pci(1), pci(3), pci(6)]


def test_one_hanging_gpu_leaves_the_other_seven_answered_and_is_named_with_its_call(fleet: Scenario) -> None:
    fleet.hangs("nvmlDeviceGetTemperature", gpu=3)

    async def scene() -> tuple[Answers, GpuWorker]:
        async with asking(fleet) as worker:
            before = time.time()
            answers = await worker.ask("temperature", ALL, deadline_s=SHORT_S)
            hung = silence(answers, 3)
            assert hung.trouble is Trouble.HUNG
            assert hung.call == "nvmlDeviceGetTemperature"
            assert hung.since_us is not None
            assert before <= hung.since_us / 1e6 <= time.time()
            assert "nvmlDeviceGetTemperature has not returned since" in hung.reason
            (call,) = worker.status().hung
            assert (call.gpu, call.call, call.trouble) == (pci(3), hung.call, Trouble.HUNG)
            return answers, worker

    answers, worker = asyncio.run(scene())
    assert answered(answers) == [pci(gpu) for gpu in range(8) if gpu != 3]
    assert worker.status().abandoned == 1


def test_a_hung_gpu_is_left_alone_until_it_is_forgiven_or_insisted_on(fleet: Scenario) -> None:
    fleet.hangs("nvmlDeviceGetTemperature", gpu=3)

    async def scene() -> None:
        async with asking(fleet) as worker:
            first = await worker.ask("temperature", ALL, deadline_s=SHORT_S)
            fleet.behaves("nvmlDeviceGetTemperature", gpu=3)
            asked = len([1 for _, _, gpu in fleet.calls() if gpu == "3"])
            again = await worker.ask("temperature", ALL, deadline_s=DEADLINE_S)
            before, now = silence(first, 3), silence(again, 3)
            assert (now.trouble, now.call, now.since_us) == (before.trouble, before.call, before.since_us)
            assert len(answered(again)) == 7
            assert len([1 for _, _, gpu in fleet.calls() if gpu == "3"]) == asked
            insisted = await worker.ask("temperature", [pci(3)], deadline_s=DEADLINE_S, insist=True)
            assert value(insisted, 3, "temperature_c") == 36
            assert worker.status().hung == ()
            assert len(answered(await worker.ask("temperature", ALL, deadline_s=DEADLINE_S))) == 8

    asyncio.run(scene())


def test_a_driver_that_was_loaded_anew_is_asked_for_what_hung_before(fleet: Scenario) -> None:
    fleet.hangs("nvmlDeviceGetTemperature", gpu=3)

    async def scene() -> None:
        async with asking(fleet) as worker:
            hung = silence(await worker.ask("temperature", ALL, deadline_s=SHORT_S), 3)
            fleet.behaves("nvmlDeviceGetTemperature", gpu=3)
            assert hung.since_us is not None
            worker.driver_loaded(hung.since_us - 1)
            assert [call.gpu for call in worker.status().hung] == [pci(3)]  # it hung after that
            worker.driver_loaded(hung.since_us + 1)
            assert len(answered(await worker.ask("temperature", ALL, deadline_s=DEADLINE_S))) == 8

    asyncio.run(scene())


def test_a_driver_that_was_loaded_anew_is_out_of_trouble_at_once(fleet: Scenario) -> None:
    fleet.fails(fake_nvml.DRIVER_NOT_LOADED)

    async def scene() -> None:
        async with asking(fleet, Patience(trouble_s=600)) as worker:
            assert (await worker.ask("temperature", ALL, deadline_s=DEADLINE_S)).trouble is not None
            fleet.behaves()
            worker.driver_loaded(time.time_ns() // 1000)
            assert len(answered(await worker.ask("temperature", ALL, deadline_s=DEADLINE_S))) == 8

    asyncio.run(scene())


def test_nobody_may_insist_while_many_workers_are_stuck(
    fleet: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "STUCK_BY_INSISTING", 1)

    async def scene() -> None:
        with frozen_file_system(tmp_path) as frozen:
            fleet.writes(frozen.path / "never", "nvmlDeviceGetTemperature", gpu=3)
            async with asking(fleet) as worker:
                for _ in range(3):
                    asked = await worker.ask("temperature", ALL, deadline_s=SHORT_S, insist=True)
                    assert silence(asked, 3).trouble is Trouble.HUNG
                assert worker.status().stuck == 1
                frozen.thaw()
                await until(lambda: worker.status().stuck == 0, "the worker to wake and end")

    asyncio.run(scene())


def test_a_gpu_that_hangs_in_being_attached_is_named_by_its_index(fleet: Scenario) -> None:
    fleet.hangs(gpu=3)

    async def scene() -> Answers:
        async with asking(fleet) as worker:
            return await worker.ask("temperature", None, deadline_s=SHORT_S)

    answers = asyncio.run(scene())
    assert len(answered(answers)) == 7
    hung = answers.gpus["#3"]
    assert (getattr(hung, "trouble", None), getattr(hung, "call", None)) == (
        Trouble.HUNG,
        "nvmlDeviceGetHandleByIndex",
    )


def test_a_gpu_that_is_slow_in_many_calls_is_not_called_hung(fleet: Scenario) -> None:
    fleet.takes(50_000, "nvmlDeviceGetTemperature", gpu=3)

    async def scene() -> None:
        async with asking(fleet) as worker:
            await worker.ask("temperature", ALL, deadline_s=DEADLINE_S)
            pid = worker.status().pid
            answers = await worker.ask("many", ALL, deadline_s=SHORT_S, times=40)
            assert silence(answers, 3).trouble is Trouble.SLOW
            assert len(answered(answers)) == 7
            assert (
                value(await worker.ask("temperature", ALL, deadline_s=DEADLINE_S), 3, "temperature_c") == 36
            )
            assert (worker.status().pid, worker.status().abandoned) == (pid, 0)

    asyncio.run(scene())


@pytest.mark.slow
def test_ten_hangs_in_a_row_leave_nothing_behind_but_their_count(fleet: Scenario) -> None:
    fleet.hangs("nvmlDeviceGetTemperature", gpu=3)

    async def scene() -> None:
        async with asking(fleet, Patience(alone_s=0)) as worker:
            await worker.ask("temperature", [pci(0)], deadline_s=DEADLINE_S)
            descriptors, threads = _descriptors(), threading.active_count()
            for _ in range(10):
                answers = await worker.ask("temperature", ALL, deadline_s=SHORT_S)
                assert len(answered(answers)) == 7
                assert silence(answers, 3).trouble is Trouble.HUNG
            await worker.ask("temperature", [pci(0)], deadline_s=DEADLINE_S)
            await until(lambda: worker.status().stuck == 0, "the abandoned workers to be reaped")
            assert worker.status().abandoned == 10
            assert worker.status().starts == 11
            await until(lambda: threading.active_count() <= threads, "the starting threads to end")
            assert _descriptors() == descriptors
            assert _children() == {worker.status().pid}
        assert _children() == set()

    asyncio.run(scene())


def test_the_event_loop_goes_on_while_gpus_hang_and_workers_start(fleet: Scenario) -> None:
    fleet.hangs("nvmlDeviceGetTemperature", gpu=3)
    gaps: list[float] = []

    async def beat() -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.005)
            now = time.monotonic()
            gaps.append(now - last)
            last = now

    async def scene() -> None:
        async with asking(fleet, Patience(alone_s=0)) as worker:
            heart = asyncio.create_task(beat())
            for _ in range(3):
                await worker.ask("temperature", ALL, deadline_s=SHORT_S)
            heart.cancel()

    asyncio.run(scene())
    # The loop is never in a wait of the worker's: it turned all the time, not once a question.
    assert len(gaps) > 3 * SHORT_S / 0.005 / 10
    assert max(gaps) < SHORT_S


def test_a_crash_inside_the_library_is_pinned_on_its_gpu(fleet: Scenario) -> None:
    fleet.crashes("nvmlDeviceGetTemperature", gpu=5)

    async def scene() -> None:
        async with asking(fleet) as worker:
            answers = await worker.ask("temperature", ALL, deadline_s=DEADLINE_S)
            crash = silence(answers, 5)
            assert crash.trouble is Trouble.CRASHED
            assert crash.call == "nvmlDeviceGetTemperature"
            assert "SIGSEGV" in crash.reason
            assert len(answered(answers)) == 7
            assert [call.gpu for call in worker.status().hung] == [pci(5)]

    asyncio.run(scene())


def test_a_worker_killed_from_outside_is_replaced_and_nobody_notices(fleet: Scenario) -> None:
    async def scene() -> None:
        async with asking(fleet) as worker:
            await worker.ask("temperature", ALL, deadline_s=DEADLINE_S)
            first = worker.status().pid
            assert first is not None
            fleet.takes(300_000, "nvmlDeviceGetTemperature", gpu=0)
            question = asyncio.create_task(worker.ask("temperature", ALL, deadline_s=DEADLINE_S))
            await until(lambda: _temperature_calls(fleet, first, "0") == 2, "the slow call")
            os.kill(first, signal.SIGKILL)
            assert len(answered(await question)) == 8
            assert worker.status().pid not in (None, first)

    asyncio.run(scene())


def test_a_reloaded_driver_is_initialised_anew(fleet: Scenario) -> None:
    for stale in (fake_nvml.UNINITIALIZED, fake_nvml.DRIVER_NOT_LOADED, fake_nvml.GPU_IS_LOST):
        fleet.reloads(0)

        async def scene(stale: int = stale) -> None:
            async with asking(fleet) as worker:
                assert len(answered(await worker.ask("temperature", ALL, deadline_s=DEADLINE_S))) == 8
                fleet.reloads(1, stale=stale)
                assert len(answered(await worker.ask("temperature", ALL, deadline_s=DEADLINE_S))) == 8
                assert worker.status().starts == 2

        asyncio.run(scene())


def test_a_lost_gpu_costs_one_initialisation_and_is_found_again(fleet: Scenario) -> None:
    async def scene() -> None:
        async with asking(fleet) as worker:
            await worker.ask("temperature", ALL, deadline_s=DEADLINE_S)
            pid = worker.status().pid
            fleet.fails(fake_nvml.GPU_IS_LOST, gpu=4)
            for _ in range(5):
                answers = await worker.ask("temperature", ALL, deadline_s=DEADLINE_S)
                assert silence(answers, 4).trouble is Trouble.LOST
                assert len(answered(answers)) == 7
            assert worker.status().starts == 2
            await until(lambda: _children() == {pid}, "the worker that did not find it to end")
            assert worker.status().pid == pid
            fleet.behaves(gpu=4)
            assert len(answered(await worker.ask("temperature", ALL, deadline_s=DEADLINE_S))) == 8

    asyncio.run(scene())


def test_a_lost_gpu_that_spoils_a_fresh_initialisation_does_not_cost_the_others(fleet: Scenario) -> None:
    async def scene() -> None:
        async with asking(fleet) as worker:
            await worker.ask("temperature", ALL, deadline_s=DEADLINE_S)
            fleet.fails(fake_nvml.GPU_IS_LOST, gpu=4)
            fleet.fails(999, "nvmlInitWithFlags")
            for _ in range(2):
                answers = await worker.ask("temperature", ALL, deadline_s=DEADLINE_S)
                assert silence(answers, 4).trouble is Trouble.LOST
                assert len(answered(answers)) == 7

    asyncio.run(scene())


def test_a_driver_reloaded_after_a_gpu_was_lost_brings_that_gpu_back(fleet: Scenario) -> None:
    async def scene() -> None:
        async with asking(fleet) as worker:
            await worker.ask("temperature", ALL, deadline_s=DEADLINE_S)
            fleet.fails(fake_nvml.GPU_IS_LOST, gpu=4)
            await worker.ask("temperature", ALL, deadline_s=DEADLINE_S)
            fleet.behaves(gpu=4)
            fleet.reloads(1)
            assert len(answered(await worker.ask("temperature", ALL, deadline_s=DEADLINE_S))) == 8

    asyncio.run(scene())


def test_a_driver_that_is_unloaded_is_a_trouble_of_all_gpus_and_over_when_it_is_back(fleet: Scenario) -> None:
    async def scene() -> None:
        async with asking(fleet, IMPATIENT) as worker:
            await worker.ask("temperature", ALL, deadline_s=DEADLINE_S)
            fleet.fails(fake_nvml.DRIVER_NOT_LOADED)
            answers = await worker.ask("temperature", ALL, deadline_s=DEADLINE_S)
            assert answers.trouble is not None
            assert answers.trouble.trouble is Trouble.NO_DRIVER
            fleet.behaves()
            assert len(answered(await worker.ask("temperature", ALL, deadline_s=DEADLINE_S))) == 8

    asyncio.run(scene())


def test_a_trouble_of_the_library_is_remembered_for_a_while(fleet: Scenario) -> None:
    fleet.fails(fake_nvml.VERSION_MISMATCH, "nvmlInitWithFlags")

    async def scene() -> None:
        async with asking(fleet) as worker:
            for _ in range(3):
                answers = await worker.ask("temperature", ALL, deadline_s=DEADLINE_S)
                assert answers.trouble is not None
                assert answers.trouble.trouble is Trouble.VERSION_MISMATCH
            assert worker.status().starts == 1

    asyncio.run(scene())


def test_an_initialisation_that_hangs_is_reported_and_given_up_when_patience_ends(fleet: Scenario) -> None:
    fleet.hangs("nvmlInitWithFlags")

    async def scene() -> None:
        async with asking(fleet, Patience(attach_s=SHORT_S * 1.4, attach_retry_s=0)) as worker:
            for abandoned in (0, 1):
                answers = await worker.ask("temperature", ALL, deadline_s=SHORT_S)
                assert answers.trouble is not None
                assert (answers.trouble.trouble, answers.trouble.call) == (Trouble.HUNG, "nvmlInitWithFlags")
                assert worker.status().abandoned == abandoned
            assert [call.gpu for call in worker.status().hung] == [None]
            await until(lambda: worker.status().stuck == 0, "the abandoned worker to be reaped")

    asyncio.run(scene())


def test_a_gpu_that_takes_long_to_attach_answers_once_it_is(fleet: Scenario) -> None:
    fleet.takes(int(1.5 * SHORT_S * 1e6), "nvmlDeviceGetHandleByPciBusId_v2", gpu=3)

    async def scene() -> None:
        async with asking(fleet, Patience(attach_retry_s=0)) as worker:
            answers = await worker.ask("temperature", ALL, deadline_s=SHORT_S)
            assert silence(answers, 3).trouble is Trouble.HUNG
            assert silence(answers, 3).call == "nvmlDeviceGetHandleByPciBusId"
            assert len(answered(answers)) == 7
            assert len(answered(await worker.ask("temperature", ALL, deadline_s=DEADLINE_S))) == 8
            assert (worker.status().starts, worker.status().abandoned) == (1, 0)

    asyncio.run(scene())


def test_a_crash_while_initialising_is_one_trouble_not_eight(fleet: Scenario) -> None:
    fleet.crashes("nvmlInitWithFlags")

    async def scene() -> None:
        async with asking(fleet) as worker:
            answers = await worker.ask("temperature", ALL, deadline_s=DEADLINE_S)
            assert answers.trouble is not None
            assert answers.trouble.trouble is Trouble.CRASHED
            assert worker.status().starts == 1

    asyncio.run(scene())


def test_a_driver_without_gpus_says_so(fleet: Scenario) -> None:
    fleet.present([])

    async def scene() -> Answers:
        async with asking(fleet) as worker:
            return await worker.ask("temperature", None, deadline_s=DEADLINE_S)

    trouble = asyncio.run(scene()).trouble
    assert trouble is not None
    assert trouble.trouble is Trouble.NO_GPU


def test_a_worker_that_cannot_be_executed_is_a_reason_not_an_exception(tmp_path: Path) -> None:
    async def scene() -> Answers:
        worker = GpuWorker(command=[str(tmp_path / "missing")])
        try:
            return await worker.ask("temperature", ALL, deadline_s=DEADLINE_S)
        finally:
            await worker.close()

    trouble = asyncio.run(scene()).trouble
    assert trouble is not None
    assert trouble.trouble is Trouble.FAILED
    assert "No such file" in trouble.reason


def test_a_worker_that_ends_at_once_is_a_reason_with_its_status() -> None:
    async def scene() -> Answers:
        worker = GpuWorker(command=["/bin/false"])
        try:
            return await worker.ask("temperature", ALL, deadline_s=DEADLINE_S)
        finally:
            await worker.close()

    trouble = asyncio.run(scene()).trouble
    assert trouble is not None
    assert "exited with status 1" in trouble.reason


def test_a_worker_that_never_gets_ready_is_given_up_and_killed() -> None:
    async def scene() -> None:
        worker = GpuWorker(command=["/bin/sleep", "1000"], patience=Patience(start_s=0.2))
        try:
            answers = await worker.ask("temperature", ALL, deadline_s=DEADLINE_S)
            assert answers.trouble is not None
            assert "not ready within 0.2 s" in answers.trouble.reason
            await until(lambda: not _children(), "the sleeper to be killed and reaped")
        finally:
            await worker.close()

    asyncio.run(scene())


def test_an_exec_that_hangs_stops_nothing_else(tmp_path: Path) -> None:
    program = tmp_path / "worker"
    shutil.copy("/bin/sleep", program)

    async def scene() -> None:
        worker = GpuWorker(command=[str(program), "1000"], patience=Patience(start_s=0.3))
        with exec_gate(program) as gate:
            answers = await worker.ask("temperature", ALL, deadline_s=DEADLINE_S)
            assert answers.trouble is not None
            assert "not ready within 0.3 s" in answers.trouble.reason
            await asyncio.to_thread(gate.open)
        await until(lambda: not _children(), "the late worker to be killed and reaped")
        await worker.close()

    asyncio.run(scene())


def test_an_idle_worker_is_ended_and_started_again_when_needed(fleet: Scenario) -> None:
    async def scene() -> None:
        async with asking(fleet, Patience(idle_s=0.05)) as worker:
            await worker.ask("temperature", ALL, deadline_s=DEADLINE_S)
            await until(lambda: worker.status().pid is None and not _children(), "the idle worker to end")
            assert len(answered(await worker.ask("temperature", ALL, deadline_s=DEADLINE_S))) == 8
            assert worker.status().starts == 2

    asyncio.run(scene())


def test_a_released_worker_lets_go_of_the_driver_after_its_answers(fleet: Scenario) -> None:
    fleet.takes(200_000, "nvmlDeviceGetTemperature", gpu=0)

    async def scene() -> None:
        async with asking(fleet) as worker:
            question = asyncio.create_task(worker.ask("temperature", ALL, deadline_s=DEADLINE_S))
            await until(lambda: any(gpu == "0" for _, _, gpu in fleet.calls()), "the slow call")
            worker.release()
            assert len(answered(await question)) == 8
            await until(lambda: not _children(), "the released worker to end")

    asyncio.run(scene())


def test_many_questions_at_once_share_one_worker(fleet: Scenario) -> None:
    async def scene() -> None:
        async with asking(fleet) as worker:
            questions = (worker.ask("temperature", ALL, deadline_s=DEADLINE_S) for _ in range(20))
            assert all(len(answered(answers)) == 8 for answers in await asyncio.gather(*questions))
            assert worker.status().starts == 1

    asyncio.run(scene())


def test_a_question_of_others_survives_that_its_worker_is_given_up(fleet: Scenario) -> None:
    fleet.hangs("nvmlDeviceGetTemperature", gpu=3)
    fleet.takes(2 * int(SHORT_S * 1e6), "nvmlDeviceGetTemperature", gpu=0)

    async def scene() -> None:
        async with asking(fleet) as worker:
            patient = asyncio.create_task(worker.ask("temperature", [pci(0)], deadline_s=DEADLINE_S))
            await until(lambda: any(gpu == "0" for _, _, gpu in fleet.calls()), "the slow call")
            hasty = await worker.ask("temperature", [pci(3)], deadline_s=SHORT_S)
            assert silence(hasty, 3).trouble is Trouble.HUNG
            assert value(await patient, 0, "temperature_c") == 36

    asyncio.run(scene())


def test_a_worker_in_uninterruptible_sleep_holds_up_nothing_and_is_reaped_when_it_wakes(
    fleet: Scenario, tmp_path: Path
) -> None:
    async def scene() -> None:
        with frozen_file_system(tmp_path) as frozen:
            fleet.writes(frozen.path / "never", "nvmlDeviceGetTemperature", gpu=3)
            async with asking(fleet) as worker:
                assert len(answered(await worker.ask("temperature", ALL, deadline_s=SHORT_S))) == 7
                assert len(answered(await worker.ask("temperature", ALL, deadline_s=DEADLINE_S))) == 7
                assert (worker.status().stuck, worker.status().abandoned) == (1, 1)
                frozen.thaw()
                await until(lambda: worker.status().stuck == 0, "the worker to wake and end")
                fleet.behaves("nvmlDeviceGetTemperature", gpu=3)

    asyncio.run(scene())


def test_closing_does_not_wait_for_a_worker_in_uninterruptible_sleep(fleet: Scenario, tmp_path: Path) -> None:
    async def scene() -> None:
        with frozen_file_system(tmp_path) as frozen:
            fleet.writes(frozen.path / "never", "nvmlDeviceGetTemperature", gpu=3)
            descriptors = _descriptors()
            async with asking(fleet) as worker:
                await worker.ask("temperature", ALL, deadline_s=SHORT_S)
            (left,) = _children()
            assert _state(left) in "DZ"
            assert _descriptors() <= descriptors
            frozen.thaw()
        await asyncio.to_thread(os.waitid, os.P_PID, left, os.WEXITED)

    asyncio.run(scene())


def test_not_more_workers_get_stuck_than_a_few(
    fleet: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MOST_STUCK", 2)

    async def scene() -> None:
        with frozen_file_system(tmp_path) as frozen:
            fleet.writes(frozen.path / "never", "nvmlDeviceGetTemperature", gpu=3)
            async with asking(fleet, IMPATIENT) as worker:
                for _ in range(2):
                    assert len(answered(await worker.ask("temperature", ALL, deadline_s=SHORT_S))) == 7
                refused = await worker.ask("temperature", ALL, deadline_s=SHORT_S)
                assert refused.trouble is not None
                assert refused.trouble.trouble is Trouble.HUNG
                assert "2 earlier GPU workers are stuck" in refused.trouble.reason
                assert worker.status().starts == 2
                frozen.thaw()
                await until(lambda: worker.status().stuck == 0, "the workers to wake and end")
                fleet.behaves("nvmlDeviceGetTemperature", gpu=3)
                assert len(answered(await worker.ask("temperature", ALL, deadline_s=DEADLINE_S))) == 8

    asyncio.run(scene())


def test_two_gpus_that_hang_together_are_both_named_and_left_alone_for_less_long(fleet: Scenario) -> None:
    for gpu in (2, 3):
        fleet.hangs("nvmlDeviceGetTemperature", gpu=gpu)

    async def scene() -> None:
        async with asking(fleet, Patience(together_s=0)) as worker:
            answers = await worker.ask("temperature", ALL, deadline_s=SHORT_S)
            assert [silence(answers, gpu).trouble for gpu in (2, 3)] == [Trouble.HUNG] * 2
            fleet.behaves("nvmlDeviceGetTemperature", gpu=2)
            answers = await worker.ask("temperature", ALL, deadline_s=SHORT_S)
            assert value(answers, 2, "temperature_c") == 36
            assert [call.gpu for call in worker.status().hung] == [pci(3)]

    asyncio.run(scene())


def test_an_asker_that_gives_up_leaves_nothing_waiting(fleet: Scenario) -> None:
    fleet.hangs("nvmlDeviceGetTemperature", gpu=3)

    async def scene() -> None:
        async with asking(fleet) as worker:
            await worker.ask("temperature", [pci(0)], deadline_s=DEADLINE_S)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await worker.ask("temperature", ALL, deadline_s=DEADLINE_S)
            worker.release()
            await until(lambda: not _children(), "the worker nobody waits for to end")

    asyncio.run(scene())


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


def _temperature_calls(fleet: Scenario, pid: int, gpu: str) -> int:
    return fleet.calls().count((pid, "nvmlDeviceGetTemperature", gpu))


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _children() -> set[int]:
    found = set()
    for task in Path("/proc/self/task").iterdir():
        found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found
