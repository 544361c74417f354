"""The real kernel log cleared, closed by its settings, failing and of another boot, while the daemon listens.

Each line of a test has a number of its own and is written into /dev/kmsg, so what has to be told is known
without asking the daemon. Others write into the same log: a test in which they overwrote lines that were not
read yet shows nothing, and is skipped.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from probes.bpf.availability import attach
from probes.bpf.unavailable import Unavailable
from tests.support import real_kernel_log
from tests.support.command import xidwatch
from tests.support.daemon import Daemon
from tests.support.fault_lab import Happened, fault, rounds
from tests.support.real_kernel_log import KMSG, drill_line, own_domain
from tests.support.status import probes
from tests.support.waiting import DEADLINE_S, wait_for

pytestmark = [pytest.mark.kmsg, pytest.mark.slow]

SYSCTLS = Path("/proc/sys/kernel")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
BIND = 'mount --bind "$0" "$1" && shift && exec "$@"'
"""A script for `sh -c`: the first argument stands at the place of the second one for all that follows."""
READ_ERRORS = {"EIO": True, "ENODEV": True, "EINVAL": False, "EPIPE": False, "EAGAIN": False}
"""And whether the log is then given up and opened anew."""


@pytest.fixture(autouse=True)
def _usable() -> None:
    real_kernel_log.skip_unless_usable()


class Lines:
    """Drills of one device, numbered by their pids, and what is told of them."""

    def __init__(self) -> None:
        self.pci = f"{own_domain()}:91:00"
        self.written: list[int] = []

    def write(self) -> int:
        """One more, in a file of its own as far as the kernel's rate limit is concerned; its number."""
        number = 1000 + len(self.written)
        KMSG.write_text(f"{drill_line(self.pci, 43, number)}\n")
        self.written.append(number)
        return number

    def told(self, daemon: Daemon) -> list[dict[str, Any]]:
        """The events of them, in their order."""
        return [event for event in daemon.events(f"gpu={self.pci}.0") if event["kind"] == "xid"]

    def numbers(self, daemon: Daemon) -> list[int]:
        """The numbers that are told, each as often as it is counted."""
        return sorted(
            number for event in self.told(daemon) for number in [event["process"]["pid"]] * event["count"]
        )

    def wait(self, daemon: Daemon) -> None:
        """Until the newest line is told. Skips the test where others' lines pushed something out."""

        def told() -> bool:
            return self.written[-1] in self.numbers(daemon) or lost(daemon) > 0 or self._is_crowded(daemon)

        wait_for(told, f"line {self.written[-1]}", pause_s=0.05)
        if lost(daemon):
            pytest.skip("others wrote so much that the kernel log was overwritten before it was read")
        if self._is_crowded(daemon):
            pytest.skip("others wrote so many drills that they were counted together with these")

    def _is_crowded(self, daemon: Daemon) -> bool:
        """Whether some of these were folded: devices that are no GPU of this node share few events."""
        return bool(daemon.events(f"kind=overflow&gpu={self.pci}.0"))

    def check(self, daemon: Daemon) -> None:
        """Every line is told once."""
        self.wait(daemon)
        assert self.numbers(daemon) == self.written


def lost(daemon: Daemon) -> int:
    """Records that the daemon says it lost."""
    return sum(probe["counters"].get("lost", 0) for probe in probes(daemon).values())


def changes(daemon: Daemon) -> Counter[bool]:
    """How often /dev/kmsg went down (False) and came back (True), by the events of it."""
    told: Counter[bool] = Counter()
    for event in daemon.events("kind=probe"):
        assert event["detail"]["probe"] == "kmsg"
        told[event["detail"]["hears"]] += event["count"]
    return told


@contextmanager
def listening(directory: Path, *flags: str, **options: Any) -> Iterator[Daemon]:
    directory.mkdir(exist_ok=True)
    flags = ("--allow-drills", "--gpu", "off", *flags)
    daemon = Daemon(directory, kmsg=KMSG, flags=flags, **options)
    try:
        yield daemon.start()
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.log.read_text()
    finally:
        daemon.kill()


