"""The service under a real systemd, as the first process of a real kernel with cgroup v2.

Debian 12 is booted in software. `systemd_guest.py` runs inside and tells what it saw.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.deploy import systemd_machine

pytestmark = pytest.mark.slow

Trials = dict[str, dict[str, Any]]
Record = Callable[[str, object], None]
WATCHDOG_S = 30
SYSLOG, PERFMON, BPF = (1 << number for number in (34, 38, 39))  # include/uapi/linux/capability.h


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Trials:
    reason = systemd_machine.why_not()
    if reason is not None:
        pytest.skip(reason)
    return systemd_machine.boot(tmp_path_factory.mktemp("systemd"))


def said(trials: Trials, name: str) -> dict[str, Any]:
    """What a trial found; fails where it could not be done."""
    trial = trials[name]
    assert "failed" not in trial, trial["failed"]
    return trial


def test_it_comes_up_at_boot_and_says_what_it_hears(trials: Trials, record_property: Record) -> None:
    up = said(trials, "up")
    for figure in ("boot_s", "start_s", "memory_bytes"):
        record_property(figure, up[figure])
    assert up["failed_units"] == ""
    assert up["status_text"].startswith("hears the kernel log through kmsg, bpf")
    assert {probe["name"]: probe["hears"] for probe in up["daemon"]["probes"]} == {"kmsg": True, "bpf": True}


def test_the_verifier_has_nothing_to_say_where_it_is_installed(trials: Trials) -> None:
    assert said(trials, "up")["verify"] == {"rc": 0, "out": "", "err": ""}


def test_its_capabilities_are_the_ones_that_are_stated(trials: Trials) -> None:
    process = said(trials, "up")["process"]
    # What loading eBPF programs took is given up; no_new_privs keeps what the bounding set has out of reach.
    held = {name: int(process[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd")}
    assert held == dict.fromkeys(("CapEff", "CapPrm", "CapInh", "CapAmb"), SYSLOG) | {
        "CapBnd": SYSLOG | BPF | PERFMON
    }
    assert (process["NoNewPrivs"], process["Seccomp"]) == ("1", "2")
    assert int(process["Uid"]) > 0


def test_of_all_devices_it_may_open_the_log_and_the_gpus(trials: Trials) -> None:
    assert said(trials, "devices")["opened"] == {
        "kmsg r": "opened",
        "kmsg w": "EPERM",
        "mem r": "EPERM",
        "nvidia0 r": "ENXIO",  # allowed before the driver is loaded, as it may be after the service started
        "nvidiactl r": "ENXIO",
        "nvidia-uvm r": "EPERM",
    }


def test_it_goes_last_when_memory_runs_out(trials: Trials) -> None:
    assert said(trials, "up")["oom_score_adj"] == "-900"


def test_its_files_are_its_own_and_its_groups(trials: Trials) -> None:
    assert said(trials, "up")["modes"] == {
        "/run/xidwatch/mcp.sock": "xidwatch xidwatch 660",
        "/run/xidwatch": "xidwatch xidwatch 755",
        "/var/lib/xidwatch": "xidwatch xidwatch 750",
    }


def test_members_of_the_group_may_ask_and_strangers_are_told_why_not(trials: Trials) -> None:
    asked = said(trials, "asked_by_others")
    assert asked["member"]["rc"] == 0
    assert asked["stranger"]["rc"] == 2
    assert "join the group that owns the socket" in asked["stranger"]["err"]


def test_a_line_is_heard_by_both_probes(trials: Trials) -> None:
    (event,) = said(trials, "heard")["events"]
    assert (event["code"], event["drill"]) == (13, True)
    assert {witness["probe"] for witness in event["witnesses"]} == {"kmsg", "bpf"}


def test_the_watchdog_restarts_a_daemon_that_stands_still_and_nothing_is_lost(
    trials: Trials, record_property: Record
) -> None:
    stopped = said(trials, "stopped")
    for figure in ("killed_after_s", "serves_after_s"):
        record_property(figure, stopped[figure])
    assert stopped["restarts"] == 1
    assert f"Watchdog timeout (limit {WATCHDOG_S}s)!" in stopped["log"]
    events = stopped["events"]
    assert [event["code"] for event in events] == [13, 31, 48, 63]
    assert [event["id"] for event in events][:1] == stopped["before"]
    cursors = [event["cursor"] for event in events]
    assert cursors == sorted(set(cursors))


def test_a_daemon_ended_by_the_watchdog_leaves_where_its_threads_stood(trials: Trials) -> None:
    log = said(trials, "stopped")["log"]
    assert "Fatal Python error: Aborted" in log
    assert "base_events.py" in log


def test_a_restart_keeps_the_directory_of_the_socket_and_the_events(trials: Trials) -> None:
    restarted, before = said(trials, "restarted"), said(trials, "stopped")
    assert (restarted["rc"], restarted["same_directory"]) == (0, True)
    assert restarted["events"] == before["events"]


def test_a_setting_that_is_none_is_named_and_once_mended_it_comes_back_by_itself(trials: Trials) -> None:
    misconfigured = said(trials, "misconfigured")
    assert misconfigured["rc"] != 0
    assert "unknown key 'lissten' in /etc/xidwatch/config.toml" in misconfigured["log"]


def test_it_ends_as_asked_and_what_it_kept_can_be_read(trials: Trials) -> None:
    ended = said(trials, "ended")
    assert (ended["state"], ended["result"], ended["run_directory_gone"]) == ("inactive", "success", True)
    assert ended["kept"] == 4
