"""The probe on the driver's tracepoints, with the real programs, called as the driver would call them."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Iterator

import pytest

from probes import kernel
from probes.bpf.descriptors import Descriptors
from probes.bpf.driver_probe import DriverProbe, attach, check
from probes.bpf.object_error import ObjectError
from probes.bpf.syscalls import BpfError, Step
from probes.bpf.unavailable import State, Unavailable
from probes.health import ProbeHealth, Verdict
from probes.line import LostRecords, Origin
from tests.support.bpf import set_on_first_cpu
from tests.support.descriptors import open_descriptors
from tests.support.driver_calls import DriverCalls
from tests.support.listening import Listener

XID, SXID = "nvidia_dev_xid", "nvswitch_dev_sxid"


@pytest.fixture
def driver(bpf_machine: None) -> Iterator[DriverCalls]:
    calls = DriverCalls()
    try:
        yield calls
    finally:
        calls.close()


def absent() -> Descriptors:
    raise BpfError(Step.ATTACH, errno.ENOENT)


def listen(
    test: Callable[[Listener, DriverProbe], Awaitable[None]],
    loader: Callable[[], Descriptors],
    changes: list[ProbeHealth] | None = None,
) -> Listener:
    async def main() -> Listener:
        listener = Listener()
        seen = changes if changes is not None else []
        probe = DriverProbe(listener, on_change=seen.append, loader=loader, version=lambda: "580.159.04")
        probe.start()
        try:
            await test(listener, probe)
        finally:
            probe.close()
        return listener

    return asyncio.run(main())


def test_what_the_driver_reports_is_a_line_of_the_kernels(driver: DriverCalls) -> None:
    async def test(listener: Listener, probe: DriverProbe) -> None:
        before_us = kernel.SystemClock().monotonic_us()
        driver.call(XID, "0000:91:00.0", 79, b"GPU has fallen off the bus.\n")
        driver.call(SXID, "0000:a9:00.0", 20034, b"Fatal, Link 30 LTSSM Fault Up (First)")
        await listener.until(lambda: len(listener.lines) == 2)
        xid, sxid = listener.lines
        assert xid.text == "NVRM: Xid (PCI:0000:91:00): 79, GPU has fallen off the bus."
        assert sxid.text.startswith("nvidia-nvswitch: SXid (PCI:0000:a9:00.0): 20034, Fatal")
        assert {line.origin for line in listener.lines} == {Origin.KERNEL}
        assert {line.probe for line in listener.lines} == {"driver"}
        assert xid.seq is None
        assert xid.kernel_us is not None
        assert before_us <= xid.kernel_us <= xid.arrival_us
        health = probe.health()
        assert health.hears
        assert (health.counters["records"], health.counters["lost"]) == (2, 0)

    listen(test, driver.load)


def test_every_report_is_delivered_or_counted_as_lost(driver: DriverCalls) -> None:
    sent = 1000  # the ring has room for 512

    async def test(listener: Listener, probe: DriverProbe) -> None:
        for number in range(sent):
            driver.call(XID, "0000:91:00.0", 31, f"fault {number}".encode())
        await listener.until(lambda: sum(map(len, (b.items for b in listener.batches))) > 0)
        counters = probe.health().counters
        await listener.until(lambda: len(listener.lines) == sent - counters["dropped"])
        lost = [item.count for item in listener.items if isinstance(item, LostRecords)]
        assert sum(count or 0 for count in lost) == counters["dropped"] > 0
        assert [line.text.rpartition(" ")[2] for line in listener.lines[:3]] == ["0", "1", "2"]

    listen(test, driver.load)


def test_let_go_of_nothing_is_attached_and_taken_up_it_hears_again(driver: DriverCalls) -> None:
    changes: list[ProbeHealth] = []

    async def test(listener: Listener, probe: DriverProbe) -> None:
        attached = open_descriptors()
        for _ in range(100):
            driver.call(XID, "0000:91:00.0", 31, b"before")
        probe.let_go()
        # What had been reported is delivered first. Two programs, ring, counts, and two maps of the ring.
        assert [line.text.rpartition(" ")[2] for line in listener.lines] == ["before"] * 100
        assert len(attached - open_descriptors()) == 6
        assert probe.unavailable is not None
        assert probe.unavailable.state is State.RELEASED
        assert probe.health().cause == "released"
        probe.let_go()
        probe.take_up()
        probe.take_up()
        assert probe.unavailable is None
        driver.call(XID, "0000:91:00.0", 31, b"after")
        await listener.until(lambda: len(listener.lines) == 101)
        counters = probe.health().counters
        assert (counters["attached"], counters["seen"], counters["records"]) == (2, 101, 101)

    listen(test, driver.load, changes)
    assert [change.hears for change in changes] == [False, True]


def test_once_closed_it_stays_closed(driver: DriverCalls) -> None:
    async def test(listener: Listener, probe: DriverProbe) -> None:
        probe.close()
        probe.take_up()
        probe.let_go()
        assert probe.unavailable is not None
        assert probe.unavailable.state is State.CLOSED

    before = open_descriptors()
    listen(test, driver.load)
    assert open_descriptors() == before


def test_it_waits_for_a_driver_that_has_the_tracepoint(driver: DriverCalls) -> None:
    answers = iter([absent, absent, driver.load])

    def loader() -> Descriptors:
        return next(answers)()

    async def test(listener: Listener, probe: DriverProbe) -> None:
        assert not probe.health().hears
        probe.take_up()
        assert probe.unavailable is not None
        assert probe.unavailable.state is State.TRACEPOINT_ABSENT
        probe.take_up()
        assert probe.health().hears

    listen(test, loader)


@pytest.mark.parametrize(
    ("version", "state", "reason", "hint"),
    [
        ("570.86.15", State.TRACEPOINT_ABSENT, "570.86.15 has no tracepoint", "575.51.02"),
        (None, State.NO_DRIVER, "no NVIDIA driver is loaded", "load the driver"),
    ],
)
def test_an_absent_tracepoint_is_told_from_an_absent_driver(
    version: str | None, state: State, reason: str, hint: str
) -> None:
    found = attach(absent, lambda: version)
    assert isinstance(found, Unavailable)
    assert found.state is state
    assert reason in found.reason
    assert hint in (found.hint or "")
    said = check(absent, lambda: version)
    assert said.verdict is Verdict.FAIL
    assert reason in said.finding


def test_the_real_tracepoint_is_asked_for_and_leaves_nothing_behind(bpf_machine: None) -> None:
    before = open_descriptors()
    found = attach()
    if not isinstance(found, Unavailable):
        found.close()
        pytest.skip("there is a driver with the tracepoint: tests/hardware tests it")
    assert found.state in {State.NO_DRIVER, State.TRACEPOINT_ABSENT}
    assert open_descriptors() == before


def test_a_damaged_object_is_a_state() -> None:
    def damaged() -> Descriptors:
        raise ObjectError("not an ELF file for BPF")

    async def test(listener: Listener, probe: DriverProbe) -> None:
        assert probe.unavailable is not None
        assert probe.unavailable.state is State.OBJECT

    listen(test, damaged)


def test_a_driver_that_can_be_heard_is_fine_with_the_doctor(driver: DriverCalls) -> None:
    said = check(driver.load, lambda: "580.159.04")
    assert said.verdict is Verdict.OK
    assert "nvidia:nvidia_dev_xid, nvswitch:nvswitch_dev_sxid" in said.finding
    assert "cannot be unloaded" in said.finding


def test_reports_that_no_one_could_take_are_told_when_someone_asks(driver: DriverCalls) -> None:
    loaded: list[Descriptors] = []

    def loader() -> Descriptors:
        loaded.append(driver.load())
        return loaded[0]

    async def test(listener: Listener, probe: DriverProbe) -> None:
        set_on_first_cpu(loaded[0].counts, [9, 9, 5, 0])
        assert probe.health().counters["dropped"] == 5
        await listener.until(lambda: any(isinstance(item, LostRecords) for item in listener.items))

    [lost] = [item for item in listen(test, loader).items if isinstance(item, LostRecords)]
    assert (lost.count, lost.probe) == (5, "driver")
