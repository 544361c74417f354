"""The witness of NVML's events on a real GPU: it hears a real fault, and lets go of the device files."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

from daemon.gpu.client import GpuWorker
from daemon.gpu.nvml_events import NvmlEvents, Tempo
from daemon.gpu.nvml_source import NvmlSource
from daemon.gpu.roll import Present
from daemon.nvml_witness import NvmlEvent, NvmlEventKind
from tests.hardware.cuda_fault import XID, Fault
from tests.support.daemon import ROOT
from tests.support.gpu_asking import until


def device_files_of(pid: int) -> list[str]:
    """The driver's files that this process has open."""
    links = (entry.readlink() for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink())
    return sorted(str(link) for link in links if str(link).startswith("/dev/nvidia"))


async def fault(which: Fault) -> tuple[str, int]:
    """Run the faulting program: the GPU that it was on, and when it ended (µs of CLOCK_MONOTONIC)."""
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.hardware.cuda_fault", which,
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    out, err = await program.communicate()
    assert b"the kernel ended with CUDA error" in err, err
    domain, rest = out.decode().strip().split(":", 1)
    return f"{domain[-4:]}:{rest}", time.monotonic_ns() // 1000


@pytest.mark.parametrize("which", list(Fault))
def test_a_real_fault_is_heard_with_its_gpu_and_code(which: Fault) -> None:
    async def scene() -> None:
        heard: list[NvmlEvent] = []
        events = NvmlEvents(heard.append)
        events.start()
        await until(lambda: events.health().hears, "the witness to hear")
        pci, ended_us = await fault(which)
        await until(lambda: heard, "NVML's word")
        print(f"Xid {heard[0].code}: {(heard[0].arrival_us - ended_us) / 1000:+.1f} ms after the program")
        assert {(event.what, event.pci) for event in heard} == {(NvmlEventKind.XID, pci)}
        assert heard[-1].code in XID.values()
        await events.close()

    asyncio.run(scene())


def test_a_quiet_wait_is_no_event_and_released_no_device_file_is_open() -> None:
    async def scene() -> None:
        heard: list[NvmlEvent] = []
        events = NvmlEvents(heard.append, tempo=Tempo(wait_s=0.5, late_s=5))
        events.start()
        await until(lambda: events.health().hears, "the witness to hear")
        await until(lambda: events.health().counters["quiet_waits"] > 3, "waits in which nothing comes")
        assert heard == []
        (pid,) = workers()
        assert device_files_of(pid)
        released, _ = await events.release()
        assert released.ended == (pid,)
        await events.close()

    asyncio.run(scene())


def test_every_gpu_that_the_driver_lists_is_heard_or_named_with_its_reason() -> None:
    async def scene() -> None:
        source = NvmlSource(GpuWorker())
        listed = await source.listed()
        assert listed

        async def present() -> Present:
            return Present(frozenset(listed), complete=True)

        events = NvmlEvents(lambda event: None, present=present)
        events.start()
        await until(lambda: events.health().hears, "the witness to hear")
        health = events.health()
        print(f"{health.counters['gpus']} of {len(listed)} GPUs are heard; {health.reason}")
        assert health.counters["gpus"] + health.counters["gpus_not_heard"] == len(listed)
        assert (health.reason is None) == (health.counters["gpus_not_heard"] == 0)
        await events.close()
        await source.close()

    asyncio.run(scene())


def workers() -> list[int]:
    """The pids of all GPU workers."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if is_worker(entry)]


def is_worker(entry: Path) -> bool:
    try:
        return b"daemon.gpu.worker" in (entry / "cmdline").read_bytes()
    except OSError:
        return False
