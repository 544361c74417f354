"""Something else stands at /dev/kmsg, at the start or later: it is named, and the other ears go on.

The daemon has mounts of its own: nobody else sees what is done to its /dev/kmsg.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from probes.bpf.availability import attach
from probes.bpf.unavailable import Unavailable
from tests.support import real_kernel_log
from tests.support.daemon import Daemon
from tests.support.fault_lab import Happened, fault, rounds
from tests.support.real_kernel_log import KMSG, drill_line, own_domain
from tests.support.status import probes
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.kmsg, pytest.mark.slow]

REASON: Final = "/dev/kmsg is not the kernel log device (char 1:11)"
MISSING: Final = "/dev/kmsg does not exist"
BIND: Final = 'mount --bind "$0" /dev/kmsg && exec "$@"'
WITHOUT: Final = "mount -t tmpfs none /dev && mknod /dev/null c 1 3 && mknod /dev/urandom c 1 9"
PRIVATE: Final = ("unshare", "--mount", "--propagation", "private", "sh", "-c")
KINDS: Final = ("/dev/null", "/dev/zero", "a FIFO", "/dev/full", "a directory", "a file", "nothing")


@pytest.fixture(autouse=True)
def _usable() -> None:
    """Skips where the test cannot write into the log, or have mounts of its own."""
    real_kernel_log.skip_unless_usable()
    if isinstance(found := attach(), Unavailable):
        pytest.skip(found.reason)
    found.close()
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    tried = subprocess.run([*PRIVATE, BIND, "/dev/null", "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no private mounts: {tried.stderr.strip()}")


def wrapper(kind: str, place: Path) -> tuple[str, ...]:
    """What makes /dev/kmsg that for the command behind it."""
    stand_in = place / "stand-in"
    match kind:
        case "nothing":
            return (*PRIVATE, f'{WITHOUT} && exec "$@"', "sh")
        case "a directory":
            return (*PRIVATE, f'{WITHOUT} && mkdir /dev/kmsg && exec "$@"', "sh")
        case "a file":
            stand_in.write_text("4,1,1,-;NVRM: Xid (PCI:0000:91:00): 79, pid=1, name=x, as it was saved\n")
        case "a FIFO":
            os.mkfifo(stand_in)
        case _:
            stand_in = Path(kind)
    return (*PRIVATE, BIND, str(stand_in))


def drill(pci: str, number: int) -> None:
    KMSG.write_text(f"{drill_line(pci, 43, number)}\n")


def numbers(daemon: Daemon, pci: str) -> list[int]:
    """The drills of this device that are told, each as often as it is counted."""
    found = [event for event in daemon.events(f"gpu={pci}.0") if event["kind"] == "xid"]
    return sorted(number for event in found for number in [event["process"]["pid"]] * event["count"])


@contextmanager
def listening(directory: Path, prefix: tuple[str, ...], *flags: str) -> Iterator[Daemon]:
    directory.mkdir()
    wanted = ["--allow-drills", "--gpu", "off", *flags]
    daemon = Daemon(directory, kmsg=KMSG, flags=wanted, wrapper=prefix)
    try:
        yield daemon.start()
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.log.read_text()
    finally:
        daemon.kill()


@pytest.mark.parametrize("kind", KINDS[:: rounds(short=2, long=1)])
@fault(
    "Something else stands at /dev/kmsg at the start",
    promise=2,
    promised="it says so and hears with what else there is",
)
def test_it_starts_all_the_same_and_hears_otherwise(tmp_path: Path, kind: str, happened: Happened) -> None:
    pci = f"{own_domain()}:91:00"
    reason = MISSING if kind == "nothing" else REASON
    with listening(tmp_path / "daemon", wrapper(kind, tmp_path)) as daemon:
        drill(pci, 1001)
        wait_for(lambda: numbers(daemon, pci) == [1001], "the drill", pause_s=0.05)
        found = probes(daemon)
        assert not found["kmsg"]["hears"]
        assert found["kmsg"]["reason"].startswith(reason)  # and names the container it is in
        assert found["bpf"]["hears"]
        assert found["klog"]["hears"]
        ready, body = daemon.get("/readyz")
        assert (ready, reason in body.decode()) == (200, True)
        assert [event for event in daemon.events() if not event["drill"] and event["kind"] == "xid"] == []
    happened(f"{kind}: named in status and /readyz; the line was told through eBPF and syslog(2)")


def within(daemon: Daemon, *command: str) -> None:
    """Run a command among the mounts that the daemon sees."""
    subprocess.run(["nsenter", "--target", str(daemon.pid), "--mount", *command], check=True)


@fault(
    "/dev/kmsg is replaced while it is read, and fails",
    promise=1,
    promised="it says so, and reads on where it was once the log is back",
)
def test_a_log_that_is_replaced_and_comes_back_is_read_on_where_it_was(
    tmp_path: Path, happened: Happened
) -> None:
    for tool in ("nsenter", "strace"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    pci = f"{own_domain()}:91:00"
    flags = ("--probes", "kmsg", "--ebpf", "off")
    with listening(tmp_path / "daemon", (*PRIVATE, 'exec "$@"', "sh"), *flags) as daemon:
        drill(pci, 1)
        wait_for(lambda: numbers(daemon, pci) == [1], "the first line")
        within(daemon, "mount", "--bind", "/dev/null", "/dev/kmsg")
        with failing_once(daemon):
            drill(pci, 2)
            wait_for(
                lambda: str(probes(daemon)["kmsg"]["reason"]).startswith(REASON), "it to be opened again"
            )
        ready, _ = daemon.get("/readyz")
        drill(pci, 3)
        within(daemon, "umount", "/dev/kmsg")
        lost = wait_for(
            lambda: numbers(daemon, pci)[-1] == 3 or probes(daemon)["kmsg"]["counters"]["lost"], "it"
        )
        if lost is not True:
            pytest.skip("others have overwritten the lines")
        drill(pci, 4)
        wait_for(lambda: numbers(daemon, pci) == [1, 2, 3, 4], "every line, once")
        assert ready == 503
        assert [event["detail"]["hears"] for event in daemon.events("kind=probe")] == [False, True]
    happened("4 lines, two of them printed while it was away: each told once; meanwhile /readyz was 503")


@contextmanager
def failing_once(daemon: Daemon) -> Iterator[None]:
    """The next read of the log fails with EIO, wherever its path leads now."""
    command = ["strace", "-f", "-p", str(daemon.pid), "-P", str(KMSG), "-e", "trace=read"]
    command += ["-e", "inject=read:error=EIO:when=1", "-o", "/dev/null"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        try:
            assert strace.stderr is not None
            said = strace.stderr.readline()
            if "attached" not in said:
                pytest.skip(said.strip())
            yield
        finally:
            strace.terminate()


def write_and_leave(fifo: Path, record: bytes) -> None:
    """One record, from a writer that is there for nothing else."""
    fd = os.open(fifo, os.O_WRONLY)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_WRONLY | os.O_DIRECT)
        os.write(fd, record)
    finally:
        os.close(fd)


@fault("The writer of a FIFO that stands for the log goes away", promise=1, promised="it hears the next one")
def test_a_fifo_is_heard_whoever_writes_it(tmp_path: Path, happened: Happened) -> None:
    fifo, writers = tmp_path / "kmsg", 100
    os.mkfifo(fifo)
    daemon = Daemon(tmp_path, kmsg=fifo, flags=["--gpu", "off"])
    try:
        daemon.start()
        for number in range(writers):
            at_us = 5_000_000 + number * 10_000_000
            line = f"4,{number},{at_us},-;NVRM: Xid (PCI:0000:91:00): 43, pid={number}, name=x, Ch 00000008\n"
            write_and_leave(fifo, line.encode())
        wait_for(lambda: len(daemon.events("since=0&limit=1000&kind=xid")) == writers, "every line")
        assert daemon.events("kind=gap") == daemon.events("kind=probe") == []
    finally:
        assert daemon.stop() == 0
    happened(f"{writers} writers one after another, nobody there in between: every line told once, no gap")
