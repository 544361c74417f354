"""A node with invented GPUs and real processes on them, for what acts on the node."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from daemon.gpu.process import ProcessReader
from daemon.gpu.readings import (
    GpuProcess,
    Health,
    Identity,
    Link,
    MigLayout,
    NvLink,
    Processes,
    Reading,
)
from daemon.gpu.source import SourceName, SourceState, Sweep
from daemon.gpu.watch import GpuWatch
from tests.support.waiting import DEADLINE_S, wait_for

TERM_IGNORED = ("sh", "-c", "trap '' TERM; exec sleep 1000")
SLEEP = ("sleep", "1000")


def pci(gpu: int) -> str:
    return f"0000:{gpu + 1:02x}:00.0"


def uuid(gpu: int) -> str:
    return f"GPU-0000000{gpu}-1111-2222-3333-444444444444"


class FakeGpus:
    """A `GpuSource` whose GPUs have the processes that a test puts on them."""

    def __init__(self, count: int = 2, *, architecture: str = "hopper") -> None:
        self.gpus = [pci(gpu) for gpu in range(count)]
        self.architecture = architecture
        self.users: dict[str, list[int]] = {}
        self.silent: dict[str, str] = {}
        """GPU → why it does not answer."""
        self.lost: set[str] = set()
        self.links: Mapping[str, NvLink] = {}
        self.mig: Mapping[str, MigLayout] = {}
        self.mock = False
        self.released = 0
        self.forgiven: list[str] = []

    def put(self, pid: int, gpu: int = 0) -> None:
        self.users.setdefault(pci(gpu), []).append(pid)

    def state(self) -> SourceState:
        return SourceState(SourceName.OK, mock=self.mock)

    async def listed(self) -> Sequence[str] | None:
        return None

    async def inventory(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        return self._sweep(gpus, lambda gpu: Reading(gpu, answered=True, identity=self._identity(gpu)))

    async def health(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        return self._sweep(gpus, lambda gpu: Reading(gpu, answered=True, health=Health()))

    async def processes(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        def read(gpu: str) -> Reading:
            found = tuple(GpuProcess(pid, "compute", 2**30) for pid in self.users.get(gpu, []))
            return Reading(gpu, answered=True, processes=Processes(processes=found))

        return self._sweep(gpus, read)

    async def nvlink(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        none = NvLink(unread={"links": "this GPU has no NVLink"})
        return self._sweep(gpus, lambda gpu: Reading(gpu, answered=True, nvlink=self.links.get(gpu, none)))

    async def costly(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        return self._sweep(gpus, lambda gpu: Reading(gpu, answered=True))

    async def close(self) -> None:
        pass

    def release(self) -> None:
        self.released += 1

    def forgive(self, gpu: str) -> None:
        self.forgiven.append(gpu)

    def _identity(self, gpu: str) -> Identity:
        index = self.gpus.index(gpu)
        mig = self.mig.get(gpu, MigLayout(enabled=False, gpu_instances=()))
        return Identity(
            gpu, index=index, minor_number=index, uuid=uuid(index), architecture=self.architecture, mig=mig
        )

    def _sweep(self, gpus: Sequence[str] | None, read: Callable[[str], Reading]) -> Sweep:
        readings = []
        for gpu in self.gpus if gpus is None else gpus:
            if gpu in self.lost:
                readings.append(Reading(gpu, answered=False, trouble="lost", reason="GPU is lost"))
            elif gpu in self.silent:
                readings.append(Reading(gpu, answered=False, trouble="hung", reason=self.silent[gpu]))
            else:
                readings.append(read(gpu))
        return Sweep(self.state(), tuple(readings))


def linked_to(*gpus: int) -> NvLink:
    """NVLinks to other GPUs."""
    links = (Link(number, up=True, remote_type="gpu", remote_pci=pci(gpu)) for number, gpu in enumerate(gpus))
    return NvLink(links=tuple(links))


def watch_of(gpus: FakeGpus) -> GpuWatch:
    """A watch over them that knows of no events."""

    async def no_events() -> tuple[()]:
        return ()

    return GpuWatch(gpus, recent_events=no_events, wall_us=lambda: 1_790_000_000_000_000)


def host_reader() -> ProcessReader:
    """A reader of this machine's processes, also where tests run in a pid namespace of their own."""
    return ProcessReader(host_pids=True)


class Stranger:
    """A running process that is no child of this one: a test's own children count as its workers."""

    def __init__(self, *command: str, before: str = "") -> None:
        """`command` ends up as `sleep 1000`. `before` is shell code, run right before the fork."""
        script = f'{before}\n"$@" >/dev/null 2>&1 </dev/null & echo $!'
        said = subprocess.run(
            ["sh", "-c", script, "sh", *(command or SLEEP)], stdout=subprocess.PIPE, text=True, check=True
        )
        self.pid = int(said.stdout)
        self._pidfd = os.pidfd_open(self.pid)
        # Past fork and exec, and past what a shell does before its own exec.
        wait_for(lambda: b"sleep\x001000" in self.command_line(), "the program to run")

    def command_line(self) -> bytes:
        with suppress(OSError):
            return Path(f"/proc/{self.pid}/cmdline").read_bytes()
        return b""

    @property
    def runs(self) -> bool:
        """False once it has ended, reaped or not."""
        try:
            signal.pidfd_send_signal(self._pidfd, 0)
        except ProcessLookupError:
            return False
        with suppress(FileNotFoundError):
            stat = Path(f"/proc/{self.pid}/stat").read_bytes()
            return stat.rpartition(b")")[2].split()[0] not in (b"Z", b"X")
        return False

    def end_now(self) -> None:
        """Kill it, and wait until it has ended."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        wait_for(lambda: not self.runs, "its end")

    def end(self) -> None:
        """The same, for good."""
        self.end_now()
        os.close(self._pidfd)


@contextmanager
def stranger(*command: str, before: str = "") -> Iterator[Stranger]:
    """One that is ended with the block."""
    process = Stranger(*command, before=before)
    try:
        yield process
    finally:
        process.end()


def recycled(process: Stranger) -> Stranger:
    """End the process; another one that has its pid now. Skips the test where nobody can bring that about."""
    process.end_now()
    wait_for(lambda: not Path(f"/proc/{process.pid}").exists(), "its pid to be free")
    last_pid = Path("/proc/sys/kernel/ns_last_pid")
    if not os.access(last_pid, os.W_OK):
        pytest.skip("the kernel does not let this user choose the next pid")
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        another = Stranger(before=f"echo {process.pid - 1} > {last_pid}")
        if another.pid == process.pid:
            return another
        another.end()
    raise AssertionError(f"nobody got pid {process.pid} again")
