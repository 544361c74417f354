"""A disk that is full or has become read-only while the daemon runs: the push goes on, and status says so."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import xidwatch
from tests.support.daemon import Daemon
from tests.support.fault_lab import Happened, fault
from tests.support.kernel_log import FakeKernelLog
from tests.support.readers import Follower, everything_kept
from tests.support.waiting import DEADLINE_S, wait_for


@pytest.fixture
def mounts() -> Iterator[ExitStack]:
    """Undoes what a test has mounted; skips where nothing can be mounted."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root and mount")
    with ExitStack() as stack:
        yield stack


def command(*arguments: str) -> None:
    """Run a system command; skip, with what it says, where it does not work."""
    if shutil.which(arguments[0]) is None:
        pytest.skip(f"{arguments[0]} is not installed")
    done = subprocess.run(arguments, capture_output=True, timeout=DEADLINE_S, check=False)
    if done.returncode:
        pytest.skip(f"{' '.join(arguments)}: {done.stderr.decode().strip()}")


def mounted(mounts: ExitStack, where: Path, *options: str) -> None:
    """Mount something at a new directory `where` until the end of the test."""
    where.mkdir()
    command("mount", *options, str(where))
    mounts.callback(subprocess.run, ["umount", "--lazy", str(where)], check=True)


def fill(disk: Path) -> Path:
    """Use up every byte of the disk; the file that did."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        size = 1 << 20
        while size:
            try:
                file.write(b"\0" * size)
            except OSError as error:
                assert error.errno == errno.ENOSPC
                size //= 2
    return filler


def wait_until_journal_is(daemon: Daemon, state: str) -> dict[str, Any]:
    """What status says of the journal, once it is in this state."""

    def journal() -> dict[str, Any] | None:
        told = json.loads(xidwatch("status", "--json", "--socket", str(daemon.socket)).out)
        found: dict[str, Any] = told["journal"]
        return found if found["state"] == state else None

    return wait_for(journal, f"the journal to be {state}")


NO_PROCESS = 2**22
"""No process has this pid or a higher one: nothing is found out about it that would be a later revision."""


def write_faults(log: FakeKernelLog, first: int, count: int) -> None:
    for number in range(first, first + count):
        text = f"NVRM: Xid (PCI:0000:91:00): 79, pid={NO_PROCESS + number}, name=python3, " + "x" * 900
        log.write(text, time_us=log.time_us + 60_000_000)


def faults(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events of the lines written, without the incidents that they make."""
    return [item for item in items if item["kind"] == "xid"]


def pids(items: Sequence[dict[str, Any]]) -> list[int]:
    """Of the faults, each of which may have come in several revisions; as `write_faults` numbers them."""
    return sorted({fault["process"]["pid"] - NO_PROCESS for fault in faults(items)})


def kept_faults(daemon: Daemon) -> list[dict[str, Any]]:
    return faults(everything_kept(daemon))


@fault(
    "the disk is full to its last byte, then has space again",
    promise=3,
    promised="the push goes on, status says why nothing is stored; then all is stored",
)
def test_a_full_disk_does_not_hold_back_the_push_and_nothing_is_lost_when_there_is_space_again(
    tmp_path: Path, kernel_log: FakeKernelLog, mounts: ExitStack, happened: Happened
) -> None:
    mounted(mounts, tmp_path / "state", "-t", "tmpfs", "-o", "size=2m", "none")
    daemon = Daemon(tmp_path, kmsg=kernel_log.path)
    try:
        daemon.start()
        with Follower(daemon) as follower:
            write_faults(kernel_log, 1, 1)
            follower.wait_until(lambda items: pids(list(items)) == [1], "the first fault")
            filler = fill(daemon.state_dir)
            write_faults(kernel_log, 2, 40)
            last = follower.wait_until(
                lambda items: len(pids(items)) >= 41 and items[-1], "what comes on a full disk"
            )
            assert last["stored"] is False
            told = wait_until_journal_is(daemon, "failing")
            assert "full" in told["reason"]
            assert told["unstored"] > 0
            assert daemon.get("/healthz")[0] == daemon.get("/readyz")[0] == 200
            shown = xidwatch("status", "--socket", str(daemon.socket)).out
            assert "full" in shown

            filler.unlink()
            assert wait_until_journal_is(daemon, "ok")["unstored"] == 0
            assert all(item["stored"] for item in everything_kept(daemon))
            assert len(kept_faults(daemon)) == 41
        daemon.kill()
        daemon.start()
        assert pids(everything_kept(daemon)) == list(range(1, 42))
    finally:
        daemon.stop()
    assert "Traceback" not in daemon.log.read_text()
    happened("40 faults told on a full disk; all 41 are kept, also by the journal that a kill left")


@fault(
    "the file system becomes read-only under a running daemon, as after an error of the disk",
    promise=3,
    promised="the push goes on, status says what is not stored; it ends in order",
)
def test_a_disk_that_becomes_read_only_does_not_hold_back_the_push(
    tmp_path: Path, kernel_log: FakeKernelLog, mounts: ExitStack, happened: Happened
) -> None:
    image, state = tmp_path / "disk", tmp_path / "state"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    command("mkfs.ext4", "-q", str(image))
    mounted(mounts, state, "-o", "loop,errors=remount-ro", str(image))
    daemon = Daemon(tmp_path, kmsg=kernel_log.path)
    try:
        daemon.start()
        with Follower(daemon) as follower:
            write_faults(kernel_log, 1, 1)
            follower.wait_until(lambda items: pids(list(items)) == [1], "the first fault")
            # ext4(5): as after an error of the disk, files that are open for writing included.
            command("mount", "-o", "remount,abort", str(state))
            write_faults(kernel_log, 2, 3)
            items = follower.wait_until(
                lambda items: len(pids(items)) >= 4 and list(items), "what comes then"
            )
            assert pids(items) == [1, 2, 3, 4]
            assert items[-1]["stored"] is False
            told = wait_until_journal_is(daemon, "failing")
            assert told["reason"]
            assert told["unstored"] == len([item for item in everything_kept(daemon) if not item["stored"]])
            assert pids([item for item in everything_kept(daemon) if not item["stored"]]) == [2, 3, 4]
            assert pids(everything_kept(daemon)) == [1, 2, 3, 4]
    finally:
        assert daemon.stop() == 0
    assert "Traceback" not in daemon.log.read_text()
    happened("three faults told as not stored, and counted as such in status")


