"""A fault's process after its end: real processes, a real tracker in the kernel, and what clients see.

The lines come through a FIFO, since only the kernel writes lines of its own into /dev/kmsg.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from mcp_server.wire import PageOut
from probes.bpf import tracker
from probes.bpf.ended import Known
from probes.bpf.unavailable import Unavailable
from tests.support.bpf import programs, programs_of
from tests.support.command import xidwatch
from tests.support.daemon import Daemon
from tests.support.gpu_process import CONTAINER_ID, cgroup, device_node, running
from tests.support.kernel_log import FakeKernelLog
from tests.support.tool_calls import answer
from tests.support.waiting import wait_for

USERSPACE = 1 << 3 | 4
POD = f"kubepods-pod{os.getpid()}.slice"


@pytest.fixture(scope="module")
def device() -> Iterator[int]:
    """A file like the driver's. Skips, with the reason, where the tracker cannot run."""
    found = tracker.attach()
    if isinstance(found, Unavailable):
        pytest.skip(found.reason)
    found.descriptors.close()
    os.close(found.watched)
    if Known.FILES not in found.known:
        pytest.skip("the kernel has no BTF")
    with device_node() as file:
        yield file


@pytest.fixture
def daemon(running_log: FakeKernelLog, shared_daemon: Daemon) -> Daemon:
    """A daemon whose kernel log went on for a minute since the test before."""
    running_log.time_us += 60_000_000
    return shared_daemon


@pytest.fixture(scope="module")
def running_log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeKernelLog]:
    with FakeKernelLog(tmp_path_factory.mktemp("log") / "kmsg") as log:
        yield log


@pytest.fixture(scope="module")
def shared_daemon(
    tmp_path_factory: pytest.TempPathFactory, running_log: FakeKernelLog, device: int
) -> Iterator[Daemon]:
    flags = ("--ebpf", "required", "--allow-drills")
    daemon = Daemon(tmp_path_factory.mktemp("daemon"), kmsg=running_log.path, flags=flags)
    try:
        yield daemon.start()
    finally:
        daemon.stop()
    assert "Traceback" not in daemon.log.read_text()


def fault(log: FakeKernelLog, pid: int, *, name: str = "sleep", code: int = 31, priority: int = 4) -> None:
    log.write(f"NVRM: Xid (PCI:0000:91:00): {code}, pid={pid}, name={name}, MMU Fault", priority=priority)


def event_of(daemon: Daemon, pid: int) -> dict[str, Any]:
    """The event that names this process; {} while there is none."""
    found = [each for each in daemon.events() if each["process"] and each["process"]["pid"] == pid]
    return found[-1] if found else {}


def ending_of(daemon: Daemon, pid: int) -> dict[str, Any]:
    """Its process, once it is known how that ended."""

    def known() -> dict[str, Any] | None:
        process: dict[str, Any] = event_of(daemon, pid).get("process") or {}
        return process if process.get("exited_after_us") is not None else None

    return wait_for(known, "the end of the process")


def test_a_fault_tells_the_container_of_a_process_that_was_gone_with_it(
    daemon: Daemon, running_log: FakeKernelLog, device: int
) -> None:
    path = f"{POD}/cri-containerd-{CONTAINER_ID}.scope"
    with cgroup("cgroup2", path) as group, running(device, in_cgroup=group) as process:
        process.end(signal.SIGKILL)
    assert not group.exists()
    fault(running_log, process.pid)
    ending = ending_of(daemon, process.pid)
    assert ending["container_id"] == CONTAINER_ID
    assert ending["in_container"] is True
    assert ending["cgroup"] == f"/{path}"
    assert (ending["exit_signal"], ending["exit_code"]) == (9, None)
    assert ending["exited_after_us"] < 0
    event = event_of(daemon, process.pid)
    assert event["revision"] > 1
    words = "was killed by signal 9 (SIGKILL)"
    assert words in xidwatch("tail", "--since", "0", "--socket", str(daemon.socket)).out
    _, text = answer(daemon.url, "get_xid_events", PageOut, since=event["cursor"] - 1)
    assert f"in container {CONTAINER_ID[:12]}, {words}" in text


def test_a_process_that_dies_of_its_fault_tells_how_long_after(
    daemon: Daemon, running_log: FakeKernelLog, device: int
) -> None:
    with running(device) as process:
        before_us = time.monotonic_ns() // 1000
        fault(running_log, process.pid)
        event = wait_for(lambda: event_of(daemon, process.pid), "the event")
        assert event["process"]["exited_after_us"] is None
        process.end(signal.SIGABRT)
        took_us = time.monotonic_ns() // 1000 - before_us
    ending = ending_of(daemon, process.pid)
    assert ending["exit_signal"] == signal.SIGABRT
    assert 0 < ending["exited_after_us"] < took_us
    assert event_of(daemon, process.pid)["id"] == event["id"]


