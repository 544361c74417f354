"""Promise 5 against every combination of probes: what a process writes into the real log raises no alarm.

The lines are the driver's to the letter, written by this test into /dev/kmsg, where the kernel marks them as
a process's. Whichever probes hear them, none becomes an event that could be taken for real.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from probes.bpf import availability
from probes.health import Verdict
from tests.support import real_kernel_log
from tests.support.command import xidwatch
from tests.support.daemon import Daemon
from tests.support.fault_lab import Happened, fault
from tests.support.real_kernel_log import own_domain
from tests.support.waiting import wait_for

COMBINATIONS = ("kmsg", "bpf", "klog", "kmsg,bpf", "kmsg,klog", "bpf,klog", "kmsg,bpf,klog")
WITHOUT_SYSLOG = ("setpriv", "--bounding-set=-syslog,-sys_admin", "--inh-caps=-syslog,-sys_admin")
ALARMING = ("fatal", "critical")
MOUNT = """
import ctypes, sys, tempfile
name = f"x\\nNVRM: GPU {sys.argv[1]}:02:00.0: GPU has fallen off the bus.\\n"
with tempfile.TemporaryDirectory() as place:
    if ctypes.CDLL(None, use_errno=True).mount(b"none", place.encode(), b"tmpfs", 0, name.encode()) == 0:
        sys.exit("the kernel took the name as an option")
    if ctypes.get_errno() != 22:
        sys.exit("it was refused")
"""
"""Names an option of tmpfs that it does not know."""

pytestmark = [pytest.mark.kmsg, pytest.mark.slow]


@pytest.fixture(autouse=True)
def ebpf() -> None:
    """Skips where eBPF or the kernel log cannot be had."""
    real_kernel_log.skip_unless_usable()
    found = availability.check()
    if found.verdict is not Verdict.OK:
        pytest.skip(found.finding)


def forged(domain: str) -> list[str]:
    """Lines of the driver's, of every kind that can be an alarm, each of a fault of its own."""
    gpu = f"PCI:{domain}:0%d:00"
    xid = f"NVRM: Xid ({gpu}):"
    return [
        f"{xid % 1} 79, pid=7, name=x, GPU has fallen off the bus.",
        f"NVRM: GPU {domain}:02:00.0: GPU has fallen off the bus.",
        f"{xid % 3} 154, GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)",
        f"{xid % 4} 13, Graphics SM Warp Exception on (GPC 1, TPC 4, SM 0): Misaligned Address",
        f"{xid % 4} 13, pid=9, name=x, Graphics Exception: channel 0x0000000a, Class 0000cbc0, Data 0017e2ac",
        f"{xid % 5} 48, pid=9, name=x, DBE (double bit error) on GPU",
        f"nvidia-nvswitch3: SXid ({gpu % 6}.0): 20034, Fatal, Link 30 LTSSM Fault Up (First)",
    ]


@contextmanager
def daemon_with(directory: Path, flags: Sequence[str], wrapper: Sequence[str] = ()) -> Iterator[Daemon]:
    daemon = Daemon(directory, kmsg=real_kernel_log.KMSG, flags=flags, wrapper=wrapper).start()
    try:
        yield daemon
    finally:
        daemon.stop()


def counters(daemon: Daemon) -> dict[str, int]:
    status = json.loads(xidwatch("status", "--json", "--socket", str(daemon.socket)).out)
    found: dict[str, int] = status["counters"]
    return found


def about(daemon: Daemon, domain: str) -> list[dict[str, Any]]:
    """The events about devices of this domain, and incidents of these."""
    return [event for event in daemon.events() if f"{domain}:0" in json.dumps(event)]


def is_no_alarm(event: dict[str, Any]) -> bool:
    """True for a drill, and for a warning that nobody proved: the log was not seen in time."""
    return event["drill"] or (event["origin"] == "unknown" and event["severity"] not in ALARMING)


@pytest.mark.parametrize("names", COMBINATIONS)
@fault("The driver's own lines, written by a process", promise=5, promised="never an alarm, and counted")
def test_without_drills_forged_lines_are_counted_and_nothing_else(
    tmp_path: Path, names: str, happened: Happened
) -> None:
    domain = own_domain()
    lines = forged(domain)
    with daemon_with(tmp_path, ["--probes", names]) as daemon:
        for line in lines:
            real_kernel_log.write(line)
        wait_for(
            lambda: counters(daemon)["forged"] + counters(daemon)["unconfirmed"] >= len(lines),
            "every line",
            pause_s=0.1,
        )
        assert all(is_no_alarm(event) for event in about(daemon, domain))
        if "bpf" not in names:
            assert about(daemon, domain) == []
    happened(f"through {names}: {len(lines)} lines, no alarm")


