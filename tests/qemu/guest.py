"""Runs as the only process of a kernel under test, and says what the eBPF probe does there.

One line of JSON for each trial on the second serial port; the last one is `{"trial": "end"}`. Each trial
runs in a process of its own. The console is quiet, as distributions set it, but where a trial says otherwise.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import resource
import signal
import stat
import sys
import time
import traceback
from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, "/project")

from probes.bpf import availability, surroundings
from probes.bpf.driver_report import decode
from probes.bpf.ended import Ended
from probes.bpf.probe import BpfProbe
from probes.bpf.ring import RingBuffer
from probes.bpf.tracker import ProcessTracker
from probes.bpf.unavailable import Unavailable
from probes.kernel import Capability
from probes.line import KernelLine
from probes.privileges import give_up
from tests.support.driver_calls import DriverCalls

_libc = ctypes.CDLL(None, use_errno=True)
_REPORT = "/dev/ttyS1"
_PR_SET_NAME, _PR_CAPBSET_DROP = 15, 24
_CAP_SYS_RESOURCE, _CAP_IPC_LOCK = 24, 14
_POWER_OFF = 0x4321FEDC
HEARD_WITHIN_S = 20.0
USER_LINE = "NVRM: Xid (PCI:0000:91:00): 79, written by a process"
KERNEL_LINE = "NVRM: Xid["
"""Begins the line that the kernel prints when a program of the name `NVRM: Xid` dies of a bad address."""
NAME = "NVRM: Xid (PCI:0000:92:00): 79, pid=7, name=x, GPU has fallen off the bus."
"""Of a cgroup."""
MEMORY_BYTES = 32_000_000


def mount(kind: str, at: str, options: str = "") -> None:
    Path(at).mkdir(parents=True, exist_ok=True)
    if _libc.mount(kind.encode(), at.encode(), kind.encode(), 0, options.encode()) != 0:
        raise OSError(ctypes.get_errno(), f"cannot mount {kind}")


def say(line: str) -> None:
    """What any process with the right can do: write into the kernel log."""
    log = os.open("/dev/kmsg", os.O_WRONLY)
    os.write(log, f"<4>{line}\n".encode())
    os.close(log)


def crash() -> None:
    """Have the kernel print a line that begins with this process's name."""
    pid = os.fork()
    if pid == 0:
        _libc.prctl(_PR_SET_NAME, b"NVRM: Xid", 0, 0, 0)
        ctypes.string_at(16)
    os.waitpid(pid, 0)


def run_out_of_memory() -> None:
    """Have the kernel report it: the name of the victim's cgroup goes out by a call of its own."""
    cpuset, memory = (Path("/tmp") / kind / name for kind, name in (("cpuset", NAME), ("memory", "small")))
    for kind, group in (("cpuset", cpuset), ("memory", memory)):
        mount("cgroup", str(group.parent), kind)
        group.mkdir()
    for what in ("cpuset.cpus", "cpuset.mems"):
        (cpuset / what).write_text((cpuset.parent / what).read_text())
    (memory / "memory.limit_in_bytes").write_text(str(MEMORY_BYTES))

    def takes_too_much() -> None:
        for group in (cpuset, memory):
            (group / "tasks").write_text(str(os.getpid()))
        taken = bytearray(2 * MEMORY_BYTES)
        for page in range(0, len(taken), resource.getpagesize()):
            taken[page] = 1
        os._exit(0)

    run_to_its_end(takes_too_much)


def listen(*, then_give_up: bool = False, first: Callable[[], None] | None = None) -> dict[str, object]:
    """Start a probe, have a process and the kernel say something, and tell what was heard."""
    return asyncio.run(_listen(then_give_up=then_give_up, first=first))


async def _listen(*, then_give_up: bool, first: Callable[[], None] | None) -> dict[str, object]:
    lines: list[KernelLine] = []
    probe = BpfProbe(lambda batch: lines.extend(item for item in batch.items if isinstance(item, KernelLine)))
    probe.start()
    gone: tuple[str, ...] = ()
    if then_give_up:
        gone = give_up(needed=availability.needed_while_running(surroundings.look())).capabilities
    if first is not None:
        first()
    say(USER_LINE)
    crash()
    deadline = time.monotonic() + HEARD_WITHIN_S
    while probe.unavailable is None and time.monotonic() < deadline:
        if any(KERNEL_LINE in line.text for line in lines):
            break
        await asyncio.sleep(0.02)
    health = probe.health()
    probe.close()
    return {
        "hears": health.hears,
        "gone": gone,
        "reason": health.reason,
        "counters": dict(health.counters),
        "user": [line.origin for line in lines if line.text == USER_LINE],
        "kernel": [line.origin for line in lines if line.text.startswith(KERNEL_LINE)],
        "named": [line.origin for line in lines if line.text == NAME],
        "doctor": asdict(availability.check()),
        "state": probe_state(),
    }


def probe_state() -> str | None:
    """What an attempt to attach comes to; None when it works."""
    found = availability.attach()
    if isinstance(found, Unavailable):
        return found.state
    found.close()
    return None


def quiet() -> dict[str, object]:
    return listen()


def named() -> dict[str, object]:
    return listen(first=run_out_of_memory)


