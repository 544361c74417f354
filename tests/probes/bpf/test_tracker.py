"""The tracker in the kernel of this machine, about processes that really end."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from probes.bpf import tracker, tracker_load
from probes.bpf.ended import Ended, Known
from probes.bpf.syscalls import BpfError, Step
from probes.bpf.tracker import ProcessTracker, TrackerLoader
from probes.bpf.unavailable import State, Unavailable
from probes.health import Verdict
from tests.support.descriptors import open_descriptors
from tests.support.gpu_asking import until
from tests.support.gpu_process import CONTAINER_ID, cgroup, device_node, running
from tests.support.waiting import DEADLINE_S

POD = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice"
SCOPE = f"cri-containerd-{CONTAINER_ID}.scope"


class Told:
    """A tracker's listener that can be waited on."""

    def __init__(self) -> None:
        self.all: list[Ended] = []
        self._more = asyncio.Event()

    def __call__(self, process: Ended) -> None:
        self.all.append(process)
        self._more.set()

    async def of(self, pid: int) -> Ended:
        """The end of this process."""
        async with asyncio.timeout(DEADLINE_S):
            while not (found := [each for each in self.all if each.pid == pid]):
                self._more.clear()
                await self._more.wait()
        return found[0]


def end_many(many: int, device: int) -> None:
    """Let so many processes that hold the device come and go."""
    for _ in range(many):
        subprocess.run(["true"], pass_fds=(device,), check=True)


def accounted(hears: ProcessTracker) -> int:
    """The ends that were told, and those that are known to be lost."""
    counters = hears.health().counters
    return counters["told"] + counters["dropped"]


