"""A flood of the real kernel log: with eBPF no Xid is lost, and what anybody lost is said, to the line."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from probes.bpf import availability
from probes.health import Verdict
from tests.support import real_kernel_log
from tests.support.command import xidwatch
from tests.support.cpu_limit import NoCpuLimit, cpu_limit
from tests.support.daemon import Daemon
from tests.support.fault_lab import Happened, fault
from tests.support.real_kernel_log import own_domain
from tests.support.waiting import DEADLINE_S, wait_for

LINES = 200_000
EVERY = 1_000
_FLOOD = (
    "import os, sys\n"
    "lines, every, line = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]\n"
    "xid = f'<7>{line}'.encode() + b' %d\\n'\n"
    "noise = b'<7>' + b'audit: type=1400 apparmor=ALLOWED '.ljust(106, b'.') + b'\\n'\n"
    "fd = os.open('/dev/kmsg', os.O_WRONLY)\n"
    "for n in range(lines): os.write(fd, xid % n if n % every == every // 2 else noise)\n"
)

pytestmark = [pytest.mark.kmsg, pytest.mark.slow]


@pytest.fixture(autouse=True)
def ebpf() -> None:
    """Skips where eBPF or the kernel log cannot be had."""
    real_kernel_log.skip_unless_usable()
    found = availability.check()
    if found.verdict is not Verdict.OK:
        pytest.skip(found.finding)


def flood(lines: int, every: int, line: str) -> None:
    """Write `lines` lines as fast as one process can, each `every`-th of them `line` with a number."""
    command = [sys.executable, "-S", "-c", _FLOOD, str(lines), str(every), line]
    subprocess.run(command, check=True, timeout=DEADLINE_S)


def counted(daemon: Daemon, domain: str) -> int:
    """How often the daemon counts the fault of this domain."""
    events = daemon.events("since=0&limit=1000&kind=xid")
    return sum(event["count"] for event in events if event["gpu"]["pci"].startswith(domain))


def gaps(daemon: Daemon, probe: str) -> list[dict[str, Any]]:
    events = daemon.events("since=0&limit=1000&kind=gap")
    return [event for event in events if event["witnesses"][0]["probe"] == probe]


def counters(daemon: Daemon, probe: str) -> dict[str, int]:
    status = json.loads(xidwatch("status", "--json", "--socket", str(daemon.socket)).out)
    found: dict[str, int] = next(each["counters"] for each in status["probes"] if each["name"] == probe)
    return found


def is_all_told(daemon: Daemon, probe: str) -> bool:
    """True when gap events tell of every line that the probe has lost."""
    told = sum(event["detail"]["lost_records"] for event in gaps(daemon, probe))
    return bool(told == counters(daemon, probe)["lost"])


def heard_by_ebpf_alone(daemon: Daemon) -> int:
    """How many more lines that matter eBPF has heard than /dev/kmsg has shown."""
    bpf, kmsg = counters(daemon, "bpf"), counters(daemon, "kmsg")
    return (bpf["records"] - bpf["skipped"]) - (kmsg["records"] - kmsg["skipped"])


def is_accounted_for(bpf: dict[str, int]) -> bool:
    """True when every line that the program wanted was delivered, or is counted as dropped."""
    return LINES // 4 <= bpf["matched"] == bpf["records"] + bpf["dropped"]


def recovered(daemon: Daemon) -> int:
    """Lines that told of a fault, proved or not (these are drills), and that eBPF alone has heard."""
    told = ("recovered", "recovered_unproved")
    return sum(event["detail"].get(key, 0) for event in gaps(daemon, "kmsg") for key in told)


@pytest.mark.parametrize("share", [None, 0.05], ids=["unlimited", "5-percent-of-a-cpu"])
@fault("A flood of the kernel log", promise=1, promised="no Xid is lost; what was not read is told")
def test_no_xid_is_lost_in_a_flood_and_what_kmsg_lost_is_said(
    tmp_path: Path, share: float | None, happened: Happened
) -> None:
    domain = own_domain()
    daemon = Daemon(tmp_path, kmsg=real_kernel_log.KMSG, flags=["--allow-drills"]).start()
    try:
        before = heard_by_ebpf_alone(daemon)
        with real_kernel_log.unlimited_writing(), contextlib.ExitStack() as stack:
            if share is not None:
                try:
                    stack.enter_context(cpu_limit(daemon.pid, share))
                except NoCpuLimit as reason:
                    pytest.skip(str(reason))
            flood(LINES, EVERY, real_kernel_log.drill_line(f"{domain}:01:00", 31, 7))
            wait_for(
                lambda: counted(daemon, domain) >= LINES // EVERY,
                "every Xid",
                pause_s=0.2,
                deadline_s=4 * DEADLINE_S,
            )
        wait_for(partial(is_all_told, daemon, "kmsg"), "the losses", pause_s=0.2)
        wait_for(
            lambda: recovered(daemon) == heard_by_ebpf_alone(daemon) - before,
            "what eBPF alone has heard",
            pause_s=0.2,
        )
        assert counted(daemon, domain) == LINES // EVERY
        assert counters(daemon, "bpf")["lost"] == 0
        if share is not None:
            assert recovered(daemon) > 0  # at that share it reads a small part of the log
        limit = "" if share is None else f" with {share:.0%} of a processor"
        happened(
            f"{LINES:,} lines{limit}: {LINES // EVERY} of {LINES // EVERY} Xids told; /dev/kmsg lost "
            f"{counters(daemon, 'kmsg')['lost']:,} records, all in gaps"
        )
    finally:
        daemon.stop()


@fault("The eBPF ring is full: every line an Xid", promise=2, promised="delivered + dropped = matched, told")
def test_when_every_line_is_an_xid_what_the_ring_dropped_is_said_exactly(
    tmp_path: Path, happened: Happened
) -> None:
    domain = own_domain()
    daemon = Daemon(tmp_path, kmsg=real_kernel_log.KMSG, flags=["--allow-drills"]).start()
    try:
        with real_kernel_log.unlimited_writing():
            flood(LINES // 4, 1, real_kernel_log.drill_line(f"{domain}:01:00", 31, 7))
        wait_for(lambda: is_accounted_for(counters(daemon, "bpf")), "the end of the ring", pause_s=0.2)
        for probe in ("bpf", "kmsg"):
            wait_for(partial(is_all_told, daemon, probe), "the losses", pause_s=0.2)
        bpf = counters(daemon, "bpf")
        assert is_accounted_for(bpf)
        assert bpf["dropped"] > 0
        assert bpf["records"] - bpf["skipped"] <= counted(daemon, domain) <= LINES // 4
        happened(
            f"{bpf['matched']:,} lines matched = {bpf['records']:,} delivered + {bpf['dropped']:,} dropped, "
            "and the dropped ones are in gaps"
        )
    finally:
        daemon.stop()
