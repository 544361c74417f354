"""Ending real processes that a fake driver says use a GPU."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.gpu.process import MOST_PID, ProcessReader
from daemon.operator.audit import Outcome
from daemon.operator.kill import KillOperation, KillRequest, KillTarget
from daemon.operator.plan import Ending, Plan
from probes.errors import UserError
from tests.support.operator_node import (
    SLEEP,
    TERM_IGNORED,
    FakeGpus,
    Stranger,
    host_reader,
    pci,
    recycled,
    stranger,
    uuid,
    watch_of,
)
from tests.support.waiting import wait_for


def operation(gpus: FakeGpus, *, term_wait_s: float = 20.0) -> KillOperation:
    return KillOperation(watch_of(gpus), host_reader(), term_wait_s=term_wait_s, kill_wait_s=20.0)


def plan(gpus: FakeGpus, pid: int, **options: object) -> Plan[KillTarget]:
    return asyncio.run(operation(gpus).plan(KillRequest(pid, **options)))  # type: ignore[arg-type]  # by name


def refusal(gpus: FakeGpus, pid: int, *, on: tuple[str, ...] = (), force: bool = False) -> UserError:
    with pytest.raises(UserError) as refused:
        asyncio.run(operation(gpus).plan(KillRequest(pid, gpus=on, force=force)))
    return refused.value


def nothing() -> None:
    """For `begin`."""


def act(
    gpus: FakeGpus,
    request: KillRequest,
    *,
    between: Callable[[], None] = nothing,
    term_wait_s: float = 20.0,
) -> Ending:
    """Plan, let something happen, and act."""

    async def main() -> Ending:
        kill = operation(gpus, term_wait_s=term_wait_s)
        planned = await kill.plan(request)
        between()
        return await kill.act(request, planned, nothing)

    return asyncio.run(main())


def test_the_plan_says_who_would_be_ended_where_and_how() -> None:
    gpus = FakeGpus()
    with stranger() as process:
        gpus.put(process.pid, gpu=1)
        planned = plan(gpus, process.pid, sigkill_after_s=5.0)
        assert process.runs
    assert planned.gpus == (pci(1),)
    assert (planned.pid, planned.process_name) == (process.pid, "sleep")
    for part in (
        f'process {process.pid} "sleep"',
        'command line is "sleep 1000"',
        "user root" if os.getuid() == 0 else "user ",
        "it runs in ",
        f"GPU 1 {uuid(1)} ({pci(1)}) with 1.0 GiB",
        "send SIGTERM, and SIGKILL if it has not ended 5 s later",
    ):
        assert part in planned.sentence, part


def test_other_processes_of_the_gpu_are_named_as_not_signalled() -> None:
    gpus = FakeGpus()
    with stranger() as process, stranger() as other:
        gpus.put(process.pid)
        gpus.put(other.pid)
        planned = plan(gpus, process.pid)
    assert any("1 other process on GPU" in each for each in planned.affected)


def test_a_process_ends_by_sigterm_and_the_answer_says_so() -> None:
    gpus = FakeGpus()
    with stranger() as process:
        gpus.put(process.pid)
        ending = act(gpus, KillRequest(process.pid))
        assert not process.runs
    assert ending.outcome is Outcome.DONE
    assert ending.detail["process_ended"] is True
    assert ending.detail["signals_sent"] == ["SIGTERM"]
    assert f"Process {process.pid} has ended after SIGTERM, within 0" in ending.sentence
    assert "within 0 s" not in ending.sentence


def test_one_that_ignores_sigterm_is_left_alone_unless_sigkill_is_asked_for() -> None:
    gpus = FakeGpus()
    with stranger(*TERM_IGNORED) as process:
        gpus.put(process.pid)
        ending = act(gpus, KillRequest(process.pid), term_wait_s=0.1)
        assert process.runs
    assert ending.outcome is Outcome.FAILED
    assert ending.detail["process_ended"] is False
    assert "HAS NOT ENDED" in ending.sentence
    assert "SIGKILL was not asked for" in ending.sentence


def test_sigkill_follows_when_the_grace_time_is_over() -> None:
    gpus = FakeGpus()
    with stranger(*TERM_IGNORED) as process:
        gpus.put(process.pid)
        ending = act(gpus, KillRequest(process.pid, sigkill_after_s=0.1))
        assert not process.runs
    assert ending.outcome is Outcome.DONE
    assert ending.detail["signals_sent"] == ["SIGTERM", "SIGKILL"]


def test_sigkill_at_once_is_said_in_the_plan_and_sends_nothing_else() -> None:
    gpus = FakeGpus()
    with stranger(*TERM_IGNORED) as process:
        gpus.put(process.pid)
        assert "SIGKILL at once" in plan(gpus, process.pid, sigkill_after_s=0.0).sentence
        ending = act(gpus, KillRequest(process.pid, sigkill_after_s=0.0))
    assert ending.detail["signals_sent"] == ["SIGKILL"]


def test_a_process_that_uses_no_gpu_is_refused() -> None:
    with stranger() as process:
        error = refusal(FakeGpus(), process.pid)
        assert process.runs
    assert "does not use any GPU now" in error.message


def test_a_gpu_that_could_not_be_looked_at_is_named_in_the_refusal() -> None:
    gpus = FakeGpus()
    gpus.silent[pci(1)] = "nvmlDeviceGetComputeRunningProcesses did not return"
    with stranger() as process:
        error = refusal(gpus, process.pid)
    assert "not all could be looked at" in error.message
    assert "did not return" in error.message


def test_a_process_on_another_gpu_than_the_one_named_is_refused() -> None:
    gpus = FakeGpus()
    with stranger() as process:
        gpus.put(process.pid, gpu=1)
        error = refusal(gpus, process.pid, on=("0",))
    assert "does not use any of the GPUs named" in error.message


@pytest.mark.parametrize("pid", [0, -1, MOST_PID + 1])
def test_a_number_that_is_no_pid_is_refused_with_the_valid_ones(pid: int) -> None:
    error = refusal(FakeGpus(), pid)
    assert error.message == f"{pid} is not a process id"
    assert error.hint is not None
    assert str(MOST_PID) in error.hint


def test_the_first_process_the_program_itself_its_parent_and_its_children_are_refused() -> None:
    gpus = FakeGpus()
    with subprocess.Popen(SLEEP) as child:
        try:
            for pid, why in (
                (1, "first process of the system"),
                (os.getpid(), "xidwatch itself"),
                (os.getppid(), "first process" if os.getppid() == 1 else "a parent of xidwatch"),
                (child.pid, "a worker of xidwatch"),
            ):
                gpus.put(pid)
                assert why in refusal(gpus, pid, force=True).message
        finally:
            child.kill()


def test_the_display_server_is_refused_unless_forced(tmp_path: Path) -> None:
    gpus = FakeGpus()
    server = tmp_path / "Xorg"
    server.symlink_to("/bin/sleep")
    script = f"exec -a sleep {server} 1000"
    with stranger("bash", "-c", script) as process:
        gpus.put(process.pid)
        assert 'display server "Xorg"' in refusal(gpus, process.pid).message
        assert plan(gpus, process.pid, force=True).process_name == "Xorg"


def test_nothing_is_ended_where_the_hosts_pids_are_not_seen() -> None:
    gpus = FakeGpus()
    with stranger() as process:
        gpus.put(process.pid)
        kill = KillOperation(watch_of(gpus), ProcessReader(host_pids=False))
        with pytest.raises(UserError, match="pid namespace of its own"):
            asyncio.run(kill.plan(KillRequest(process.pid)))


def test_invented_gpus_are_nothing_to_act_on() -> None:
    gpus = FakeGpus()
    gpus.mock = True
    with stranger() as process:
        for pid in (process.pid, 1, os.getpid(), MOST_PID, -1):
            error = refusal(gpus, pid)
            assert error.message.startswith(
                "the GPUs are mock (--gpu mock): nothing on this node can be killed"
            )
        assert process.runs


def test_a_process_that_ended_after_the_plan_is_refused() -> None:
    gpus = FakeGpus()
    with stranger() as process:
        gpus.put(process.pid)

        def end() -> None:
            process.end_now()
            wait_for(lambda: not Path(f"/proc/{process.pid}").exists(), "its pid to be free")

        with pytest.raises(UserError, match="cannot be signalled: it has ended"):
            act(gpus, KillRequest(process.pid), between=end)


def test_a_process_that_left_the_gpu_after_the_plan_is_refused() -> None:
    gpus = FakeGpus()
    with stranger() as process:
        gpus.put(process.pid)
        with pytest.raises(UserError, match="does not use any GPU now"):
            act(gpus, KillRequest(process.pid), between=gpus.users.clear)
        assert process.runs


def test_a_recycled_pid_is_refused_and_its_new_owner_lives_on() -> None:
    gpus = FakeGpus()
    owners: list[Stranger] = []
    with stranger() as process:
        gpus.put(process.pid)  # both use the GPU: only the start tells them apart
        try:
            with pytest.raises(UserError, match="another process now than the one that was confirmed"):
                act(gpus, KillRequest(process.pid), between=lambda: owners.append(recycled(process)))
            assert owners[0].runs
        finally:
            for owner in owners:
                owner.end()


def test_a_pid_recycled_after_the_pidfd_was_opened_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = FakeGpus()
    owners: list[Stranger] = []
    open_pidfd = os.pidfd_open

    def open_and_lose(pid: int) -> int:
        descriptor = open_pidfd(pid)
        monkeypatch.setattr(os, "pidfd_open", open_pidfd)
        owners.append(recycled(process))
        return descriptor

    with stranger() as process:
        gpus.put(process.pid)
        try:
            with pytest.raises(UserError, match="another process now"):
                act(
                    gpus,
                    KillRequest(process.pid),
                    between=lambda: monkeypatch.setattr(os, "pidfd_open", open_and_lose),
                )
            assert owners[0].runs
        finally:
            for owner in owners:
                owner.end()