def start_ticks(pid: int) -> int:
    """Start of a process as /proc tells it."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


Test = Callable[[ProcessTracker, Told], Awaitable[None]]


@pytest.fixture(scope="module")
def tracked() -> None:
    """Skip, with the reason, where no program can be loaded or the kernel does not describe its types."""
    found = tracker.attach()
    if isinstance(found, Unavailable):
        pytest.skip(found.reason)
    found.descriptors.close()
    os.close(found.watched)
    if Known.FILES not in found.known:
        pytest.skip("the kernel has no BTF")


@pytest.fixture
def device(tracked: None) -> Iterator[int]:
    with device_node() as file:
        yield file


def track(test: Test, loader: TrackerLoader = tracker_load.load) -> None:
    """Run a test in an event loop with a tracker that hears."""

    async def main() -> None:
        told = Told()
        hears = ProcessTracker(told, loader=loader)
        hears.start()
        try:
            await test(hears, told)
        finally:
            hears.close()

    asyncio.run(main())


def test_the_end_of_a_process_that_held_a_device_is_told_with_its_signal(device: int) -> None:
    async def test(hears: ProcessTracker, told: Told) -> None:
        with running(device) as process:
            before_us = time.monotonic_ns() // 1000
            process.end(signal.SIGKILL)
            after_us = time.monotonic_ns() // 1000
        ended = await told.of(process.pid)
        assert (ended.name, ended.signal, ended.exit_code, ended.had_device) == ("sleep", 9, None, True)
        assert before_us <= ended.ended_us <= after_us
        assert hears.ended(process.pid) == ended
        assert hears.health().counters["told"] == 1

    track(test)


def test_an_exit_code_is_told_as_such_and_zero_is_one(device: int) -> None:
    async def test(hears: ProcessTracker, told: Told) -> None:
        for code in (0, 3, 255):
            with running(device, command=("sh", "-c", f"exit {code}")) as process:
                process.wait()
            ended = await told.of(process.pid)
            assert (ended.exit_code, ended.signal) == (code, None)

    track(test)


def test_a_process_without_a_device_is_told_of_only_when_it_was_asked_for(tracked: None) -> None:
    async def test(hears: ProcessTracker, told: Told) -> None:
        with running() as unknown, running() as asked_for:
            assert hears.watch(asked_for.pid)
            unknown.end()
            asked_for.end(signal.SIGTERM)
        ended = await told.of(asked_for.pid)
        assert (ended.signal, ended.had_device) == (15, False)
        assert [each.pid for each in told.all] == [asked_for.pid]
        assert hears.ended(unknown.pid) is None

    track(test)


def test_a_device_opened_before_the_tracker_began_counts(device: int) -> None:
    with running(device) as process:

        async def test(hears: ProcessTracker, told: Told) -> None:
            process.end()
            assert (await told.of(process.pid)).had_device

        track(test)


def test_a_process_of_many_threads_ends_once_with_the_last_of_them(device: int) -> None:
    program = (
        "import os, threading, sys\n"
        "for _ in range(8): threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "sys.stdin.read(); os._exit(7)\n"
    )

    async def test(hears: ProcessTracker, told: Told) -> None:
        with running(device, command=(sys.executable, "-c", program)) as process:
            process.wait()
        assert (await told.of(process.pid)).exit_code == 7
        with running(device) as last:
            last.end()
        await told.of(last.pid)
        assert [each.pid for each in told.all] == [process.pid, last.pid]

    track(test)


@pytest.mark.parametrize("kind", ["cgroup2", "memory"])
def test_the_cgroup_is_told_even_when_it_is_gone(device: int, kind: str) -> None:
    async def test(hears: ProcessTracker, told: Told) -> None:
        with cgroup(kind, f"{POD}/{SCOPE}") as group, running(device, in_cgroup=group) as process:
            process.end()
        assert not group.exists()
        assert (await told.of(process.pid)).cgroup == f"/{POD}/{SCOPE}"

    track(test)


def test_a_path_of_more_levels_than_are_told_begins_with_dots(device: int) -> None:
    levels = [f"level{number}" for number in range(9)]

    async def test(hears: ProcessTracker, told: Told) -> None:
        path = "/".join(levels)
        with cgroup("cgroup2", path) as group, running(device, in_cgroup=group) as process:
            process.end()
        assert (await told.of(process.pid)).cgroup == ".../" + "/".join(levels[1:])

    track(test)


def test_a_pid_namespace_is_seen_through(device: int) -> None:
    unshare = ("unshare", "--pid", "--fork", "--kill-child", "sh", "-c", "read wait; exit 4")
    if subprocess.run([*unshare[:4], "true"], check=False, stderr=subprocess.DEVNULL).returncode != 0:
        pytest.skip("no pid namespace can be made here")

    async def test(hears: ProcessTracker, told: Told) -> None:
        with running(device, command=unshare) as parent:
            parent.wait()
        await told.of(parent.pid)
        inside, outside = sorted(told.all, key=lambda each: each.ended_us)
        assert (outside.pid, outside.name, outside.own_pids) == (parent.pid, "unshare", False)
        assert (inside.name, inside.own_pids, inside.exit_code) == ("sh", True, 4)
        assert inside.pid > 1  # its id is the host's, not the 1 that it has itself

    track(test)


def test_the_start_tells_processes_of_one_pid_apart(device: int) -> None:
    async def test(hears: ProcessTracker, told: Told) -> None:
        with running(device) as process:
            ticks = start_ticks(process.pid)
            process.end()
        started_us = (await told.of(process.pid)).started_us
        assert started_us is not None
        assert started_us // 10_000 == ticks

    track(test)


def test_without_btf_what_cannot_be_found_is_unknown_and_never_zero(tracked: None) -> None:
    async def test(hears: ProcessTracker, told: Told) -> None:
        assert "exit codes and signals" in hears.blind_to
        with running() as process:
            hears.watch(process.pid)
            process.end()
        ended = await told.of(process.pid)
        assert ended == Ended(process.pid, ended.ended_us)

    track(test, lambda: tracker_load.load(btf=Path("/nonexistent")))


def test_ends_for_which_the_ring_had_no_room_are_counted(device: int) -> None:
    many = 150  # the ring holds 112

    async def test(hears: ProcessTracker, told: Told) -> None:
        end_many(many, device)  # the event loop does not turn meanwhile
        assert hears.health().counters["dropped"] > 0
        await until(lambda: accounted(hears) == many, "every end to be told or counted")

    track(test)


def test_only_the_last_of_many_processes_are_remembered(device: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker, "REMEMBERED", 2)

    async def test(hears: ProcessTracker, told: Told) -> None:
        pids = []
        for _ in range(3):
            with running(device) as process:
                process.end()
            await told.of(process.pid)
            pids.append(process.pid)
        assert [hears.ended(pid) is not None for pid in pids] == [False, True, True]

    track(test)


def test_closed_it_leaves_nothing_behind_and_says_so(tracked: None) -> None:
    before: set[int] = set()

    async def test(hears: ProcessTracker, told: Told) -> None:
        hears.close()
        assert open_descriptors() <= before | _of_the_loop()
        assert hears.unavailable is not None
        assert hears.unavailable.state is State.CLOSED
        assert not hears.watch(1)

    def _of_the_loop() -> set[int]:
        return {fd for fd in open_descriptors() if not _is_bpf(fd)}

    before = open_descriptors()
    track(test)
    assert open_descriptors() == before


def _is_bpf(fd: int) -> bool:
    try:
        return "bpf" in str(Path(f"/proc/self/fd/{fd}").readlink())
    except OSError:
        return False


def test_a_refused_program_is_a_state_with_its_reason() -> None:
    def refused() -> tracker_load.Tracker:
        raise BpfError(Step.CREATE_MAP, errno.ENOMEM)

    async def test(hears: ProcessTracker, told: Told) -> None:
        health = hears.health()
        assert not health.hears
        assert health.reason == "cannot create a map: cannot allocate memory"
        assert health.hint is None
        assert not hears.watch(1)

    track(test, refused)
    assert tracker.check(refused).verdict is Verdict.WARN


def test_the_doctor_is_told_what_works_and_what_is_not_known(tracked: None) -> None:
    assert tracker.check().verdict is Verdict.OK
    blind = tracker.check(lambda: tracker_load.load(btf=Path("/nonexistent")))
    assert blind.verdict is Verdict.WARN
    assert "exit codes and signals" in blind.finding
    assert blind.hint is not None
