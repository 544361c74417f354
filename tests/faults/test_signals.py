"""SIGTERM, SIGINT and SIGHUP in every state of the daemon, once and again.

Whatever it is doing, it ends with code 0 and without a traceback, and leaves nothing behind: no process, no
eBPF program, no socket file, no line that was heard and not kept.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from tests.mcp_server.speaking import Exchange, Session, call
from tests.support import fake_nvml
from tests.support.bcc import is_loaded
from tests.support.bpf import programs_of
from tests.support.daemon import Daemon
from tests.support.fake_nvml import Scenario, pci
from tests.support.fault_lab import Happened, fault, rounds
from tests.support.kernel_log import FakeKernelLog
from tests.support.left_behind import Family, catches
from tests.support.readers import Item, everything_kept
from tests.support.receiver import Answer, Receiver
from tests.support.waiting import wait_for

ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LIMIT_S: Final = 10.0
"""No figure of the daemon's, which ends within a second or two; systemd waits far longer before it kills."""
STEP_S: Final = 0.01
AGAIN_AFTER_S: Final = (0.0, 0.01, 0.1, 0.4, 0.002, 0.05, 0.15, 0.8)
"""When the second signal comes: while the first is taken, while streams end, while the journal closes."""
GPUS: Final = tuple(f"0000:{bus:02x}:00" for bus in range(0x10, 0x50))
PROMISED: Final = "it ends in order with code 0, and nothing is lost or left behind"


