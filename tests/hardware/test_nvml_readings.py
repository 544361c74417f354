"""What is read of real GPUs, through the worker, equals what `nvidia-smi -q -x` prints, field by field.

Printed otherwise by nvidia-smi: the fabric state of a GPU without a fabric (N/A there, `not_supported`
here), and memory sizes (whole MiB there).
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from xml.etree import ElementTree

import pytest

from daemon.gpu.client import GpuWorker
from daemon.gpu.nvml_source import NvmlSource
from daemon.gpu.readings import Reading
from daemon.gpu.source import SourceName, Sweep
from tests.hardware.cuda_context import cuda_context
from tests.support import nvidia_smi

Question = Callable[[NvmlSource], Awaitable[Sweep]]


def read(question: Question) -> tuple[Reading, ...]:
    """What every GPU of this machine answers, by PCI address."""

    async def ask() -> Sweep:
        source = NvmlSource(GpuWorker())
        try:
            return await question(source)
        finally:
            await source.close()

    sweep = asyncio.run(ask())
    assert sweep.state.name is SourceName.OK, sweep.state
    assert sweep.gpus
    assert all(gpu.answered for gpu in sweep.gpus), [gpu.reason for gpu in sweep.gpus]
    return sweep.gpus


def printed() -> str:
    """What the driver's own tool says now."""
    if shutil.which("nvidia-smi") is None:
        pytest.skip("nvidia-smi is not installed")
    return subprocess.run(["nvidia-smi", "-q", "-x"], capture_output=True, text=True, check=True).stdout


def beside(gpus: tuple[Reading, ...], xml: str) -> Iterator[tuple[Reading, ElementTree.Element]]:
    """Each GPU with what nvidia-smi says of it."""
    said = {nvidia_smi.pci_address(gpu): gpu for gpu in nvidia_smi.gpus(xml)}
    assert said.keys() == {gpu.pci for gpu in gpus}
    yield from ((gpu, said[gpu.pci]) for gpu in gpus)


def test_the_inventory_equals_nvidia_smi() -> None:
    xml = printed()
    for gpu, said in beside(read(NvmlSource.inventory), xml):
        assert gpu.identity is not None
        assert list(nvidia_smi.compare(gpu.identity.to_json(), said, nvidia_smi.IDENTITY)) == []
        assert gpu.identity.driver_version == nvidia_smi.shared(xml, "driver_version")
        assert gpu.identity.cuda_version == nvidia_smi.shared(xml, "cuda_version")
        print(f"\n{gpu.pci} {gpu.identity.name}, unread: {dict(gpu.identity.unread)}")


def test_the_health_equals_nvidia_smi() -> None:
    for gpu, said in beside(read(NvmlSource.health), printed()):
        assert gpu.health is not None
        table = nvidia_smi.HEALTH + nvidia_smi.MOVING
        differences = list(nvidia_smi.compare(gpu.health.to_json(), said, table))
        if gpu.health.fabric.state == "not_supported":
            differences.remove(nvidia_smi.Difference("fabric.state", "not_supported", None))
        assert differences == []
        print(f"\n{gpu.pci} unread: {dict(gpu.health.unread)}")


def test_the_clock_event_reasons_are_those_of_nvidia_smi() -> None:
    # Reading a GPU wakes it up: nvidia-smi agrees with what is read before it or after it.
    before, xml, after = read(NvmlSource.health), printed(), read(NvmlSource.health)
    for (first, said), (second, _) in zip(beside(before, xml), beside(after, xml), strict=True):
        reasons = [health.clock_events.reasons for health in (first.health, second.health) if health]
        assert nvidia_smi.active_reasons(said) in [set(found or ()) for found in reasons]


def test_a_process_is_listed_as_nvidia_smi_lists_it() -> None:
    with cuda_context(megabytes=64) as pid:
        gpus, xml = read(NvmlSource.processes), printed()
    mine = []
    for gpu, said in beside(gpus, xml):
        assert gpu.processes is not None
        assert gpu.processes.processes is not None
        assert {(entry.pid, entry.type) for entry in gpu.processes.processes} == nvidia_smi.processes(said)
        mine += [entry for entry in gpu.processes.processes if entry.pid == pid]
    assert [(entry.memory_used_bytes or 0) >= 64 * 2**20 for entry in mine] == [True]


def test_every_link_is_read_or_says_why() -> None:
    for gpu in read(NvmlSource.nvlink):
        assert gpu.nvlink is not None
        if gpu.nvlink.links is None:
            assert gpu.nvlink.unread["links"]
        else:
            assert [link.link for link in gpu.nvlink.links] == list(range(len(gpu.nvlink.links)))
            assert all(link.up is not None for link in gpu.nvlink.links)
            print(f"\n{gpu.pci}: {len(gpu.nvlink.links)} links, first {gpu.nvlink.links[0]}")


def test_energy_and_throughput_come_on_request() -> None:
    for gpu in read(NvmlSource.costly):
        assert gpu.costly is not None
        assert gpu.costly.energy_j
        assert gpu.costly.pcie_sent_kb_per_s is not None


def test_what_reading_all_gpus_takes() -> None:
    """Printed for the record, without a limit: question to answer, all GPUs of the machine."""

    async def measure() -> dict[str, list[float]]:
        source = NvmlSource(GpuWorker())
        times: dict[str, list[float]] = {}
        try:
            for question in (source.inventory, source.health, source.processes, source.nvlink, source.costly):
                taken = times.setdefault(question.__name__, [])
                for _ in range(20):
                    began = time.perf_counter()
                    sweep = await question()
                    taken.append((time.perf_counter() - began) * 1000)
                    assert all(gpu.answered for gpu in sweep.gpus)
        finally:
            await source.close()
        return times

    for name, taken in asyncio.run(measure()).items():
        again = sorted(taken[1:])
        print(
            f"\n{name}: first {taken[0]:.1f} ms, then {statistics.median(again):.1f}, at most {again[-1]:.1f}"
        )