def test_an_exit_code_is_told_of_a_process_that_has_let_go_of_the_device(
    daemon: Daemon, running_log: FakeKernelLog
) -> None:
    with running(command=("sh", "-c", "read wait; exit 3")) as process:
        fault(running_log, process.pid, name="sh")
        wait_for(lambda: event_of(daemon, process.pid), "the event")
        wait_for(lambda: state(daemon)["counters"]["waiting"] >= 1, "the tracker to watch the process")
        process.wait()
    ending = ending_of(daemon, process.pid)
    assert (ending["exit_code"], ending["exit_signal"]) == (3, None)


def test_neither_a_drill_nor_a_process_of_another_name_is_told_of(
    daemon: Daemon, running_log: FakeKernelLog, device: int
) -> None:
    with running(device) as drilled, running(device) as renamed, running(device) as last:
        fault(running_log, drilled.pid, priority=USERSPACE)
        fault(running_log, renamed.pid, name="python3")
        fault(running_log, last.pid)
        for process in (drilled, renamed, last):
            wait_for(partial(event_of, daemon, process.pid), "the event")
            process.end()
    ending_of(daemon, last.pid)
    assert event_of(daemon, drilled.pid)["drill"]
    for process in (drilled, renamed):
        ending = event_of(daemon, process.pid)["process"]
        assert (ending["exited_after_us"], ending["cgroup"], ending["exit_signal"]) == (None, None, None)


def test_the_tracker_says_that_it_runs_and_is_no_ear(daemon: Daemon) -> None:
    assert state(daemon)["runs"]
    assert state(daemon)["counters"]["told"] >= 1
    shown = xidwatch("status", "--socket", str(daemon.socket))
    assert "told how processes end" in shown.out
    assert b"tracker" not in daemon.get("/readyz")[1]


def test_after_a_restart_nothing_is_made_up(kernel_log: FakeKernelLog, device: int) -> None:
    daemon = Daemon(kernel_log.path.parent, kmsg=kernel_log.path, flags=("--ebpf", "required"))
    try:
        daemon.start()
        with running(device) as process:
            fault(kernel_log, process.pid)
            wait_for(lambda: event_of(daemon, process.pid), "the event")
            daemon.kill()
            process.end()
        daemon.start()
        with running(device) as later:
            fault(kernel_log, later.pid, code=32)
            wait_for(lambda: event_of(daemon, later.pid), "the next event")
            later.end()
        ending_of(daemon, later.pid)
        ending = event_of(daemon, process.pid)["process"]
        assert (ending["exited_after_us"], ending["exit_code"], ending["exit_signal"]) == (None, None, None)
    finally:
        daemon.stop()
    assert "Traceback" not in daemon.log.read_text()


def test_three_capabilities_are_enough(kernel_log: FakeKernelLog, device: int) -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    wrapper = ("setpriv", "--bounding-set=-all,+bpf,+perfmon,+syslog", "--inh-caps=-all")
    directory = kernel_log.path.parent
    daemon = Daemon(directory, kmsg=kernel_log.path, flags=("--ebpf", "required"), wrapper=wrapper)
    try:
        daemon.start()
        with running() as process:  # it holds no device: the daemon must be able to ask for it
            fault(kernel_log, process.pid)
            wait_for(lambda: state(daemon)["counters"]["waiting"], "the tracker to watch the process")
            process.end()
        ending = ending_of(daemon, process.pid)
        assert ending["exit_signal"] == 9
        assert ending["cgroup"] is not None
    finally:
        daemon.stop()


def test_a_killed_daemon_leaves_no_program_in_the_kernel(kernel_log: FakeKernelLog, device: int) -> None:
    daemon = Daemon(kernel_log.path.parent, kmsg=kernel_log.path, flags=("--ebpf", "required"))
    try:
        daemon.start()
        own = programs_of(daemon.pid)
        assert len(own) >= 2  # an ear and the tracker
        assert own <= programs()
        daemon.kill()
        wait_for(lambda: not own & programs(), "the daemon's programs to be gone")
    finally:
        daemon.stop()


def state(daemon: Daemon) -> dict[str, Any]:
    """The tracker's part of the daemon's state."""
    result = xidwatch("status", "--json", "--socket", str(daemon.socket))
    found: dict[str, Any] = json.loads(result.out)["tracker"]
    return found
