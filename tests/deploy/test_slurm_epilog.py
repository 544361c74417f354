"""The Slurm epilog, with a running daemon and a scontrol that writes down what it was asked."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.daemon import ROOT, Daemon
from tests.support.kernel_log import FakeKernelLog
from tests.support.waiting import wait_for

EPILOG = ROOT / "deploy" / "slurm" / "epilog-xidwatch"
FATAL = "NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."
WARNING = (
    "NVRM: Xid (PCI:0000:3b:00): 13, pid=4711, name=python3, Graphics Exception: ESR 0x404490=0x80000001"
)
DRILL = "xidwatch-drill: xid (PCI:0000:00:00): 79, pid=1, name=drill, test"


@dataclass(frozen=True, slots=True)
class Node:
    """A compute node: what Slurm says of it, and what it is told."""

    folder: Path

    def program(self, name: str, script: str) -> None:
        """A program on the node's PATH."""
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def slurm(self, *, state: str = "IDLE", job: str = "", update: str = "exit 0") -> None:
        """scontrol, which says this of node and job, and does `update` when it is to change something."""
        asked = shlex.quote(str(self.folder / "asked"))
        self.program(
            "scontrol",
            f'echo "$@" >>{asked}\n'
            f'case "$*" in\n'
            f'*"show node"*) echo "NodeName=gpu-17 Arch=x86_64 State={state} Reason=" ;;\n'
            f'*"show job"*) echo "JobId=7 JobName=train {job} EndTime=Unknown" ;;\n'
            f"*) {update} ;;\nesac",
        )

    def asked(self) -> list[str]:
        """What scontrol was asked."""
        file = self.folder / "asked"
        return file.read_text().splitlines() if file.exists() else []

    def end_job(self, epilog: Path = EPILOG, **environ: str) -> tuple[int, str]:
        """Run the epilog as slurmd does, with hardly an environment: its exit code and what it logs."""
        given = {
            "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin",
            "SLURM_JOB_ID": "7",
            "SLURMD_NODENAME": "gpu-17",
        }
        done = subprocess.run(
            [sys.executable, epilog], capture_output=True, text=True, check=False, env=given | environ
        )
        assert done.stdout == ""
        return done.returncode, done.stderr


@pytest.fixture
def node(tmp_path: Path, running_daemon: Daemon) -> Node:
    (tmp_path / "bin").mkdir()
    node = Node(tmp_path)
    node.slurm()
    xidwatch = shlex.join([sys.executable, "-m", "xidwatch"])
    socket = shlex.quote(str(running_daemon.socket))
    node.program("xidwatch", f'cd {shlex.quote(str(ROOT))} && exec {xidwatch} "$@" --socket {socket}')
    return node