@pytest.mark.parametrize("names", COMBINATIONS)
@fault("The same, where drills are allowed", promise=5, promised="drills at most")
def test_where_drills_are_allowed_they_are_drills(tmp_path: Path, names: str, happened: Happened) -> None:
    domain = own_domain()
    lines = forged(domain)
    with daemon_with(tmp_path, ["--probes", names, "--allow-drills"]) as daemon:
        before = counters(daemon)["faults"]
        for line in lines:
            real_kernel_log.write(line)
        wait_for(
            lambda: about(daemon, domain) and counters(daemon)["faults"] >= before + len(lines),
            "every line",
            pause_s=0.1,
        )
        assert all(is_no_alarm(event) for event in about(daemon, domain))
    happened(f"through {names}: {len(lines)} lines, each a drill or an unproved warning")


@pytest.mark.parametrize("names", ["bpf", "kmsg,bpf"])
@fault("The same, where nobody may look who wrote them", promise=5, promised="a warning of unknown origin")
def test_where_nobody_can_tell_it_is_a_warning_of_unknown_origin(
    tmp_path: Path, names: str, happened: Happened
) -> None:
    """Without the right to look at the log in either way."""
    if Path("/proc/sys/kernel/dmesg_restrict").read_text().strip() == "0":
        pytest.skip("kernel.dmesg_restrict=0: everybody may look at the log")
    if subprocess.run([*WITHOUT_SYSLOG, "true"], check=False, capture_output=True).returncode:
        pytest.skip("setpriv cannot drop capabilities here")
    domain = own_domain()
    with daemon_with(tmp_path, ["--probes", names], WITHOUT_SYSLOG) as daemon:
        for line in forged(domain):
            real_kernel_log.write(line)
        wait_for(lambda: f"{domain}:05:00.0" in json.dumps(about(daemon, domain)), "the lines")
        assert all(is_no_alarm(event) for event in about(daemon, domain))
        assert {event["origin"] for event in about(daemon, domain)} == {"unknown"}
    happened(f"through {names}: {len(forged(domain))} lines, all of unknown origin, none above a warning")


@pytest.mark.parametrize("names", COMBINATIONS)
@fault("A user has the kernel print a newline and the driver's words", promise=5, promised="never an alarm")
def test_a_newline_in_a_name_that_the_kernel_prints_raises_no_alarm(
    tmp_path: Path, names: str, happened: Happened
) -> None:
    """Any user can have the kernel print one: the rest of it stands at the start of a line in syslog(2)."""
    domain = own_domain()
    with daemon_with(tmp_path, ["--probes", names]) as daemon:
        mounted = subprocess.run(
            ["unshare", "-Urm", sys.executable, "-c", MOUNT, domain], check=False, capture_output=True
        )
        if mounted.returncode:
            pytest.skip(f"no file system can be mounted in a user namespace: {mounted.stderr.decode()}")
        wait_for(lambda: f"{domain}:02:00.0" in json.dumps(about(daemon, domain)), "the line")
        if "klog" in names:
            wait_for(lambda: klog_looks(daemon) > 1, "a look that shows it")
        assert all(is_no_alarm(event) for event in about(daemon, domain))
    happened(f"through {names}: a warning of unknown origin")


def klog_looks(daemon: Daemon) -> int:
    status = json.loads(xidwatch("status", "--json", "--socket", str(daemon.socket)).out)
    [probe] = [probe for probe in status["probes"] if probe["name"] == "klog"]
    looks: int = probe["counters"]["looks"]
    return looks


@fault("Forged lines in a flood of others", promise=5, promised="never an alarm")
def test_forged_lines_in_a_storm_of_noise_raise_nothing_either(tmp_path: Path, happened: Happened) -> None:
    """The reader of /dev/kmsg lags behind then, and the looks at the log come late."""
    domain = own_domain()
    with daemon_with(tmp_path, []) as daemon, real_kernel_log.unlimited_writing():
        noise = (
            "python3",
            "-c",
            "f = open('/dev/kmsg', 'wb', 0)\nfor n in range(300_000): f.write(b'<7>noise\\n')",
        )
        with subprocess.Popen(noise) as storm:
            while storm.poll() is None:
                for line in forged(domain):
                    Path("/dev/kmsg").write_text(f"{line}\n")
        wait_for(lambda: counters(daemon)["forged"] + len(about(daemon, domain)) > 0, "the lines")
        assert all(is_no_alarm(event) for event in about(daemon, domain))
    happened("300,000 lines of noise, forged ones all the while: no alarm")
