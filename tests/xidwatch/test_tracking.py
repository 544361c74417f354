"""Whether the process tracker runs beside a daemon, and what it says of itself when not."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daemon.config import Config, Ebpf
from daemon.gpu.process import ProcessReader
from probes.health import Verdict
from tests.support.daemon import Daemon
from tests.support.kernel_log import FakeKernelLog
from xidwatch import socket_client, tracking
from xidwatch.status import render
from xidwatch.terminal import PLAIN

OTHER_LOG = Path("/tmp/log")  # never opened


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, None),
        ({"ebpf": Ebpf.OFF}, "eBPF is off (--ebpf off)"),
        ({"kmsg": OTHER_LOG}, "/tmp/log stands in for the kernel log; --ebpf required runs it all the same"),
        ({"kmsg": OTHER_LOG, "ebpf": Ebpf.REQUIRED}, None),
    ],
    ids=["by default", "eBPF off", "another log", "eBPF required"],
)
def test_it_runs_wherever_ebpf_may_be_used_on_the_log_of_this_node(
    settings: dict[str, Any], reason: str | None
) -> None:
    assert tracking.why_off(replace(Config(), **settings)) == reason


@pytest.mark.parametrize("host_pids", [True, False])
def test_when_a_process_began_is_told_only_by_who_sees_the_hosts_processes(
    host_pids: bool,
) -> None:
    start_of = tracking.start_of(ProcessReader(host_pids=host_pids))
    assert (start_of is not None) == host_pids
    if start_of is not None:
        assert start_of(os.getpid())


def test_the_doctor_says_why_it_is_off() -> None:
    check = tracking.check(replace(Config(), ebpf=Ebpf.OFF))
    assert (check.name, check.verdict) == ("tracker", Verdict.OFF)
    assert check.finding == "eBPF is off (--ebpf off)"


def test_off_it_has_a_line_in_the_status(running_daemon: Daemon, kernel_log: FakeKernelLog) -> None:
    state = socket_client.status(running_daemon.socket)
    assert state["tracker"]["state"] == "off"
    line = next(line for line in render(state, PLAIN) if line.startswith("tracker"))
    assert f"not told how processes end: {kernel_log.path} stands in for the kernel log" in line
