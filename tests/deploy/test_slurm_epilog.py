"""The Slurm epilog, with a running daemon and a scontrol that writes down what it was asked."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
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

    def slurm(self, *, state: str = "IDLE", began: str = "", update: str = "exit 0") -> None:
        """scontrol and squeue, which say this of node and job, and do `update` to change something."""
        asked = shlex.quote(str(self.folder / "asked"))
        self.program(
            "scontrol",
            f'echo "$@" >>{asked}\n'
            f'case "$*" in\n'
            f'*"show node"*) echo "NodeName=gpu-17 Arch=x86_64 State={state} Reason=ask me State=DRAIN" ;;\n'
            f"*) {update} ;;\nesac",
        )
        self.program("squeue", f'echo "squeue $@" >>{asked}\necho "{began}"')

    def asked(self) -> list[str]:
        """What scontrol and squeue were asked."""
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
def node(tmp_path: Path) -> Node:
    """With Slurm, and without xidwatch."""
    (tmp_path / "bin").mkdir()
    node = Node(tmp_path)
    node.slurm()
    return node


@pytest.fixture
def daemon(node: Node, running_daemon: Daemon) -> Daemon:
    """xidwatch on the node."""
    xidwatch = shlex.join([sys.executable, "-m", "xidwatch"])
    socket = shlex.quote(str(running_daemon.socket))
    node.program("xidwatch", f'cd {shlex.quote(str(ROOT))} && exec {xidwatch} "$@" --socket {socket}')
    return running_daemon


def print_line(log: FakeKernelLog, daemon: Daemon, line: str, **options: int) -> None:
    """A line of the kernel log, a minute of kernel time after those before, and heard."""
    known = len(daemon.events())
    log.write(line, time_us=time.monotonic_ns() // 1000, **options)
    wait_for(lambda: len(daemon.events()) > known, "the event")


def ago(seconds: float) -> str:
    """SLURM_JOB_START_TIME of a job that began so long ago; negative: that will begin."""
    return str(int(time.time() - seconds))


def changed(node: Node, what: str, into: str) -> Path:
    """A copy of the epilog with another value of a constant."""
    text = EPILOG.read_text(encoding="utf-8")
    assert text.count(what) == 1
    copy = node.folder / "epilog"
    copy.write_text(text.replace(what, into), encoding="utf-8")
    return copy


def test_a_fatal_event_during_the_job_drains_the_node_with_its_name(
    node: Node, daemon: Daemon, kernel_log: FakeKernelLog
) -> None:
    print_line(kernel_log, daemon, FATAL)
    code, log = node.end_job(SLURM_JOB_START_TIME=ago(60))
    reason = "xidwatch: Xid 79 on 0000:3b:00.0 (GPU no longer answers on PCIe) during job 7"
    assert node.asked() == ["-o show node gpu-17", f"update NodeName=gpu-17 State=DRAIN Reason={reason}"]
    assert (code, log) == (0, f"xidwatch-epilog: drained gpu-17: {reason}\n")


def test_slurm_is_not_asked_anything_after_a_job_without_a_fatal_event(
    node: Node, daemon: Daemon, kernel_log: FakeKernelLog
) -> None:
    print_line(kernel_log, daemon, WARNING)
    assert node.end_job(SLURM_JOB_START_TIME=ago(60)) == (0, "")
    assert node.asked() == []


def test_a_fatal_event_before_the_job_is_not_held_against_it(
    node: Node, daemon: Daemon, kernel_log: FakeKernelLog
) -> None:
    print_line(kernel_log, daemon, FATAL)
    assert node.end_job(SLURM_JOB_START_TIME=ago(-60)) == (0, "")
    assert node.asked() == []


def test_a_drill_drains_no_node(node: Node, daemon: Daemon, kernel_log: FakeKernelLog) -> None:
    print_line(kernel_log, daemon, DRILL, priority=12)  # facility user: as written by a process
    (drill,) = daemon.events("since=0&kind=xid")
    assert (drill["drill"], drill["severity"]) == (True, "fatal")
    assert node.end_job(SLURM_JOB_START_TIME=ago(60)) == (0, "")


def test_an_older_slurm_is_asked_when_the_job_began(
    node: Node, daemon: Daemon, kernel_log: FakeKernelLog
) -> None:
    node.slurm(began=time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() - 60)))
    print_line(kernel_log, daemon, FATAL)
    assert node.end_job()[0] == 0
    # Not `scontrol show job`: what the user called the job, or said of it, may look like any field there.
    assert node.asked()[0] == "squeue --noheader --states=all --jobs=7 --format=%S"
    assert "State=DRAIN" in node.asked()[-1]


def test_a_start_that_slurm_does_not_know_drains_nothing_and_is_logged(node: Node) -> None:
    node.slurm(began="N/A")
    code, log = node.end_job()
    assert code == 0
    assert "not known whether the GPUs are sound: Slurm does not know when the job began" in log


@pytest.mark.parametrize("state", ["IDLE+DRAIN", "DOWN*"])
def test_a_node_that_is_out_already_keeps_its_reason(
    node: Node, daemon: Daemon, kernel_log: FakeKernelLog, state: str
) -> None:
    node.slurm(state=state)
    print_line(kernel_log, daemon, FATAL)
    code, log = node.end_job(SLURM_JOB_START_TIME=ago(60))
    assert node.asked() == ["-o show node gpu-17"]
    assert code == 0
    assert f"gpu-17 is {state} already" in log


@pytest.mark.parametrize("state", ["IDLE+CLOUD+POWERED_DOWN", "MIXED+PLANNED", "ALLOCATED+POWERING_DOWN#"])
def test_a_node_in_any_other_state_is_drained(
    node: Node, daemon: Daemon, kernel_log: FakeKernelLog, state: str
) -> None:
    node.slurm(state=state)
    print_line(kernel_log, daemon, FATAL)
    assert node.end_job(SLURM_JOB_START_TIME=ago(60))[0] == 0
    assert "State=DRAIN" in node.asked()[-1]


def test_a_node_that_scontrol_does_not_drain_is_left_to_slurmd(
    node: Node, daemon: Daemon, kernel_log: FakeKernelLog
) -> None:
    node.slurm(update="echo slurm_update error: Invalid user id >&2; exit 1")
    print_line(kernel_log, daemon, FATAL)
    code, log = node.end_job(SLURM_JOB_START_TIME=ago(60))
    assert code == 1
    assert "scontrol failed: slurm_update error: Invalid user id" in log


def test_no_daemon_drains_nothing_fails_nothing_and_is_logged(node: Node, daemon: Daemon) -> None:
    daemon.stop()
    code, log = node.end_job(SLURM_JOB_START_TIME=ago(60))
    assert (code, node.asked()) == (0, [])
    assert "xidwatch failed: xidwatch: no daemon listens" in log


def test_a_node_without_xidwatch_drains_nothing_and_says_so(node: Node) -> None:
    code, log = node.end_job(SLURM_JOB_START_TIME=ago(60))
    assert (code, node.asked()) == (0, [])
    assert "xidwatch is not installed" in log


def test_a_daemon_that_does_not_answer_holds_no_job_up(node: Node) -> None:
    node.program("xidwatch", "exec sleep 600")
    code, log = node.end_job(changed(node, "XIDWATCH_S = 15", "XIDWATCH_S = 1"), SLURM_JOB_START_TIME=ago(60))
    assert code == 0
    assert "xidwatch did not answer within 1 s" in log


def test_a_command_that_cannot_be_started_drains_nothing(node: Node) -> None:
    node.program("xidwatch", "exit 0")
    (node.folder / "bin" / "xidwatch").write_text("#!/nowhere/python3\n")  # removed by an upgrade
    code, log = node.end_job(SLURM_JOB_START_TIME=ago(60))
    assert (code, node.asked()) == (0, [])
    assert "xidwatch cannot be started: No such file or directory" in log


@pytest.mark.parametrize("seconds", ["9" * 30, "\u00b2", "-1", "soon"])
def test_a_start_that_is_no_time_drains_nothing(node: Node, seconds: str) -> None:
    node.slurm(began="N/A")
    code, log = node.end_job(SLURM_JOB_START_TIME=seconds)
    assert code == 0
    assert "Slurm does not know when the job began" in log
    assert not any("DRAIN" in asked for asked in node.asked())


@pytest.mark.parametrize("then", ["exec sleep 600", "exit 1", "while :; do cat event; done"])
def test_what_was_told_before_an_answer_broke_off_or_without_end_counts(
    node: Node, daemon: Daemon, kernel_log: FakeKernelLog, then: str
) -> None:
    print_line(kernel_log, daemon, FATAL)
    (event,) = daemon.events("since=0&kind=xid")
    (node.folder / "event").write_text(json.dumps(event) + "\n")
    node.program("xidwatch", f"cd {shlex.quote(str(node.folder))}; cat event; {then}")
    code, log = node.end_job(changed(node, "XIDWATCH_S = 15", "XIDWATCH_S = 1"), SLURM_JOB_START_TIME=ago(60))
    assert code == 0
    assert "State=DRAIN" in node.asked()[-1]
    assert "drained gpu-17: xidwatch: Xid 79" in log


def test_a_system_log_that_hangs_holds_no_job_up(node: Node) -> None:
    node.program("xidwatch", "exit 1")
    place = node.folder / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unread:
        unread.bind(str(place))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, pytest.raises(BlockingIOError):
            sender.setblocking(False)
            while True:
                sender.sendto(b"full", str(place))
        epilog = changed(node, '"/dev/log"', repr(str(place)))
        assert node.end_job(epilog, SLURM_JOB_START_TIME=ago(60))[0] == 0


def test_the_system_log_tells_who_spoke(node: Node) -> None:
    node.program("xidwatch", "exit 1")
    place = node.folder / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as read:
        read.bind(str(place))
        node.end_job(changed(node, '"/dev/log"', repr(str(place))), SLURM_JOB_START_TIME=ago(60))
        text = read.recv(4096).decode()
    assert re.match(r"<28>xidwatch-epilog\[\d+\]: job 7: not known whether", text)  # daemon.warning


def test_an_answer_that_is_no_event_drains_nothing(node: Node) -> None:
    node.program("xidwatch", "echo '[]'; echo nonsense")
    code, log = node.end_job(SLURM_JOB_START_TIME=ago(60))
    assert (code, node.asked()) == (0, [])
    assert "is not understood" in log


def test_it_can_be_executed_as_it_is() -> None:
    assert os.access(EPILOG, os.X_OK)