def print_line(log: FakeKernelLog, daemon: Daemon, line: str, **options: int) -> None:
    """A line of the kernel log, a minute of kernel time after those before, and heard."""
    known = len(daemon.events())
    log.write(line, time_us=time.monotonic_ns() // 1000, **options)
    wait_for(lambda: len(daemon.events()) > known, "the event")


def ago(seconds: float) -> str:
    """SLURM_JOB_START_TIME of a job that began so long ago; negative: that will begin."""
    return str(int(time.time() - seconds))


def test_a_fatal_event_during_the_job_drains_the_node_with_its_name(
    node: Node, running_daemon: Daemon, kernel_log: FakeKernelLog
) -> None:
    print_line(kernel_log, running_daemon, FATAL)
    code, log = node.end_job(SLURM_JOB_START_TIME=ago(60))
    reason = "xidwatch: Xid 79 on 0000:3b:00.0 (GPU no longer answers on PCIe) during job 7"
    assert node.asked() == ["-o show node gpu-17", f"update NodeName=gpu-17 State=DRAIN Reason={reason}"]
    assert (code, log) == (0, f"xidwatch-epilog: drained gpu-17: {reason}\n")


def test_slurm_is_not_asked_anything_after_a_job_without_a_fatal_event(
    node: Node, running_daemon: Daemon, kernel_log: FakeKernelLog
) -> None:
    print_line(kernel_log, running_daemon, WARNING)
    assert node.end_job(SLURM_JOB_START_TIME=ago(60)) == (0, "")
    assert node.asked() == []


def test_a_fatal_event_before_the_job_is_not_held_against_it(
    node: Node, running_daemon: Daemon, kernel_log: FakeKernelLog
) -> None:
    print_line(kernel_log, running_daemon, FATAL)
    assert node.end_job(SLURM_JOB_START_TIME=ago(-60)) == (0, "")
    assert node.asked() == []


def test_a_drill_drains_no_node(node: Node, running_daemon: Daemon, kernel_log: FakeKernelLog) -> None:
    print_line(kernel_log, running_daemon, DRILL, priority=12)  # facility user: as written by a process
    (drill,) = running_daemon.events("since=0&kind=xid")
    assert (drill["drill"], drill["severity"]) == (True, "fatal")
    assert node.end_job(SLURM_JOB_START_TIME=ago(60)) == (0, "")


def test_an_older_slurm_is_asked_when_the_job_began(
    node: Node, running_daemon: Daemon, kernel_log: FakeKernelLog
) -> None:
    node.slurm(job=time.strftime("StartTime=%Y-%m-%dT%H:%M:%S", time.localtime(time.time() - 60)))
    print_line(kernel_log, running_daemon, FATAL)
    assert node.end_job()[0] == 0
    assert node.asked()[0] == "-o show job 7"
    assert "State=DRAIN" in node.asked()[-1]


def test_a_start_that_slurm_does_not_know_drains_nothing_and_is_logged(node: Node) -> None:
    node.slurm(job="StartTime=Unknown")
    code, log = node.end_job()
    assert code == 0
    assert "not known whether the GPUs are sound: Slurm does not know when the job began" in log


@pytest.mark.parametrize("state", ["IDLE+DRAIN", "DOWN*"])
def test_a_node_that_is_out_already_keeps_its_reason(
    node: Node, running_daemon: Daemon, kernel_log: FakeKernelLog, state: str
) -> None:
    node.slurm(state=state)
    print_line(kernel_log, running_daemon, FATAL)
    code, log = node.end_job(SLURM_JOB_START_TIME=ago(60))
    assert node.asked() == ["-o show node gpu-17"]
    assert code == 0
    assert f"gpu-17 is {state} already" in log


def test_a_node_that_scontrol_does_not_drain_is_left_to_slurmd(
    node: Node, running_daemon: Daemon, kernel_log: FakeKernelLog
) -> None:
    node.slurm(update="echo slurm_update error: Invalid user id >&2; exit 1")
    print_line(kernel_log, running_daemon, FATAL)
    code, log = node.end_job(SLURM_JOB_START_TIME=ago(60))
    assert code == 1
    assert "scontrol failed: slurm_update error: Invalid user id" in log


def test_no_daemon_drains_nothing_fails_nothing_and_is_logged(node: Node, running_daemon: Daemon) -> None:
    running_daemon.stop()
    code, log = node.end_job(SLURM_JOB_START_TIME=ago(60))
    assert (code, node.asked()) == (0, [])
    assert "xidwatch failed: xidwatch: no daemon listens" in log


def test_a_node_without_xidwatch_drains_nothing_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    node = Node(tmp_path)
    node.slurm()
    code, log = node.end_job(SLURM_JOB_START_TIME=ago(60))
    assert (code, node.asked()) == (0, [])
    assert "xidwatch is not installed" in log


def test_a_daemon_that_does_not_answer_holds_no_job_up(node: Node) -> None:
    node.program("xidwatch", "exec sleep 600")
    impatient = node.folder / "epilog"
    impatient.write_text(EPILOG.read_text().replace("XIDWATCH_S = 15", "XIDWATCH_S = 1"))
    code, log = node.end_job(impatient, SLURM_JOB_START_TIME=ago(60))
    assert code == 0
    assert "xidwatch did not answer within 1 s" in log


def test_an_answer_that_is_no_event_drains_nothing(node: Node) -> None:
    node.program("xidwatch", "echo '[]'; echo nonsense")
    code, log = node.end_job(SLURM_JOB_START_TIME=ago(60))
    assert (code, node.asked()) == (0, [])
    assert "is not understood" in log


def test_it_can_be_executed_as_it_is() -> None:
    assert os.access(EPILOG, os.X_OK)