@pytest.mark.parametrize("ended", [Daemon.stop, Daemon.kill])
@fault(
    "the disk is read-only when the daemon starts, and becomes writable later",
    promise=2,
    promised="what is kept is served, the push goes on, status says why; then all is stored",
)
def test_a_disk_that_is_read_only_from_the_start_is_read_and_does_not_hold_back_the_push(
    tmp_path: Path,
    kernel_log: FakeKernelLog,
    mounts: ExitStack,
    ended: Callable[[Daemon], object],
    happened: Happened,
) -> None:
    mounted(mounts, tmp_path / "state", "-t", "tmpfs", "none")
    # Not all fit into memory: the first ones have to be read from the read-only disk. Without readings no
    # revision is still to come when the daemon ends.
    daemon = Daemon(tmp_path, kmsg=kernel_log.path, flags=["--ring-size", "64", "--gpu", "off"])
    try:
        daemon.start()
        write_faults(kernel_log, 1, 100)
        wait_for(lambda: len(kept_faults(daemon)) == 100, "the faults of the first run")
        ended(daemon)
        # Asked only now: the last revisions may come as late as the end.
        told = xidwatch("tail", "--json", "--since", "0", "--state-dir", str(daemon.state_dir)).out
        before = faults([json.loads(line) for line in told.splitlines()])
        assert len(before) == 100
        command("mount", "-o", "remount,ro", str(daemon.state_dir))
        daemon.start()
        assert "Read-only" in wait_until_journal_is(daemon, "failing")["reason"]
        assert kept_faults(daemon) == before
        with Follower(daemon) as follower:
            write_faults(kernel_log, 101, 1)
            last = follower.wait_until(
                lambda items: 101 in pids(items) and faults(items)[-1], "what comes then"
            )
        assert (last["process"]["pid"] - NO_PROCESS, last["stored"]) == (101, False)
        assert last["cursor"] > before[-1]["cursor"]
        assert pids(everything_kept(daemon)) == list(range(1, 102))

        command("mount", "-o", "remount,rw", str(daemon.state_dir))
        assert wait_until_journal_is(daemon, "ok")["unstored"] == 0
        daemon.kill()
        daemon.start()
        assert pids(everything_kept(daemon)) == list(range(1, 102))
        assert kept_faults(daemon)[:100] == before
    finally:
        daemon.stop()
    assert "Traceback" not in daemon.log.read_text()
    happened(
        f"after an end by {ended.__name__}: all 100 faults served from the disk, the next one told and kept"
    )


def test_an_empty_disk_that_is_read_only_does_not_hold_back_the_push(
    tmp_path: Path, kernel_log: FakeKernelLog, mounts: ExitStack
) -> None:
    mounted(mounts, tmp_path / "state", "-t", "tmpfs", "-o", "ro", "none")
    daemon = Daemon(tmp_path, kmsg=kernel_log.path)
    try:
        daemon.start()
        write_faults(kernel_log, 1, 1)
        wait_for(lambda: pids(everything_kept(daemon)) == [1], "the fault")
        assert "Read-only" in wait_until_journal_is(daemon, "failing")["reason"]
    finally:
        assert daemon.stop() == 0
    assert "Traceback" not in daemon.log.read_text()


@fault(
    "the state directory is deleted while the daemon is down",
    promise=2,
    promised="whoever comes with an older cursor is told once what he missed",
)
def test_a_reader_whose_journal_was_removed_is_told_that_it_missed_events(
    tmp_path: Path, kernel_log: FakeKernelLog, happened: Happened
) -> None:
    daemon = Daemon(tmp_path, kmsg=kernel_log.path)
    try:
        daemon.start()
        write_faults(kernel_log, 1, 2)
        wait_for(lambda: len(kept_faults(daemon)) == 2, "the faults")
        cursors = [item["cursor"] for item in everything_kept(daemon)]
        daemon.stop()
        first, last = cursors[0], cursors[-1]
        shutil.rmtree(daemon.state_dir)
        daemon.start()
        page = json.loads(daemon.get(f"/events.json?since={first}")[1])
        assert page["events"] == []
        assert page["missed"]["first"] == first + 1
        assert page["missed"]["last"] >= last
        assert json.loads(daemon.get(f"/events.json?since={page['next_cursor']}")[1])["missed"] is None
        write_faults(kernel_log, 3, 1)
        wait_for(lambda: pids(everything_kept(daemon)) == [3], "what comes then")
        told = xidwatch("tail", "--json", "--since", str(first), "--socket", str(daemon.socket)).out
        missed, *items = (json.loads(line) for line in told.splitlines())
        assert (missed, pids(items)) == ({"missed": page["missed"]}, [3])
    finally:
        daemon.stop()
    happened("told once, as a range of cursors; the next fault came behind it")