@pytest.fixture(autouse=True)
def _hang_up_is_not_ignored() -> Iterator[None]:
    """nohup(1) around the tests would be inherited by every daemon that they start."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


class Watched(Daemon):
    """A daemon that is ended by signals, and what is left of it."""

    def __init__(
        self, directory: Path, kmsg: Path, flags: Sequence[str] = (), environ: Mapping[str, str] | None = None
    ) -> None:
        if shutil.which("setsid") is None:
            pytest.skip("setsid is not installed")
        directory.mkdir(exist_ok=True)
        self.family = Family()
        self._programs: set[str] = set()
        super().__init__(
            directory,
            kmsg=kmsg,
            flags=flags,
            wrapper=("setsid",),  # a process group of its own, as a terminal gives to what it runs
            environ={**(environ or {}), **self.family.environ},
        )

    def wait_until_it_has_control(self) -> None:
        """Before that, a signal ends the interpreter, not the daemon."""
        wait_for(lambda: catches(self.pid, signal.SIGHUP), "its handlers", pause_s=0.001)

    def has_said(self, words: str) -> bool:
        """Whether these words stand in its log."""
        return words in self.log.read_text()

    def send(self, number: signal.Signals, *, to_group: bool = False) -> None:
        """A signal to it, or to its process group as Ctrl-C in a terminal does; none if it has ended."""
        with suppress(OSError):
            self._programs |= programs_of(self.pid)
        assert self._process is not None
        if self._process.poll() is None:
            (os.killpg if to_group else os.kill)(self.pid, number)

    def check_end(self) -> None:
        """It ends as promised."""
        process, self._process = self._process, None
        assert process is not None
        try:
            code = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"it did not end:\n{self.log.read_text()}") from None
        said = self.log.read_text()
        errors = [line for line in said.splitlines() if line.split()[1:2] == ["error"]]
        assert (code, "Traceback" in said, errors) == (0, False, []), f"{code}\n{said}"
        assert not self.socket.exists()
        wait_for(lambda: not self.family.living(), f"the end of {self.family.living()}")
        wait_for(lambda: not any(is_loaded(int(each)) for each in self._programs), "its eBPF programs to go")
        with socket.socket() as free:
            assert free.connect_ex(("127.0.0.1", self.port)) != 0, "somebody listens there still"


@contextmanager
def watched(daemon: Watched) -> Iterator[Watched]:
    """Whatever the test does, it does not outlive it."""
    try:
        yield daemon
    finally:
        daemon.kill()


@pytest.mark.slow
@fault("SIGTERM, SIGINT and SIGHUP at any point of the start", promise=4, promised=PROMISED)
def test_at_any_point_of_its_start_a_signal_ends_it_in_order(
    tmp_path: Path, kernel_log: FakeKernelLog, happened: Happened
) -> None:
    flags = ("--probes", "kmsg,bpf", "--gpu", "mock")
    with watched(Watched(tmp_path / "first", kernel_log.path, flags)) as whole:
        whole.spawn()
        whole.wait_until_it_has_control()
        begun_s = time.monotonic()
        wait_for(partial(whole.has_said, "listening on"), "the start to be done")
        lasts_s = 1.1 * (time.monotonic() - begun_s)
    times = rounds(short=6, long=max(3, int(lasts_s / STEP_S))) // 3 * 3
    for step in range(times):
        number = ENDING[step % 3]
        with watched(Watched(tmp_path / str(step), kernel_log.path, flags)) as daemon:
            daemon.spawn()
            daemon.wait_until_it_has_control()
            time.sleep(lasts_s * step / times)  # the moment is the fault, whatever it meets
            daemon.send(number, to_group=step % 2 == 1)
            if step % 4 == 3:
                daemon.send(number)
            daemon.check_end()
    happened(
        f"{times} starts ended, evenly over the time that one takes, by each signal in turn, "
        "every other time sent to the whole process group: code 0 each time, no traceback, and no process, "
        "eBPF program or socket file left"
    )


@fault("A signal, once and twice, while it waits for a state directory", promise=4, promised=PROMISED)
def test_while_it_waits_for_a_held_state_directory_a_signal_ends_it(
    running_daemon: Daemon, kernel_log: FakeKernelLog, tmp_path: Path, happened: Happened
) -> None:
    for place, number in enumerate(ENDING):
        flags = ("--state-dir", str(running_daemon.state_dir), "--gpu", "off")
        with watched(Watched(tmp_path / number.name, kernel_log.path, flags)) as second:
            second.spawn()
            wait_for(partial(second.has_said, "waiting for process"), "it to wait")
            second.send(number, to_group=True)
            for _ in range(place):
                second.send(number)
            second.check_end()
    assert running_daemon.get("/readyz")[0] == 200
    happened("ended by each of the 3 signals, one of them twice and one three times; the holder went on")


@contextmanager
def a_storm(daemon: Watched, log: FakeKernelLog) -> Iterator[None]:
    """Lines as fast as they are read."""
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            log.write(
                f"NVRM: Xid (PCI:0000:91:00): 31, pid={log.next_seq % 500}, name=x, line {log.next_seq}"
            )

    thread = threading.Thread(target=write, name="storm")
    thread.start()
    try:
        wait_for(lambda: daemon.events("kind=overflow"), "the storm to be told")
        yield
    finally:
        with log.path.open("rb", buffering=0) as rest:  # so that the writer never waits for a reader
            os.set_blocking(rest.fileno(), False)
            ended.set()
            while thread.is_alive():
                with suppress(BlockingIOError):
                    rest.read(65_536)


@contextmanager
def streams_that_nobody_reads(daemon: Watched, log: FakeKernelLog) -> Iterator[None]:
    """Streams of each kind, their clients stalled."""
    with ExitStack() as stack:
        session = Session(daemon.port)
        opened = [
            Exchange(daemon.port, "GET", "/events?since=0", receive_buffer=4096).head(),
            session.listen(receive_buffer=4096),
            session.post(call(1, "wait_for_xid", timeout_s=600), receive_buffer=4096),
        ]
        for each in opened:
            stack.callback(each.close)
        half = stack.enter_context(socket.create_connection(("127.0.0.1", daemon.port)))
        half.sendall(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
        wait_for(lambda: b'xidwatch_clients{transport="events"} 1.0' in daemon.get("/metrics")[1], "them")
        for number in range(200):
            log.write(f"NVRM: Xid (PCI:0000:91:00): 43, pid={number}, name=x, {'x' * 800}")
        yield


@contextmanager
def nvml_that_hangs(daemon: Watched, log: FakeKernelLog) -> Iterator[None]:
    """A question about the GPUs is under way, and no call of the library returns."""
    session = Session(daemon.port)
    with session.post(call(1, "get_gpu_health")):
        wait_for(lambda: any("daemon.gpu.worker" in each for each in daemon.family.living()), "the worker")
        log.write(f"NVRM: Xid (PCI:{pci(1)[:-2]}): 48, pid=9, name=x, DBE (double bit error)")
        wait_for(lambda: daemon.events("code=48"), "the fault")
        yield


@contextmanager
def sinks_that_hang(daemon: Watched, log: FakeKernelLog) -> Iterator[None]:
    """A webhook gives no answer, and a command does not end and has a child."""
    log.write("NVRM: Xid (PCI:0000:91:00): 48, pid=9, name=x, DBE (double bit error)")
    wait_for(lambda: any("sleep 1000" in each for each in daemon.family.living()), "the command to run")
    yield


@contextmanager
def nothing_at_all(daemon: Watched, log: FakeKernelLog) -> Iterator[None]:
    """It is idle."""
    yield


State = Callable[[Watched, FakeKernelLog], AbstractContextManager[None]]
STATES: Final[Mapping[str, State]] = {
    "idle": nothing_at_all,
    "in a storm": a_storm,
    "with streams that nobody reads": streams_that_nobody_reads,
    "while NVML hangs": nvml_that_hangs,
    "while two sinks hang": sinks_that_hang,
}
SINKS: Final = """
[[sink]]
name = "pager"
type = "webhook"
url = "%s/hook"

