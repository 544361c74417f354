"""Real Xids through three witnesses: /dev/kmsg, `printk:console` and the driver's own tracepoint.

Run on a machine with an NVIDIA GPU and open kernel modules from 575.51.02 on, as root:
`python -m pytest -s tests/hardware/test_driver_tracepoints.py`. A CUDA program stores to an address that is
not mapped, which is Xid 31; nothing is reset and no setting of the GPU is changed.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from probes import procfs
from probes.bpf.availability import attach
from probes.bpf.driver_probe import DriverProbe
from probes.bpf.driver_probe import attach as attach_to_driver
from probes.bpf.probe import BpfProbe
from probes.bpf.unavailable import State, Unavailable
from probes.kmsg import KmsgProbe
from probes.line import KernelLine, Origin
from tests.hardware.conftest import KMSG
from tests.hardware.cuda_fault import XID, Fault
from tests.support.daemon import ROOT
from tests.support.listening import Listener

FAULTS = (Fault.MMU, Fault.MISALIGNED, Fault.TRAP)
WITHIN_S = 60.0
_REFERENCES = Path("/sys/module/nvidia/refcnt")
_PROCESS = re.compile(r"pid='?(?:\d+|<unknown>)'?, name=.*?, ")


@pytest.fixture(autouse=True)
def _needs_ebpf_and_the_tracepoint() -> None:
    for found in (attach(), attach_to_driver()):
        if isinstance(found, Unavailable):
            pytest.skip(found.reason)
        found.close()


def references() -> int | None:
    """How many hold nvidia.ko: unloadable when none does. None on a kernel that unloads no modules."""
    if not _REFERENCES.exists():
        return None
    return int(_REFERENCES.read_text("ascii"))


async def make(which: Fault) -> None:
    """Run the faulting program to its end."""
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.hardware.cuda_fault", which),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    _, err = await program.communicate()
    assert b"the kernel ended with CUDA error" in err, err.decode()


def listen(test: Callable[[Listener, DriverProbe], Awaitable[None]]) -> Listener:
    """Run `test` while three probes hear; the log's history is left out."""

    async def main() -> Listener:
        listener = Listener()
        kmsg, driver = KmsgProbe(KMSG, listener), DriverProbe(listener)
        probes: tuple[KmsgProbe | BpfProbe | DriverProbe, ...] = (kmsg, BpfProbe(listener), driver)
        for probe in probes:
            probe.start()
        try:
            async with asyncio.timeout(WITHIN_S):
                while not kmsg.caught_up:
                    await asyncio.sleep(0.01)
            assert driver.unavailable is None, driver.unavailable
            await test(listener, driver)
        finally:
            for probe in probes:
                probe.close()
        return listener

    return asyncio.run(main())


def xids(listener: Listener, probe: str, code: int, since_us: int) -> list[KernelLine]:
    head = re.compile(rf"NVRM: Xid \(PCI:[0-9a-f:]+.*?\): {code}, ")
    return [
        line
        for line in listener.lines
        if line.probe == probe and line.arrival_us >= since_us and head.match(line.text)
    ]


def without_process(text: str) -> str:
    """The line as the tracepoint tells it: no process, no MIG instance, no previous Xid."""
    text = re.sub(r" caused by previous Xid \d+$", "", _PROCESS.sub("", text))
    return re.sub(r"(PCI:[0-9a-f:]+) GPU-I:\d+(?: GPU-CI:\d+)?", r"\1", text)


@pytest.mark.parametrize("which", FAULTS)
def test_a_real_xid_is_heard_by_every_witness_in_the_same_words(which: Fault) -> None:
    code = XID[which]

    async def test(listener: Listener, driver: DriverProbe) -> None:
        since_us = time.monotonic_ns() // 1000
        await make(which)

        def heard() -> list[list[KernelLine]]:
            return [xids(listener, probe, code, since_us) for probe in ("kmsg", "bpf", "driver")]

        async with asyncio.timeout(WITHIN_S):
            await listener.until(lambda: len({len(lines) for lines in heard()}) == 1 and all(heard()))
        for in_log, in_bpf, in_driver in zip(*heard(), strict=True):
            assert in_bpf.text == in_log.text
            assert in_driver.text == without_process(in_log.text)
            assert in_log.origin is in_driver.origin is Origin.KERNEL
            assert in_bpf.kernel_us is not None
            assert in_driver.kernel_us is not None
            print(
                f"\nXid {code}: tracepoint {in_driver.kernel_us - in_bpf.kernel_us:+d} µs after printk; "
                f"arrival against printk: bpf {in_bpf.arrival_us - in_bpf.kernel_us:+d}, "
                f"driver {in_driver.arrival_us - in_bpf.kernel_us:+d}, "
                f"kmsg {in_log.arrival_us - in_bpf.kernel_us:+d} µs\n  {in_log.text}\n  {in_driver.text}"
            )
        health = driver.health()
        assert (health.counters["dropped"], health.counters["lost"]) == (0, 0)
        print(f"  {driver.health().counters}")

    listen(test)


def test_let_go_of_it_hears_nothing_and_holds_no_driver_and_taken_up_it_hears_again() -> None:
    async def test(listener: Listener, driver: DriverProbe) -> None:
        held = references()
        driver.let_go()
        free = references()
        print(f"\nreferences to nvidia.ko: {held} attached, {free} let go")
        assert held is None or free is None or free < held
        assert driver.unavailable is not None
        assert driver.unavailable.state is State.RELEASED
        since_us = time.monotonic_ns() // 1000
        await make(Fault.MMU)
        await listener.until(lambda: bool(xids(listener, "kmsg", 31, since_us)))
        assert not xids(listener, "driver", 31, since_us)
        driver.take_up()
        assert references() == held
        since_us = time.monotonic_ns() // 1000
        await make(Fault.MMU)
        await listener.until(lambda: bool(xids(listener, "driver", 31, since_us)))
        print(f"  driver {procfs.driver_version()}: heard again after take_up()")

    listen(test)
