"""Records that nobody could read any more: one gap event with the right numbers."""

from __future__ import annotations

import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support import real_kernel_log
from tests.support.command import xidwatch
from tests.support.daemon import Daemon
from tests.support.fault_lab import Happened, fault
from tests.support.kernel_log import FakeKernelLog
from tests.support.metrics import metric
from tests.support.real_kernel_log import drill_line, own_domain
from tests.support.waiting import wait_for


def gaps(daemon: Daemon) -> list[dict[str, Any]]:
    return daemon.events("since=0&kind=gap&limit=1000")


def stop_where_it_has_read_everything(daemon: Daemon, pci: str) -> int:
    """Stop the daemon after a line that nobody's lines follow; the line's sequence number."""
    for attempt in range(20):
        pid = 1000 + attempt
        last = real_kernel_log.write(drill_line(pci, 43, pid))
        wait_until_heard(daemon, pci, pid)
        os.kill(daemon.pid, signal.SIGSTOP)
        wait_for(partial(stands_still, daemon.pid), "the daemon to stand still")
        if real_kernel_log.newest() == last:
            return last
        os.kill(daemon.pid, signal.SIGCONT)
    pytest.skip("other processes write to the kernel log all the time")


def stands_still(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def wait_until_heard(daemon: Daemon, pci: str, pid: int) -> None:
    def heard() -> bool:
        return any(event["process"]["pid"] == pid for event in daemon.events(f"gpu={pci}.0"))

    wait_for(heard, "the line to be heard")


@pytest.mark.kmsg
@pytest.mark.slow
@fault("The kernel log is overwritten while the daemon stands still", promise=2, promised="an exact gap")
def test_what_the_real_log_overwrote_while_the_daemon_stood_still_is_one_gap_with_the_right_numbers(
    tmp_path: Path, happened: Happened
) -> None:
    real_kernel_log.skip_unless_usable()
    pci = f"{own_domain()}:91:00"
    daemon = Daemon(tmp_path, kmsg=real_kernel_log.KMSG, flags=["--allow-drills", "--ebpf", "off"])
    try:
        daemon.start()
        assert gaps(daemon) == []
        last_read = stop_where_it_has_read_everything(daemon, pci)
        real_kernel_log.write(drill_line(pci, 79, 1, "overwritten unread"))
        real_kernel_log.overwrite()
        heard_again = real_kernel_log.write(drill_line(pci, 31, 1, "after the hole"))
        oldest_before = real_kernel_log.oldest()
        os.kill(daemon.pid, signal.SIGCONT)
        wait_for(lambda: daemon.events(f"gpu={pci}.0&code=31"), "the line behind the hole")
        oldest_after = real_kernel_log.oldest()

        [gap] = gaps(daemon)
        detail = gap["detail"]
        assert oldest_before > last_read + 1
        assert detail["first_seq"] == last_read + 1
        # The same number twice, unless someone else wrote in between.
        assert oldest_before <= detail["last_seq"] + 1 <= oldest_after < heard_again
        assert detail["lost_records"] == detail["last_seq"] - last_read
        assert detail["ranges"] == [[detail["first_seq"], detail["last_seq"]]]
        assert (gap["count"], gap["drill"], gap["gpu"]) == (1, False, None)
        assert metric(daemon, "xidwatch_kernel_records_lost_total") == detail["lost_records"]
        assert daemon.events(f"gpu={pci}.0&code=79") == []
        [probe] = json.loads(xidwatch("status", "--json", "--socket", str(daemon.socket)).out)["probes"]
        assert probe["hears"] is True
        assert probe["counters"]["lost"] == detail["lost_records"]
        assert probe["counters"]["overruns"] >= 1
        happened(
            f"{detail['lost_records']:,} records overwritten unread: one gap from their first to their last"
        )
    finally:
        daemon.stop()


@pytest.mark.kmsg
@pytest.mark.slow
@fault("The kernel log is overwritten while no daemon runs", promise=2, promised="an exact gap")
def test_what_the_real_log_overwrote_while_no_daemon_ran_is_a_gap_behind_the_resume_point(
    tmp_path: Path, happened: Happened
) -> None:
    real_kernel_log.skip_unless_usable()
    pci = f"{own_domain()}:91:00"
    daemon = Daemon(tmp_path, kmsg=real_kernel_log.KMSG, flags=["--allow-drills", "--ebpf", "off"])
    try:
        daemon.start()
        last_read = real_kernel_log.write(drill_line(pci, 43, 1))
        wait_for(lambda: daemon.events(f"gpu={pci}.0"), "the line to be heard")
        daemon.kill()
        real_kernel_log.overwrite()
        heard_again = real_kernel_log.write(drill_line(pci, 31, 1))
        oldest_before = real_kernel_log.oldest()
        daemon.start()
        wait_for(lambda: daemon.events(f"gpu={pci}.0&code=31"), "the line behind the hole")
        oldest_after = real_kernel_log.oldest()
        [gap] = gaps(daemon)
        # What was heard last was stored with its event, or with another process's line behind it.
        assert last_read + 1 <= gap["detail"]["first_seq"] <= oldest_before
        assert oldest_before <= gap["detail"]["last_seq"] + 1 <= oldest_after < heard_again
        [event] = daemon.events(f"gpu={pci}.0&code=43")
        assert event["count"] == 1
        happened(f"{gap['detail']['lost_records']:,} records are one gap, behind what was stored last")
    finally:
        daemon.stop()


@fault("Numbers are missing between records", promise=2, promised="each range is named")
def test_jumps_in_the_sequence_numbers_are_exact_ranges_of_one_gap_event(
    running_daemon: Daemon, kernel_log: FakeKernelLog, happened: Happened
) -> None:
    def xid(seq: int) -> None:
        kernel_log.write(f"NVRM: Xid (PCI:0000:91:00): 43, pid={seq}, name=x, Ch 00000008", seq=seq)

    for seq in (100, 101, 150, 151, 152, 200, 1_000_000):
        xid(seq)
    kernel_log.write("usb 1-1: new device", seq=1_000_005)  # no fault, but its number counts
    ranges = [[102, 149], [153, 199], [201, 999_999], [1_000_001, 1_000_004]]
    lost = sum(last - first + 1 for first, last in ranges)
    [gap] = wait_for(
        lambda: (found := gaps(running_daemon)) and found[0]["detail"]["lost_records"] == lost and found,
        "every jump to be told",
    )
    assert gap["detail"]["ranges"] == ranges
    assert (gap["detail"]["first_seq"], gap["detail"]["last_seq"]) == (102, 1_000_004)
    assert gap["count"] == len(ranges)
    assert metric(running_daemon, "xidwatch_kernel_records_lost_total") == lost
    heard = running_daemon.events("since=0&kind=xid")
    assert sorted(e["kmsg_seq"] for e in heard) == [100, 101, 150, 151, 152, 200, 1_000_000]
    happened(
        f"{lost:,} records in {len(ranges)} ranges, each named; the {len(heard)} faults between them told"
    )
