"""What else can be hung on the kernel log, as baselines: each by itself, without a daemon beside it.

A bare loop notes the time in its own process as soon as it has the record, and delivers it to nobody: it is
the floor. The pipelines are what one would type in a terminal; the time is noted by a process that reads
their output, as a script would. Each is told of as absent, with the reason, where it cannot run.
"""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import kernel_log, peers
from benchmarks.figure import Unavailable

SOURCE = Path(__file__).with_name("bare_kmsg.c")
START_S = 20.0
"""bpftrace compiles its program first."""
SETTLE_S = 1.0
"""For lines that are still on their way through pipes, before the first and after the last one measured."""
CODE = 43
_TRACEFS = "/sys/kernel/tracing"
_BPFTRACE = (
    # In a mount namespace of its own, so that the machine stays as it was where nobody has mounted tracefs.
    f"[ -e {_TRACEFS}/events ] || mount -t tracefs tracefs {_TRACEFS} || exit; "
    "export BPFTRACE_STRLEN=200 BPFTRACE_MAX_STRLEN=200; "
    # The driver's lines begin with `NVRM: Xid`, drills with this.
    "exec bpftrace -B line -e 'tracepoint:printk:console "
    '/strncmp(str(args->msg), "xidwatch-drill", 14) == 0/ { printf("%s\\n", str(args->msg)); }\''
)


@dataclass(frozen=True, slots=True)
class Listener:
    """One way to hear a line."""

    name: str
    command: Callable[[str, Path], Sequence[str]]
    """What to run to hear the lines that hold this marker, with an empty directory for what it needs. It says
    `ready` in its first line, and when its stdin ends it prints the moments (CLOCK_MONOTONIC, ns) at which it
    had each, as a JSON list. Raises Unavailable."""


def _python(marker: str, directory: Path) -> Sequence[str]:
    return peers.command("bare_kmsg", marker)


def _c(marker: str, directory: Path) -> Sequence[str]:
    return (str(bare_c(directory)), "times", marker)


def _dmesg(marker: str, directory: Path) -> Sequence[str]:
    # -i: a drill says xid, so that other monitors do not take it for one.
    pipeline = "dmesg --follow | grep --line-buffered -i Xid"
    return _piped(marker, ("sh", "-c", pipeline), needs=("dmesg", "grep"))


def _bpftrace(marker: str, directory: Path) -> Sequence[str]:
    if os.geteuid() != 0:
        raise Unavailable("bpftrace needs root")
    return _piped(marker, ("unshare", "--mount", "sh", "-c", _BPFTRACE), needs=("bpftrace", "unshare"))


def _piped(marker: str, command: Sequence[str], *, needs: Sequence[str]) -> Sequence[str]:
    for program in needs:
        if shutil.which(program) is None:
            raise Unavailable(f"{program} is not installed")
    return peers.command("piped", marker, *command)


PYTHON = Listener("bare Python loop", _python)
C = Listener("bare C loop", _c)
DMESG = Listener("dmesg --follow | grep", _dmesg)
BPFTRACE = Listener("bpftrace", _bpftrace)


def bare_c(directory: Path) -> Path:
    """The bare C reader, compiled into `directory` unless it is there. Raises Unavailable."""
    program = directory / SOURCE.stem
    if program.exists():
        return program
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise Unavailable("no C compiler is installed")
    command = [compiler, "-O2", "-o", str(program), str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"{compiler} does not compile {SOURCE.name}: {_last_line(done.stderr)}")
    return program


def delays_ms(
    listener: Listener, directory: Path, samples: int, pause_s: tuple[float, float]
) -> Sequence[float]:
    """Write so many lines at random distances, and see when the listener has each. Raises Unavailable."""
    line, marker = _marked()
    written: list[int] = []
    with _running(listener.command(marker, directory), line) as process:
        for _ in range(samples):
            time.sleep(random.uniform(*pause_s))
            written.append(kernel_log.write(line))
        heard = _ended(process, written[0])
    if len(heard) != samples:
        raise Unavailable(f"it had {len(heard)} of {samples} lines: something else floods the kernel log")
    return [(there - began) / 1e6 for there, began in zip(heard, written, strict=True)]


def heard_of(listener: Listener, directory: Path, flood: Callable[[str], object]) -> int:
    """How many of the lines that `flood` writes into the log the listener had. Raises Unavailable."""
    line, marker = _marked()
    with _running(listener.command(marker, directory), line) as process:
        began = time.monotonic_ns()
        flood(line)
        return len(_ended(process, began))


def _marked() -> tuple[str, str]:
    """A line that nobody else writes, and what it can be told by. The process id is above all real ones."""
    pid = random.randrange(5_000_000, 10_000_000)
    return kernel_log.drill_line(CODE, pid), f"pid={pid}, name=bench"


@contextmanager
def _running(command: Sequence[str], line: str) -> Iterator[subprocess.Popen[bytes]]:
    """The listener, once it hears: the line is written until it does. Raises Unavailable."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=peers.ROOT
    ) as process:
        try:
            assert process.stdout is not None
            until = time.monotonic() + START_S
            while not select.select([process.stdout], [], [], 0.05)[0]:
                if time.monotonic() > until:
                    raise Unavailable(f"it did not hear a line within {START_S:g} s")
                kernel_log.write(line)
            said = peers.first_line(process)
            if said != "ready":
                assert process.stderr is not None
                raise Unavailable(said or _last_line(process.stderr.read().decode(errors="replace")))
            time.sleep(SETTLE_S)  # lines of the beginning may still be on their way
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()  # a pipeline is ended by the process that runs it
            try:
                process.wait(SETTLE_S + 5)
            except subprocess.TimeoutExpired:
                process.kill()


def _ended(process: subprocess.Popen[bytes], since_ns: int) -> list[int]:
    time.sleep(SETTLE_S)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    heard: list[int] = json.loads(process.stdout.read())
    return [at for at in heard if at > since_ns]


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it ended without a word"
