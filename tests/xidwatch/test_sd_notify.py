"""sd_notify: what the service manager hears, over a real datagram socket."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from probes.health import ProbeHealth
from tests.support.daemon import Daemon
from tests.support.frozen import frozen_file_system
from tests.support.kernel_log import FakeKernelLog
from tests.support.waiting import DEADLINE_S, wait_for
from xidwatch.sd_notify import SdNotify
from xidwatch.serve import in_one_line

XID = "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus."


class Listening:
    """The service manager's end."""

    def __init__(self, name: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(name)
        self.socket.settimeout(DEADLINE_S)

    def next(self) -> list[str]:
        """The assignments of the next message; waits for it."""
        return self.socket.recv(65_536).decode().split("\n")

    def waiting(self) -> list[str]:
        """What has come and was not taken yet."""
        found: list[str] = []
        self.socket.setblocking(False)
        try:
            while True:
                found += self.next()
        except BlockingIOError:
            return found
        finally:
            self.socket.settimeout(DEADLINE_S)


@contextmanager
def listening(name: str) -> Iterator[Listening]:
    listener = Listening(name)
    try:
        yield listener
    finally:
        listener.socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Listening]:
    with listening(str(tmp_path / "notify")) as listener:
        yield listener


def notify_socket(listener: Listening) -> dict[str, str]:
    return {"NOTIFY_SOCKET": str(listener.socket.getsockname())}


def test_ready_comes_with_a_line_for_people(systemd: Listening) -> None:
    notify = SdNotify.of(notify_socket(systemd))
    notify.ready(lambda: "hears the kernel log\nthrough kmsg")
    assert systemd.next() == ["READY=1", "STATUS=hears the kernel log through kmsg"]
    notify.stopping()
    assert systemd.next() == ["STOPPING=1"]


def test_a_status_that_is_no_unicode_is_told_all_the_same(systemd: Listening) -> None:
    SdNotify.of(notify_socket(systemd)).ready(lambda: "hears nothing: /dev/\udcff: not found")
    assert systemd.next() == ["READY=1", "STATUS=hears nothing: /dev/?: not found"]


def test_an_address_in_the_abstract_namespace_is_understood() -> None:
    name = f"xidwatch-test-{os.getpid()}"
    with listening(f"\0{name}") as systemd:
        SdNotify.of({"NOTIFY_SOCKET": f"@{name}"}).ready(lambda: "")
        assert systemd.next() == ["READY=1"]


def test_the_variables_are_not_left_to_the_programs_that_the_daemon_starts(systemd: Listening) -> None:
    environ = {**notify_socket(systemd), "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1", "HOME": "/"}
    SdNotify.of(environ)
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize("address", ["", "relative/path", "vsock:2:1234"])
def test_without_a_socket_nothing_is_done(address: str) -> None:
    notify = SdNotify.of({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000"})
    notify.ready(lambda: "hears")  # no loop runs: a ping would raise
    notify.stopping()
    notify.close()


def test_the_watchdog_is_pinged_twice_in_its_time_and_told_a_status_that_changed(systemd: Listening) -> None:
    notify = SdNotify.of(
        {**notify_socket(systemd), "WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid())}
    )
    hears = iter(["hears", "hears"])

    async def serve() -> list[list[str]]:
        notify.ready(lambda: next(hears, "hears nothing"))
        said = [await asyncio.to_thread(systemd.next) for _ in range(5)]
        notify.close()
        return said

    ping = ["WATCHDOG=1"]
    assert asyncio.run(serve()) == [["READY=1", "STATUS=hears"], ping, ping, ["STATUS=hears nothing"], ping]


def test_a_status_that_cannot_be_made_does_not_look_like_a_loop_that_stands_still(systemd: Listening) -> None:
    notify = SdNotify.of({**notify_socket(systemd), "WATCHDOG_USEC": "20000"})

    async def serve() -> list[list[str]]:
        reported: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        hears = iter(["hears"])
        notify.ready(lambda: next(hears))
        said = [await asyncio.to_thread(systemd.next) for _ in range(3)]
        notify.close()
        assert reported
        return said

    assert asyncio.run(serve())[1:] == [["WATCHDOG=1"], ["WATCHDOG=1"]]


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"WATCHDOG_USEC": ""},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "-5"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "9" * 5_000},
        {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"},
    ],
)
def test_no_timer_runs_where_no_watchdog_waits_for_this_process(
    systemd: Listening, variables: dict[str, str]
) -> None:
    notify = SdNotify.of({**notify_socket(systemd), **variables})
    notify.ready(lambda: "hears")  # no loop runs: a timer would raise
    assert systemd.waiting() == ["READY=1", "STATUS=hears"]


def test_a_service_manager_that_takes_nothing_does_not_hold_the_loop_up(systemd: Listening) -> None:
    notify = SdNotify.of(notify_socket(systemd))
    for _ in range(5_000):  # more than net.unix.max_dgram_qlen has room for
        notify.stopping()
    assert systemd.waiting()


def test_a_service_manager_that_has_gone_is_no_error(
    systemd: Listening, caplog: pytest.LogCaptureFixture
) -> None:
    notify = SdNotify.of(notify_socket(systemd))
    systemd.socket.close()
    notify.ready(lambda: "hears")
    assert "cannot tell systemd READY=1" in caplog.text


def test_the_status_says_what_is_heard_and_what_is_not() -> None:
    ebpf = ProbeHealth("bpf", hears=False, live=True, reason="CAP_BPF is missing")
    assert in_one_line([ProbeHealth("kmsg", hears=True, live=True)]) == "hears the kernel log through kmsg"
    assert in_one_line([ebpf]) == "hears nothing; not through bpf: CAP_BPF is missing"


def test_a_daemon_is_ready_when_it_answers_and_says_when_it_stops(
    systemd: Listening, tmp_path: Path, kernel_log: FakeKernelLog
) -> None:
    daemon = Daemon(tmp_path, kmsg=kernel_log.path, environ=notify_socket(systemd))
    try:
        daemon.spawn()
        ready, status = systemd.next()
        assert ready == "READY=1"
        assert status.startswith("STATUS=hears the kernel log through kmsg")
        assert daemon.get("/readyz")[0] == 200
    finally:
        assert daemon.stop() == 0
    assert systemd.waiting() == ["STOPPING=1"]


def test_a_disk_that_hangs_does_not_stop_the_pings(
    systemd: Listening, tmp_path: Path, kernel_log: FakeKernelLog
) -> None:
    watchdog = {**notify_socket(systemd), "WATCHDOG_USEC": "200000"}
    with frozen_file_system(tmp_path) as disk:
        disk.thaw()
        daemon = Daemon(tmp_path, kmsg=kernel_log.path, environ=watchdog)
        daemon.state_dir = disk.path / "state"
        try:
            daemon.start()
            disk.freeze()
            kernel_log.write(XID)
            unstored = wait_for(lambda: [each for each in daemon.events() if not each["stored"]], "the event")
            systemd.waiting()
            for _ in range(5):
                assert systemd.next() == ["WATCHDOG=1"]
            assert unstored[0]["code"] == 79
        finally:
            disk.thaw()
            daemon.stop()
