"""eBPF that the kernel refuses half way, that is taken away while it hears, and whose compiler is killed.

/dev/kmsg hears beside it: every line has to be told once, whatever becomes of eBPF, and what became of it has
to be said. Lines are drills in the real log, numbered by their pids.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from probes.bpf.availability import attach
from probes.bpf.unavailable import Unavailable
from tests.support import bcc, real_kernel_log
from tests.support.bpf import programs_of
from tests.support.daemon import Daemon
from tests.support.fault_lab import Happened, fault, rounds
from tests.support.left_behind import Family
from tests.support.real_kernel_log import KMSG, drill_line, own_domain
from tests.support.status import probes
from tests.support.waiting import DEADLINE_S, wait_for

pytestmark = [pytest.mark.kmsg, pytest.mark.slow]

RINGBUF: Final = "27"
"""BPF_MAP_TYPE_RINGBUF, linux/bpf.h."""
REFUSALS: Final = ("EPERM", "ENOMEM", "E2BIG", "EINVAL", "ENOSPC")
FLAGS: Final = ("--allow-drills", "--gpu", "off", "--probes", "kmsg,bpf")


@pytest.fixture(autouse=True)
def _usable() -> None:
    real_kernel_log.skip_unless_usable()
    if isinstance(found := attach(), Unavailable):
        pytest.skip(found.reason)
    found.close()


class Node:
    """One daemon, the drills it has to tell, and what it must not leave behind."""

    def __init__(self, directory: Path, *flags: str, wrapper: tuple[str, ...] = ()) -> None:
        directory.mkdir(exist_ok=True)
        self.family = Family()
        self.pci = f"{own_domain()}:91:00"
        self.daemon = Daemon(
            directory, kmsg=KMSG, flags=(*FLAGS, *flags), wrapper=wrapper, environ=self.family.environ
        )
        self.written: list[int] = []
        self._programs: set[str] = set()

    def write(self) -> None:
        """One drill more, told at once."""
        self.written.append(len(self.written) + 1)
        KMSG.write_text(f"{drill_line(self.pci, 43, self.written[-1])}\n")

        def told() -> bool:
            return self.written[-1] in self.told() or self._is_crowded()

        wait_for(told, "the line", pause_s=0.02)
        if self._is_crowded():
            pytest.skip(
                "others wrote so much into the kernel log that these lines were folded or overwritten"
            )
        assert self.told() == self.written
        with suppress(OSError):
            self._programs |= programs_of(self.daemon.pid)

    def told(self) -> list[int]:
        """The drills that are told, each as often as it is counted."""
        found = [event for event in self.daemon.events(f"gpu={self.pci}.0") if event["kind"] == "xid"]
        return sorted(number for event in found for number in [event["process"]["pid"]] * event["count"])

    def _is_crowded(self) -> bool:
        return bool(self.daemon.events(f"kind=overflow&gpu={self.pci}.0") or self.daemon.events("kind=gap"))

    def is_serving(self) -> bool:
        """Whether it has said where it listens."""
        return "listening on" in self.daemon.log.read_text()

    def bpf(self) -> dict[str, Any]:
        """What status says of eBPF."""
        return probes(self.daemon)["bpf"]

    def end(self) -> None:
        """It ends in order, with everything of it."""
        assert self.daemon.stop() == 0
        assert "Traceback" not in self.daemon.log.read_text()
        wait_for(lambda: not self.family.living(), "its processes to end")
        wait_for(lambda: not any(bcc.is_loaded(int(each)) for each in self._programs), "its programs to go")


@contextmanager
def running(node: Node) -> Iterator[Node]:
    try:
        node.daemon.start()
        yield node
        node.end()
    finally:
        node.daemon.kill()


def injecting(error: str, when: str) -> tuple[str, ...]:
    """A wrapper whose command has these of its calls of bpf(2) refused so."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    wrapper = ("strace", "-D", "-f", "-q", "-o", "/dev/null", "-e", "trace=bpf")
    tried = subprocess.run([*wrapper, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(tried.stderr.strip())
    return (*wrapper, "-e", f"inject=bpf:error={error}:when={when}")


@fault(
    "The kernel refuses a step of loading eBPF", promise=2, promised="it says why and hears through /dev/kmsg"
)
def test_whatever_step_of_the_loading_is_refused_it_starts_and_says_why(
    tmp_path: Path, happened: Happened
) -> None:
    steps = range(1, 25)
    chosen = steps[:: rounds(short=8, long=1)]
    refused: list[str] = []
    for step in chosen:
        error = REFUSALS[step % len(REFUSALS)]
        with running(Node(tmp_path / str(step), wrapper=injecting(error, str(step)))) as node:
            node.write()
            bpf = node.bpf()
            assert bpf["hears"] or (bpf["reason"] and bpf["cause"]), bpf
            assert node.daemon.get("/readyz")[0] == 200
            if not bpf["hears"]:
                refused.append(str(bpf["cause"]))
    assert refused
    happened(
        f"{len(chosen)} starts, another call of bpf(2) refused in each: {len(refused)} went on without eBPF "
        f"and said why ({', '.join(sorted(set(refused)))}), in the others the call did not matter; each "
        "line told once"
    )


def descriptors(pid: int) -> dict[str, list[int]]:
    """The descriptors of a process that are of eBPF: `link`, `ring`, `map`."""
    found: dict[str, list[int]] = {"link": [], "ring": [], "map": []}
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            lines = dict(line.split(":\t", 1) for line in info.read_text().splitlines() if ":\t" in line)
        except OSError:
            continue
        if "link_type" in lines:
            found["link"].append(int(info.name))
        elif lines.get("map_type") == RINGBUF:
            found["ring"].append(int(info.name))
        elif "map_type" in lines:
            found["map"].append(int(info.name))
    return found


def close_in(pid: int, fds: list[int]) -> None:
    """Close descriptors of another process, behind its back; /dev/null takes their numbers."""
    if shutil.which("gdb") is None:
        pytest.skip("gdb is not installed")
    calls = ['set $null = (int)open("/dev/null", 0)', *(f"call (int)dup2($null, {fd})" for fd in fds)]
    command = ["gdb", "-p", str(pid), "-batch", "-nx"]
    for each in calls:
        command += ["-ex", each]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    taken = {str(path.readlink()) for path in map(Path, (f"/proc/{pid}/fd/{fd}" for fd in fds))}
    if taken != {"/dev/null"}:
        pytest.skip(f"gdb cannot: {done.stderr.strip().splitlines()[-1:]}")


@pytest.mark.parametrize("what", ["link", "map"])
@fault("eBPF is taken away while it hears", promise=2, promised="it is noticed and said; no line is lost")
def test_a_program_that_is_taken_away_is_missed_and_its_lines_are_not(
    tmp_path: Path, what: str, happened: Happened
) -> None:
    with running(Node(tmp_path / "node", "--gpu", "off")) as node:
        node.write()
        assert node.bpf()["hears"]
        close_in(node.daemon.pid, descriptors(node.daemon.pid)[what])
        KMSG.write_text("a line that is no concern of anybody\n")

        def noticed() -> bool:
            KMSG.write_text("another one\n")
            return not node.bpf()["hears"]

        wait_for(noticed, "it to be noticed", pause_s=0.3)
        reason = node.bpf()["reason"]
        node.write()
        down = [event["detail"] for event in node.daemon.events("kind=probe")]
        assert [(each["probe"], each["hears"]) for each in down] == [("bpf", False)]
        assert down[0]["reason"] == reason
        ready, body = node.daemon.get("/readyz")
        assert (ready, reason in body.decode()) == (200, True)
    happened(f"{what}: “{reason}”, told as an event and in /readyz; {len(node.written)} lines told once each")


def children(pid: int) -> list[int]:
    """Those of its main thread."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@fault("The compiler of the eBPF program is killed", promise=4, promised="it starts without, and says so")
def test_a_compiler_that_is_killed_at_any_time_costs_nothing_but_ebpf(
    tmp_path: Path, happened: Happened
) -> None:
    bcc.skip_unless_usable()
    times = rounds(short=2, long=20)
    without = 0
    for step in range(times):
        node = Node(tmp_path / str(step), "--ebpf-loader", "bcc")
        try:
            node.daemon.spawn()
            for pid in wait_for(partial(children, node.daemon.pid), "the compiler", pause_s=0.001):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            wait_for(node.is_serving, "the start")
            node.write()
            bpf = node.bpf()
            assert bpf["hears"] or "SIGKILL" in bpf["reason"], bpf
            without += not bpf["hears"]
            node.end()
        finally:
            node.daemon.kill()
    assert without
    happened(
        f"{times} compilers killed: {without} starts went on without eBPF and named the signal; each line "
        "told once"
    )