[[sink]]
name = "page"
type = "command"
command = ["/bin/sh", "-c", "sleep 1000 & sleep 1000"]
"""


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[Path]:
    """Settings of sinks that never come to an end with what they are given."""
    file = tmp_path / "sinks.toml"
    with Receiver(lambda received: Answer(hangs=True)) as receiver:
        file.write_text(SINKS % receiver.url)
        yield file


@pytest.mark.slow
@pytest.mark.parametrize("state", STATES)
@fault("A signal, and one more while it is ending, in every state", promise=4, promised=PROMISED)
def test_in_every_state_one_signal_ends_it_and_a_second_does_no_harm(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, hanging: Path, state: str, happened: Happened
) -> None:
    library = fake_nvml.build(tmp_path_factory.mktemp("nvml"))
    times = rounds(short=1, long=3 * len(AGAIN_AFTER_S))
    place = list(STATES).index(state)  # so that the few rounds of all states meet every moment
    for step in range(times):
        number, again_s = ENDING[(place + step) % 3], AGAIN_AFTER_S[(place * 2 + step) % len(AGAIN_AFTER_S)]
        directory = tmp_path / str(step)
        directory.mkdir()
        fleet = Scenario(directory, library)
        if state == "while NVML hangs":
            fleet.hangs()
        flags = ("--on-event", str(hanging), "--quiet-gap", "1s")
        with FakeKernelLog(directory / "kmsg") as log:
            daemon = Watched(directory, log.path, flags, fleet.environment())
            with watched(daemon), ExitStack() as stack:
                daemon.start()
                stack.enter_context(STATES[state](daemon, log))
                daemon.send(number, to_group=True)
                time.sleep(again_s)  # the moment is the fault
                daemon.send(ENDING[step % 3], to_group=True)
                daemon.check_end()
    happened(f"{state}: ended {times} ×, a second signal up to 0.8 s later: code 0 each time, nothing left")


@pytest.mark.slow
@fault("A signal while events are being written", promise=1, promised="nothing lost, nothing told twice")
def test_ended_again_and_again_while_it_writes_it_loses_and_doubles_nothing(
    tmp_path: Path, kernel_log: FakeKernelLog, happened: Happened
) -> None:
    times = rounds(short=4, long=100)
    written: list[int] = []
    enough = threading.Event()

    for gpu in GPUS:
        kernel_log.write(f"NVRM: GPU at PCI:{gpu}: GPU-11111111-2222-3333-4444-0000000000{gpu[5:7]}")

    def write() -> None:
        while not enough.is_set():
            gpu, pid = GPUS[len(written) % len(GPUS)], len(written)
            text = f"NVRM: Xid (PCI:{gpu}): 31, pid={pid}, name=x, MMU Fault"
            kernel_log.write(text, time_us=kernel_log.time_us + 200_000)
            written.append(pid)
            enough.wait(0.02)

    writer = threading.Thread(target=write, name="writer")
    with watched(Watched(tmp_path / "daemon", kernel_log.path, ("--gpu", "off"))) as daemon:
        daemon.spawn()
        writer.start()
        try:
            for step in range(times):
                wait_for(daemon.socket.exists, "it to serve")
                wait_for(partial(has_grown, written, len(written) + step % 5), "some lines more")
                daemon.send(ENDING[step % 3])
                if step % 2:
                    daemon.send(ENDING[step % 3])
                daemon.check_end()
                daemon.spawn()
        finally:
            enough.set()
            writer.join()
        wait_for(lambda: len(faults(daemon)) == len(written), f"all {len(written)} faults", pause_s=0.1)
        kept = faults(daemon)
        assert sorted(event["process"]["pid"] for event in kept) == written
        assert {event["count"] for event in kept} == {1}
        assert daemon.events("kind=gap") == []
    happened(f"{times} times ended while {len(written):,} faults were written: each is told once, and no gap")


def has_grown(written: Sequence[int], beyond: int) -> bool:
    return len(written) > beyond


def faults(daemon: Daemon) -> list[Item]:
    """Every fault that it keeps; none while it does not answer yet."""
    try:
        return [item for item in everything_kept(daemon) if item["kind"] == "xid"]
    except OSError:
        return []