def clear_the_log(action: str) -> None:
    """`dmesg -C` or `-c`: what was printed before is no longer shown by syslog(2)."""
    if shutil.which("dmesg") is None:
        pytest.skip("dmesg is not installed")
    done = subprocess.run(["dmesg", action], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"dmesg {action}: {done.stderr.decode().strip()}")


@pytest.mark.parametrize("names", ["kmsg,klog", "klog"])
@fault("The kernel log is cleared (`dmesg -C`, `dmesg -c`)", promise=2, promised="what is lost is told")
def test_what_was_cleared_before_it_was_read_is_told_or_told_as_lost(
    tmp_path: Path, names: str, happened: Happened
) -> None:
    lines = Lines()
    times = rounds(short=2, long=40)
    with listening(tmp_path, "--probes", names, "--ebpf", "off") as daemon:
        lines.write()
        lines.wait(daemon)
        for step in range(times):
            os.kill(daemon.pid, signal.SIGSTOP)
            lines.write()
            clear_the_log(("-C", "-c")[step % 2])
            lines.write()
            os.kill(daemon.pid, signal.SIGCONT)
            lines.wait(daemon)
        numbers = lines.numbers(daemon)
        missing = set(lines.written) - set(numbers)
        gaps = sum(event["count"] for event in daemon.events("kind=gap"))
        assert len(numbers) == len(set(numbers))
        if names == "klog":  # each line that was cleared unread is one hole of unknown size
            assert (len(missing), gaps) == (times, times)
        assert names == "klog" or not missing  # /dev/kmsg shows them all the same
        says = f"{len(missing)} hidden lines told as {gaps} gaps of unknown size" if missing else "no gap"
    happened(
        f"through {names}: {len(lines.written)} lines, cleared {times} times between them: {says}, each "
        "other line told once"
    )


@contextmanager
def sysctl(name: str, value: str) -> Iterator[None]:
    """A setting of the kernel for a moment; skips where it cannot be changed."""
    path = SYSCTLS / name
    before = path.read_text()
    try:
        path.write_text(f"{value}\n")
    except OSError as error:
        pytest.skip(f"kernel.{name} cannot be set: {error.strerror}")
    try:
        yield
    finally:
        path.write_text(before)


@fault("The settings of the kernel log change while it is read", promise=1, promised="it goes on hearing")
def test_sysctls_that_change_while_it_listens_take_nothing_from_it(
    tmp_path: Path, happened: Happened
) -> None:
    settings = [
        ("printk", "1 1 1 1"),
        ("printk", "8 8 1 8"),
        ("printk_devkmsg", "on"),
        ("printk_devkmsg", "ratelimit"),
        ("dmesg_restrict", "0"),
        ("dmesg_restrict", "1"),
    ]
    lines = Lines()
    probes_wanted = "kmsg,klog" if isinstance(attach(), Unavailable) else "kmsg,klog,bpf"
    with listening(tmp_path, "--probes", probes_wanted) as daemon:
        for name, value in settings:
            with sysctl(name, value):
                lines.write()
                lines.wait(daemon)
        with sysctl("printk_devkmsg", "off"):
            pass  # nobody may write or open it now; for a moment only, since others do
        lines.write()
        lines.check(daemon)
        assert all(probe["hears"] for probe in probes(daemon).values())
        assert not changes(daemon)
    happened(f"{len(settings) + 1} changes: {len(lines.written)} lines, each told once, no probe went down")


