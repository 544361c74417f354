"""Looking up real processes, and a /proc that plays tricks."""

from __future__ import annotations

import asyncio
import os
import pwd
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemon.gpu.process import COMMAND_LINE_LIMIT, MOST_PID, ProcessFacts, ProcessReader, checked_pid
from probes.errors import UserError
from tests.support.waiting import wait_for

STATUS = "Name:\t{name}\nTgid:\t{pid}\nUid:\t{uid}\t0\t0\t0\nNSpid:\t{pid}\n"


def look_up(reader: ProcessReader, *pids: int, deadline_s: float = 20.0) -> dict[int, ProcessFacts]:
    return asyncio.run(reader.look_up(pids, deadline_s=deadline_s))


def facts_of(pid: int) -> ProcessFacts:
    return look_up(ProcessReader(host_pids=True), pid)[pid]


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits on its standard input, after it has become what it is."""
    program = "import sys; print(flush=True); sys.stdin.read()"
    child = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        child.stdout.readline()
        yield child
    finally:
        child.communicate()


def fake_process(proc: Path, pid: int, *, ticks: int = 77, uid: int = 0, cgroup: str = "0::/x\n") -> Path:
    """A directory that looks like /proc/PID."""
    directory = proc / str(pid)
    directory.mkdir()
    (directory / "status").write_text(STATUS.format(name="cuda (x) y", pid=pid, uid=uid))
    (directory / "stat").write_text(f"{pid} (cuda (x) y) S {' '.join(['0'] * 18)} {ticks} 0 0\n")
    (directory / "cgroup").write_text(cgroup)
    (directory / "cmdline").write_bytes(b"train.py\0--lr\0")
    return directory


def test_a_living_process_is_known_by_name_command_line_user_and_start() -> None:
    with running("--token", "s3cret") as child:
        facts = facts_of(child.pid)
    assert facts.found
    assert facts.command_line is not None
    assert facts.command_line.endswith("sys.stdin.read() --token s3cret")
    assert facts.name is not None
    assert facts.name.startswith("python")
    assert (facts.uid, facts.user) == (os.getuid(), pwd.getpwuid(os.getuid()).pw_name)


def test_the_start_is_wall_clock_time_in_microseconds() -> None:
    before = time.time_ns() // 1000
    with running() as child:
        started_us = facts_of(child.pid).started_us
    assert started_us is not None
    assert before - 1_000_000 <= started_us <= time.time_ns() // 1000 + 1_000_000


def test_a_process_that_ended_is_all_none_with_the_reason() -> None:
    with running() as child:
        pass
    facts = facts_of(child.pid)
    assert not facts.found
    assert facts == ProcessFacts(child.pid, unread=facts.unread)
    assert "ended" in facts.unread["command_line"]
    assert set(facts.unread) >= {"user", "started_us", "container_id"}


def test_a_zombie_has_no_command_line_and_says_so() -> None:
    child = subprocess.Popen(["true"])
    wait_for(lambda: "Z" in Path(f"/proc/{child.pid}/stat").read_text().split(), "the zombie")
    facts = facts_of(child.pid)
    child.wait()
    assert facts.found
    assert facts.command_line is None
    assert "ending" in facts.unread["command_line"]


def test_a_long_command_line_is_cut_and_what_could_act_on_a_terminal_is_shown() -> None:
    with running("\x1b[2J\u202e", "x" * 10_000) as child:
        line = facts_of(child.pid).command_line
    assert line is not None
    assert len(line) == COMMAND_LINE_LIMIT
    assert line.endswith("…")
    assert r"\x1b[2J\u202e" in line


def test_a_thread_is_no_process() -> None:
    ready, stop, ids = threading.Event(), threading.Event(), []

    def wait() -> None:
        ids.append(threading.get_native_id())
        ready.set()
        stop.wait()

    thread = threading.Thread(target=wait)
    thread.start()
    ready.wait()
    facts = facts_of(ids[0])
    stop.set()
    thread.join()
    assert facts.unread["name"] == f"it is a thread of process {os.getpid()}"


def test_nothing_is_answered_where_the_pids_of_the_host_cannot_be_seen() -> None:
    facts = look_up(ProcessReader(host_pids=False), os.getpid())[os.getpid()]
    assert not facts.found
    assert "pid namespace" in facts.unread["name"]


def test_a_process_in_a_container_carries_its_id(tmp_path: Path) -> None:
    identity = "0123456789abcdef" * 4
    fake_process(tmp_path, 12, cgroup=f"0::/system.slice/docker-{identity}.scope\n")
    facts = look_up(ProcessReader(tmp_path, host_pids=True), 12)[12]
    assert (facts.in_container, facts.container_id) == (True, identity)
    assert facts.name == "cuda (x) y"
    assert facts.start_ticks == 77


def test_a_user_without_a_name_stays_a_number(tmp_path: Path) -> None:
    fake_process(tmp_path, 12, uid=3_999_999_999)
    facts = look_up(ProcessReader(tmp_path, host_pids=True), 12)[12]
    assert (facts.uid, facts.user) == (3_999_999_999, None)
    assert "names no user 3999999999" in facts.unread["user"]


def test_a_command_line_that_hangs_holds_up_nobody_and_is_tried_once(tmp_path: Path) -> None:
    hanging = fake_process(tmp_path, 12)
    fake_process(tmp_path, 13)
    (hanging / "cmdline").unlink()
    os.mkfifo(hanging / "cmdline")  # opening it blocks, as the lock of a stuck process does
    reader = ProcessReader(tmp_path, host_pids=True)

    first = look_up(reader, 12, 13, deadline_s=0.2)
    assert first[12].start_ticks == 77
    assert "hung" in first[12].unread["command_line"]
    assert "deadline" in first[13].unread["command_line"]

    second = look_up(reader, 12, 13)
    assert "hung" in second[12].unread["command_line"]
    assert second[13].command_line == "train.py --lr"

    with (hanging / "cmdline").open("wb") as pipe:  # lets the thread go that was left behind
        pipe.write(b"late\0")
    wait_for(lambda: "process facts" not in [t.name for t in threading.enumerate()], "the thread's end")
    (hanging / "cmdline").unlink()
    (hanging / "cmdline").write_bytes(b"train.py\0")
    assert look_up(reader, 12)[12].command_line == "train.py"


def test_what_does_not_parse_is_unknown_and_not_an_error(tmp_path: Path) -> None:
    directory = fake_process(tmp_path, 12)
    (directory / "stat").write_text("nonsense")
    facts = look_up(ProcessReader(tmp_path, host_pids=True), 12)[12]
    assert not facts.found
    assert "does not parse" in facts.unread["started_us"]


def test_no_pids_start_no_thread() -> None:
    assert look_up(ProcessReader(host_pids=True)) == {}


def test_the_json_form_names_every_field_and_every_reason() -> None:
    facts = facts_of(os.getpid())
    data = facts.to_json()
    assert data["pid"] == os.getpid()
    assert data["command_line"] == facts.command_line
    assert data["unread"] == dict(facts.unread)


@pytest.mark.parametrize("pid", [-1, 0, MOST_PID + 1])
def test_a_number_that_no_process_can_have_is_refused(pid: int) -> None:
    with pytest.raises(UserError, match=f"{pid} is not a process id") as refusal:
        checked_pid(pid)
    assert refusal.value.hint is not None
    assert checked_pid(1) == 1
