"""Resetting a GPU: a script in the place of nvidia-smi, started for real."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.gpu.answers import HungCall
from daemon.gpu.protocol import Trouble
from daemon.gpu.readings import ComputeInstance, GpuInstance, Link, MigLayout, NvLink
from daemon.gpu.source import SourceState
from daemon.operator.audit import Outcome
from daemon.operator.driver_tool import OUTPUT_LINES, DriverTool
from daemon.operator.plan import Ending, Plan
from daemon.operator.reset import ResetOperation, ResetRequest, ResetTarget
from probes.errors import UserError
from tests.support.operator_node import FakeGpus, host_reader, linked_to, pci, uuid, watch_of

Smi = Callable[[str], Path]


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Smi:
    """Puts a script named nvidia-smi on the PATH; it notes its arguments in the file `ran` beside it."""

    def put(script: str) -> Path:
        tool = tmp_path / "bin/nvidia-smi"
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/ran\n{script}\n')
        tool.chmod(0o755)
        return tmp_path / "ran"

    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return put


def operation(gpus: FakeGpus, *, deadline_s: float = 20.0, dying_s: float = 20.0) -> ResetOperation:
    return ResetOperation(
        watch_of(gpus), host_reader(), gpus, tool=DriverTool(dying_s=dying_s), deadline_s=deadline_s
    )


def plan(gpus: FakeGpus, gpu: str = "0", *, force: bool = False) -> Plan[ResetTarget]:
    return asyncio.run(operation(gpus).plan(ResetRequest(gpu, force)))


def refusal(gpus: FakeGpus, gpu: str = "0", *, force: bool = False) -> UserError:
    with pytest.raises(UserError) as refused:
        plan(gpus, gpu, force=force)
    return refused.value


def nothing() -> None:
    """For `begin`."""


def act(
    gpus: FakeGpus,
    gpu: str = "0",
    *,
    between: Callable[[], None] = nothing,
    deadline_s: float = 20.0,
) -> Ending:
    """Plan, let something happen, and act."""

    async def main() -> Ending:
        reset = operation(gpus, deadline_s=deadline_s)
        planned = await reset.plan(ResetRequest(gpu))
        between()
        return await reset.act(ResetRequest(gpu), planned, nothing)

    return asyncio.run(main())


def test_the_plan_says_what_would_be_run_and_what_else_it_changes(smi: Smi) -> None:
    ran = smi("")
    planned = plan(FakeGpus(), "1")
    assert f"Reset GPU 1 {uuid(1)} ({pci(1)})" in planned.sentence
    assert f"nvidia-smi --gpu-reset -i {uuid(1)}" in planned.sentence
    assert planned.gpus == (pci(1),)
    assert any("memory" in each for each in planned.affected)
    assert not ran.exists()


def test_the_tool_is_run_on_the_uuid_and_its_output_returned(smi: Smi) -> None:
    ran = smi("echo 'GPU 00000000:01:00.0 was successfully reset.'; echo 'All done.' >&2")
    gpus = FakeGpus()
    ending = act(gpus)
    assert ran.read_text() == f"--gpu-reset -i {uuid(0)}\n"
    assert ending.outcome is Outcome.DONE
    assert ending.detail["output"] == "GPU 00000000:01:00.0 was successfully reset.\nAll done."
    assert ending.detail["answers"] is True


def test_the_program_lets_go_of_the_driver_first_and_asks_the_gpu_again_afterwards(smi: Smi) -> None:
    smi("")
    gpus = FakeGpus()
    act(gpus)
    assert (gpus.released, gpus.forgiven) == (1, [pci(0)])


def test_a_tool_that_fails_is_told_with_its_words(smi: Smi) -> None:
    smi("echo 'Unable to reset GPU: In use by another client'; exit 3")
    ending = act(FakeGpus())
    assert ending.outcome is Outcome.FAILED
    assert "exit code 3" in ending.sentence
    assert ending.detail["output"] == "Unable to reset GPU: In use by another client"
    assert ending.detail["answers"] is None


def test_a_tool_that_hangs_is_ended_at_the_deadline_with_what_it_said(smi: Smi) -> None:
    smi("echo 'Resetting'; exec sleep 1000")
    ending = act(FakeGpus(), deadline_s=1.0)
    assert ending.outcome is Outcome.FAILED
    assert "did not finish within 1 s" in ending.sentence
    assert ending.detail["output"] == "Resetting"


def test_a_tool_that_cannot_be_killed_is_left_behind_and_no_other_is_started(smi: Smi) -> None:
    # A child that left the session keeps the pipe open, as a process in the driver would its own end.
    smi("setsid sleep 3 & exec sleep 1000")

    async def main() -> None:
        reset = operation(FakeGpus(), deadline_s=0.5, dying_s=0.1)
        planned = await reset.plan(ResetRequest("0"))
        ending = await reset.act(ResetRequest("0"), planned, nothing)
        assert ending.outcome is Outcome.FAILED
        assert "cannot be killed" in ending.sentence
        with pytest.raises(UserError, match="earlier nvidia-smi has not returned"):
            await reset.plan(ResetRequest("0"))

    asyncio.run(main())


def test_a_long_output_is_cut_and_cleaned_and_does_not_stop_the_tool(smi: Smi) -> None:
    smi("printf 'red \\033[31m\\n'; seq 100000")
    ending = act(FakeGpus())
    assert ending.outcome is Outcome.DONE
    lines = str(ending.detail["output"]).split("\n")
    assert lines[0] == r"red \x1b[31m"
    assert len(lines) == OUTPUT_LINES + 1
    assert lines[-1].endswith("more lines")


def test_a_gpu_that_does_not_answer_after_a_reset_is_no_success(smi: Smi) -> None:
    smi("")
    gpus = FakeGpus()
    release = gpus.release

    def fall_silent() -> None:
        release()
        gpus.silent[pci(0)] = "nvmlDeviceGetHandle did not return"

    gpus.release = fall_silent  # type: ignore[method-assign]  # what the reset does to it
    ending = act(gpus)
    assert ending.outcome is Outcome.FAILED
    assert "reported success" in ending.sentence
    assert "did not return" in ending.sentence


def test_a_missing_tool_is_a_clear_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    error = refusal(FakeGpus())
    assert error.message == "the driver's tool nvidia-smi is not on the PATH of xidwatch"
    assert error.hint is not None
    assert "NVIDIA_DRIVER_CAPABILITIES" in error.hint


class OneUnplaced(FakeGpus):
    """GPUs beside which there is one that hung before it told its address."""

    def state(self) -> SourceState:
        return replace(super().state(), hung=(HungCall("#2", "nvmlDeviceGetHandleByIndex", 5, Trouble.HUNG),))


def test_a_gpu_whose_address_is_not_known_is_not_reset(smi: Smi) -> None:
    smi("exit 0")
    refused = refusal(OneUnplaced(), "2")
    assert "the PCI address of GPU 2 is not known" in refused.message


def test_a_gpu_with_processes_is_refused_with_their_names(smi: Smi) -> None:
    smi("")
    gpus = FakeGpus()
    gpus.put(os.getpid())
    error = refusal(gpus, force=True)
    assert error.message.startswith(f"1 process uses what would be reset: {os.getpid()} ")
    assert error.hint is not None
    assert "kill_gpu_process" in error.hint


def test_a_process_that_came_after_the_plan_is_a_refusal(smi: Smi) -> None:
    ran = smi("")
    gpus = FakeGpus()
    with pytest.raises(UserError, match="1 process uses"):
        act(gpus, between=lambda: gpus.put(os.getpid()))
    assert not ran.exists()


def test_processes_on_other_gpus_do_not_matter_from_ampere_on(smi: Smi) -> None:
    smi("")
    gpus = FakeGpus()
    gpus.links = {pci(0): linked_to(1), pci(1): linked_to(0)}
    gpus.put(os.getpid(), gpu=1)
    assert plan(gpus).gpus == (pci(0),)


def test_before_ampere_all_gpus_that_nvlink_connects_are_reset_and_have_to_be_free(smi: Smi) -> None:
    smi("")
    gpus = FakeGpus(4, architecture="volta")
    gpus.links = {pci(0): linked_to(1), pci(1): linked_to(0, 2), pci(2): linked_to(1)}
    planned = plan(gpus)
    assert planned.gpus == (pci(0), pci(1), pci(2))
    assert planned.target.command[-1] == f"{uuid(0)},{uuid(1)},{uuid(2)}"
    assert any("together" in each for each in planned.affected)
    gpus.put(os.getpid(), gpu=2)
    assert "1 process uses" in refusal(gpus).message


def test_gpus_on_one_switch_are_connected(smi: Smi) -> None:
    smi("")
    gpus = FakeGpus(3, architecture="volta")
    switch = NvLink(links=(Link(0, up=True, remote_type="switch", remote_pci="0000:c1:00.0"),))
    gpus.links = {pci(0): switch, pci(2): switch}
    assert plan(gpus).gpus == (pci(0), pci(2))


def test_a_gpu_whose_processes_cannot_be_read_is_refused_unless_forced(smi: Smi) -> None:
    smi("")
    gpus = FakeGpus()
    gpus.silent[pci(0)] = "nvmlDeviceGetComputeRunningProcesses did not return"
    error = refusal(gpus, pci(0))
    assert "cannot be told" in error.message
    assert "did not return" in error.message
    planned = plan(gpus, pci(0), force=True)
    assert any("NOT KNOWN whether processes use it" in each for each in planned.affected)


def test_a_lost_gpu_is_refused(smi: Smi) -> None:
    smi("")
    gpus = FakeGpus()
    gpus.lost.add(pci(1))
    assert "is lost" in refusal(gpus, pci(1), force=True).message


def test_a_mig_instance_is_refused_and_a_gpu_with_some_says_that_they_go(smi: Smi) -> None:
    smi("")
    gpus = FakeGpus()
    part = GpuInstance(1, compute_instances=(ComputeInstance(0, uuid="MIG-0000000a-1111"),))
    gpus.mig = {pci(0): MigLayout(enabled=True, gpu_instances=(part, GpuInstance(2)))}
    assert any("2 MIG instances" in each for each in plan(gpus).affected)
    error = refusal(gpus, "MIG-0000000a")
    assert error.message == "a MIG instance cannot be reset alone"
    assert error.hint is not None
    assert uuid(0) in error.hint


@pytest.mark.parametrize("name", ["", "0,1", "7", "GPU-0000000", "nonsense"])
def test_a_name_that_does_not_mean_one_gpu_is_refused(smi: Smi, name: str) -> None:
    smi("")
    assert refusal(FakeGpus(), name).hint


def test_invented_gpus_are_not_reset() -> None:
    gpus = FakeGpus()
    gpus.mock = True
    for name in ("0", "nonsense"):  # said before anything of the GPU, or of a tool that is not there
        assert refusal(gpus, name).message.startswith("the GPUs are mock (--gpu mock): nothing on this node")