@contextmanager
def failing_reads(daemon: Daemon, error: str, which: str) -> Iterator[None]:
    """While the block runs, reads of /dev/kmsg fail so; `which` as strace's `when` has it."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    command = ["strace", "-f", "-p", str(daemon.pid), "-P", str(KMSG), "-e", "trace=read"]
    command += ["-e", f"inject=read:error={error}:when={which}", "-o", "/dev/null"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        try:
            assert strace.stderr is not None
            said = strace.stderr.readline()
            if "attached" not in said:
                pytest.skip(said.strip())
            yield
        finally:
            strace.send_signal(signal.SIGINT)
            strace.communicate(timeout=DEADLINE_S)


@fault("Reading /dev/kmsg fails", promise=1, promised="it is opened again, and no line is lost or told twice")
def test_after_read_errors_every_line_is_told_once(tmp_path: Path, happened: Happened) -> None:
    lines = Lines()
    times = rounds(short=1, long=10)
    with listening(tmp_path, "--ebpf", "off") as daemon:
        for error in [*READ_ERRORS] * times:
            with failing_reads(daemon, error, "1"):
                lines.write()
                lines.write()
                lines.wait(daemon)
            lines.write()
            lines.wait(daemon)
        lines.check(daemon)
        counters = probes(daemon)["kmsg"]["counters"]
        reopened = times * sum(READ_ERRORS.values())
        assert (counters["reopened"], counters["refused"]) == (reopened, times)
        assert counters["overruns"] >= times
        assert changes(daemon) == {False: reopened, True: reopened}
    happened(
        f"{', '.join(READ_ERRORS)}, {times} × each: {len(lines.written)} lines, each told once; given up "
        f"and opened again {reopened} times, each time told"
    )


@fault("Every read of /dev/kmsg fails", promise=2, promised="that it cannot hear is said everywhere")
def test_a_log_that_can_never_be_read_is_said_wherever_one_looks(tmp_path: Path, happened: Happened) -> None:
    lines = Lines()
    with listening(tmp_path, "--ebpf", "off") as daemon:
        with failing_reads(daemon, "EIO", "1+"):
            lines.write()
            wait_for(lambda: changes(daemon)[False], "the loss of its hearing to be told")
            wait_for(lambda: not probes(daemon)["kmsg"]["hears"], "it to be down")
            ready, body = daemon.get("/readyz")
            shown = xidwatch("status", "--socket", str(daemon.socket)).out
            healthy = daemon.get("/healthz")[0]
            metrics = daemon.get("/metrics")[1].decode()
        assert (ready, healthy) == (503, 200)
        assert "input/output error" in body.decode()
        assert "input/output error" in shown
        assert 'xidwatch_probe_up{probe="kmsg"} 0.0' in metrics
        lines.check(daemon)
        assert changes(daemon)[True]
    happened("told as an event, and in status, /readyz (503) and /metrics; afterwards the line was told once")


def bound(source: Path, target: Path) -> tuple[str, ...]:
    """A wrapper: for the command, and nobody else, `source` stands in the place of `target`."""
    for tool in ("unshare", "mount"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    private = ("unshare", "--mount", "--propagation", "private")
    wrapper = (*private, "sh", "-c", BIND, str(source), str(target))
    tried = subprocess.run([*wrapper, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no private mounts: {tried.stderr.strip()}")
    return wrapper


@fault(
    "Another boot", promise=1, promised="its log is read from the start, and what is missing of it is a gap"
)
def test_the_log_of_another_boot_is_told_from_its_beginning(tmp_path: Path, happened: Happened) -> None:
    lines = Lines()
    with listening(tmp_path, "--ebpf", "off") as daemon:
        lines.write()
        lines.wait(daemon)
        [first] = lines.told(daemon)
        assert daemon.events("kind=gap") == []
    other = tmp_path / "boot_id"
    other.write_text(f"{secrets.token_hex(4)}-1111-4222-8333-444444444444\n")
    oldest_before = real_kernel_log.oldest()
    with listening(tmp_path, "--ebpf", "off", wrapper=bound(other, BOOT_ID)) as daemon:
        wait_for(
            lambda: len(lines.told(daemon)) > 1 or real_kernel_log.oldest() > first["kmsg_seq"], "the log"
        )
        if len(lines.told(daemon)) == 1:
            pytest.skip("others have overwritten the line")
        oldest_after = real_kernel_log.oldest()
        second = lines.told(daemon)[-1]
        [gap] = [event for event in daemon.events("kind=gap") if event["detail"]["first_seq"] == 0]
        assert oldest_before <= gap["detail"]["last_seq"] + 1 <= oldest_after
        assert second["boot_id"] == other.read_text().strip() != first["boot_id"]
        assert (second["id"] == first["id"], second["cursor"] > first["cursor"]) == (False, True)
        size = gap["detail"]["lost_records"]
    happened(f"a line of the new boot told as of that boot, and its records 0 to {size - 1:,} as a gap")
