"""The process tracker beside a real driver: how CUDA programs end, in which ways they are noticed.

Run on a machine with an NVIDIA GPU, as root: `python -m pytest -s tests/hardware/test_process_tracker.py`.
A CUDA program stores to an address that is not mapped (Xid 31), others only hold memory of the GPU: nothing
is reset and no setting of the GPU is changed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from probes.bpf import tracker
from probes.bpf.ended import Ended
from probes.bpf.tracker import ProcessTracker
from probes.bpf.unavailable import Unavailable
from tests.hardware.cuda_fault import Fault
from tests.support.daemon import ROOT, Daemon
from tests.support.gpu_asking import until
from tests.support.waiting import wait_for

KILLED = (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV)


@pytest.fixture(autouse=True)
def _needs_ebpf() -> None:
    found = tracker.attach()
    if isinstance(found, Unavailable):
        pytest.skip(found.reason)
    found.descriptors.close()
    os.close(found.watched)


def program(module: str, argument: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", f"tests.hardware.{module}", argument]
    return subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def end_of(process: subprocess.Popen[bytes], end: Callable[[], object], *, watch: bool) -> Ended:
    """What the tracker tells of a process that `end` brings to its end."""

    async def main() -> Ended:
        ended: list[Ended] = []
        hears = ProcessTracker(ended.append)
        hears.start()
        try:
            if watch:
                hears.watch(process.pid)
            await asyncio.to_thread(end)
            await until(lambda: hears.ended(process.pid), "the end of the CUDA program")
        finally:
            hears.close()
        return next(each for each in ended if each.pid == process.pid)

    return asyncio.run(main())


@pytest.mark.parametrize("number", KILLED)
def test_a_cuda_program_that_is_killed_still_holds_the_device(number: signal.Signals) -> None:
    with program("cuda_context", "64") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"holding\n"

        def end() -> None:
            process.send_signal(number)
            process.wait()

        ended = end_of(process, end, watch=False)
    print(f"\n{ended}")
    assert (ended.signal, ended.exit_code, ended.had_device) == (number, None, True)
    assert ended.cgroup is not None


def test_a_cuda_program_that_ends_in_order_is_told_of_when_asked_for() -> None:
    with program("cuda_context", "64") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"holding\n"
        ended = end_of(process, process.communicate, watch=True)
    print(f"\nends in order, the device still held: {ended.had_device}")
    assert (ended.signal, ended.exit_code) == (None, 0)


def test_a_faulting_program_that_ends_by_itself_is_told_of() -> None:
    with program("cuda_fault", Fault.MMU) as process:
        ended = end_of(process, process.communicate, watch=True)
    print(f"\nfaulted and ended by itself, the device still held: {ended.had_device}")
    assert (ended.signal, ended.exit_code) == (None, 1)


def test_a_real_fault_tells_how_its_process_ended(listening_daemon: Daemon) -> None:
    with program("cuda_fault", Fault.MMU) as process:
        process.communicate()

    def ended() -> dict[str, Any] | None:
        for event in listening_daemon.events("since=0&limit=1000&code=31"):
            found: dict[str, Any] | None = event["process"]
            if found and found["pid"] == process.pid and found["exited_after_us"] is not None:
                return found
        return None

    found = wait_for(ended, "the end of the process to be part of the event")
    print(f"\n{found}")
    assert (found["exit_code"], found["exit_signal"]) == (1, None)
    assert 0 < found["exited_after_us"] < 20_000_000
    assert found["cgroup"] is not None