def loud() -> dict[str, object]:
    Path("/proc/sys/kernel/printk").write_text("7")
    try:
        return listen()
    finally:
        Path("/proc/sys/kernel/printk").write_text("4")


def no_btf() -> dict[str, object]:
    mount("tmpfs", "/sys/kernel/btf")
    try:
        return listen()
    finally:
        _libc.umount2(b"/sys/kernel/btf", 0)


def memlock() -> dict[str, object]:
    """64 KiB of memory to lock, which is what a service gets, and no capability to raise it."""
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
    Path("/proc/sys/kernel/printk").write_text("7")
    try:
        return executed("listen", set(range(64)) - {_CAP_SYS_RESOURCE, _CAP_IPC_LOCK})
    finally:
        Path("/proc/sys/kernel/printk").write_text("4")


def given_up() -> dict[str, object]:
    """Three capabilities, of which those to load are given up once the program is loaded."""
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    Path("/proc/sys/kernel/printk").write_text("7")
    try:
        return executed("given_up", {Capability.BPF, Capability.PERFMON, Capability.SYSLOG})
    finally:
        Path("/proc/sys/kernel/printk").write_text("4")


def executed(what: str, kept: Collection[int]) -> dict[str, object]:
    """What this program answers with these capabilities: one that is executed gets the bounding set."""
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    pid = os.fork()
    if pid == 0:
        for capability in set(range(64)) - set(kept):
            _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        os.execv(sys.executable, [sys.executable, "-B", __file__, what, str(writing)])  # noqa: S606
    os.close(writing)
    answer: dict[str, object] = json.loads(b"".join(iter(lambda: os.read(reading, 4096), b"")))
    os.waitpid(pid, 0)
    return answer


def driver() -> dict[str, object]:
    """The program for the driver's tracepoints, called once for an Xid."""
    calls = DriverCalls()
    loaded = calls.load()
    ring = RingBuffer(loaded.ring, loaded.ring_bytes)
    calls.call("nvidia_dev_xid", "0000:91:00.0", 31, b"channel 0x0000000a")
    lines = [decode(record).line for record in ring.read(10)]
    ring.close()
    loaded.close()
    calls.close()
    return {"lines": lines}


def tracked() -> dict[str, object]:
    """A process in a cgroup that holds a device is killed, and one that was asked for exits."""
    mount("cgroup2", "/tmp/cgroup")
    Path("/tmp/cgroup/pod/container").mkdir(parents=True)
    os.mknod("/dev/nvidia-test", stat.S_IFCHR, os.makedev(195, 253))
    return asyncio.run(_tracked())


async def _tracked() -> dict[str, object]:
    ended: list[Ended] = []
    hears = ProcessTracker(ended.append)
    began = time.monotonic()
    hears.start()
    taken_ms = (time.monotonic() - began) * 1000

    def killed() -> None:
        Path("/tmp/cgroup/pod/container/cgroup.procs").write_text(str(os.getpid()))
        os.open("/dev/nvidia-test", os.O_PATH)
        os.kill(os.getpid(), signal.SIGKILL)

    def exits() -> None:
        hears.watch(os.getpid())
        os._exit(3)

    for child in (killed, exits):
        run_to_its_end(child)
    deadline = time.monotonic() + HEARD_WITHIN_S
    while hears.unavailable is None and len(ended) < 2 and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    health, blind = hears.health(), list(hears.blind_to)
    hears.close()
    return {
        "reason": health.reason,
        "counters": dict(health.counters),
        "blind": blind,
        "taken_ms": taken_ms,
        "ended": [asdict(each) for each in ended],
    }


def run_to_its_end(child: Callable[[], None]) -> None:
    if (pid := os.fork()) == 0:
        child()
    os.waitpid(pid, 0)


def lockdown() -> dict[str, object]:
    mount("securityfs", "/sys/kernel/security")
    Path("/sys/kernel/security/lockdown").write_text("confidentiality")
    return listen()


TRIALS: tuple[Callable[[], dict[str, object]], ...] = (
    quiet,
    loud,
    no_btf,
    memlock,
    given_up,
    named,
    driver,
    tracked,
    lockdown,
)


def main() -> None:
    for kind, at in (("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/tmp")):
        mount(kind, at)
    Path("/proc/sys/kernel/printk").write_text("4")
    Path("/proc/sys/kernel/printk_devkmsg").write_text("on\n")
    os.environ["PATH"] = "/bin"
    report = os.open(_REPORT, os.O_WRONLY | os.O_NOCTTY)
    tell(report, {"trial": "kernel", "release": os.uname().release})
    for trial in TRIALS:
        pid = os.fork()
        if pid == 0:
            try:
                tell(report, {"trial": trial.__name__, **trial()})
            except BaseException:
                tell(report, {"trial": trial.__name__, "failed": traceback.format_exc()})
            os._exit(0)
        os.waitpid(pid, 0)
    tell(report, {"trial": "end"})


def tell(fd: int, what: dict[str, object]) -> None:
    os.write(fd, json.dumps(what).encode() + b"\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        tell(int(sys.argv[2]), listen(then_give_up=sys.argv[1] == "given_up"))
        sys.exit()
    try:
        main()
    except BaseException:
        traceback.print_exc()
    os.sync()
    _libc.reboot(_POWER_OFF)
