"""A disk that is slow, hangs, breaks or becomes full under a running daemon.

The faults are those of `tests.support.faulty_disk`: they meet the calls of the daemon on its journal, and
nothing else on this machine.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.fault_lab import Happened, fault
from tests.support.faulty_disk import ALWAYS, Action, Calls
from tests.support.faulty_node import Node, numbers
from tests.support.readers import Follower, everything_kept
from tests.support.waiting import wait_for


def check_all_after_kill(node: Node) -> None:
    """Everything is in the journal that a kill leaves."""
    node.daemon.kill()
    node.daemon.start()
    kept = everything_kept(node.daemon)
    assert numbers(kept) == list(range(1, node.written + 1))
    assert all(item["count"] == 1 for item in kept)


@fault(
    "a slow disk: every write and sync takes 0.4 s",
    promise=3,
    promised="the push does not wait for it; what goes out before it is kept says so; nothing is lost",
)
def test_a_slow_disk_does_not_hold_back_the_push(node: Node, happened: Happened) -> None:
    with Follower(node.daemon) as follower:
        node.count(Calls.WRITE | Calls.SYNC)
        node.disk.takes(400_000)
        node.write(20)
        follower.wait_until(lambda items: len(numbers(items)) == 21, "all of them")
        late = [item for item in follower.items if not item["stored"]]
        assert late
        calls_when_told = node.disk.calls
        node.disk.works()
        node.wait_until_stored()
        told = node.journal()
    assert (told["lost"], told["failures"]) == (0, 0)
    check_all_after_kill(node)
    happened(
        f"20 faults were told within {calls_when_told} slow calls, {len(late)} items as not yet stored;"
        " all are kept"
    )


@fault(
    "a disk that hangs, and comes back",
    promise=3,
    promised="the push, the answers and the health checks go on; when it comes back, all is stored",
)
def test_a_disk_that_hangs_holds_nothing_back_and_loses_nothing(node: Node, happened: Happened) -> None:
    with Follower(node.daemon) as follower:
        node.count()
        node.disk.hangs()
        news = node.write(50)
        follower.wait_until(lambda items: len(numbers(items)) == 51, "all of them")
        assert node.disk.waiting == 1, "one thread writes, and waits for the disk"
        told = node.wait_until_journal_is("slow")
        assert "hangs" in told["reason"]
        assert told["unstored"] >= len(news)
        assert node.daemon.get("/healthz")[0] == node.daemon.get("/readyz")[0] == 200
        # What memory holds is served although its disk hangs.
        assert numbers(everything_kept(node.daemon)) == list(range(1, 52))
        node.disk.works()
        node.wait_until_stored()
    check_all_after_kill(node)
    happened(f"{len(news)} faults told while it hung, {told['unstored']} waited for it; all are kept")


@fault(
    "SIGTERM while the disk hangs for ever",
    promise=4,
    promised="it ends by itself and says how much was not stored; the next start names what is gone",
)
def test_a_daemon_whose_disk_hangs_can_be_stopped(node: Node, happened: Happened) -> None:
    with Follower(node.daemon) as follower:
        node.count()
        node.disk.hangs()
        lost = node.write(3)
        follower.wait_until(lambda items: len(numbers(items)) == 4, "all of them")
    assert node.daemon.stop() == 0
    assert "events were not stored" in node.daemon.log.read_text()
    node.disk.works()
    node.daemon.start()
    after = node.write(1)
    wait_for(lambda: after[0] in numbers(everything_kept(node.daemon)), "the next fault")
    kept = everything_kept(node.daemon)
    [gap] = [item for item in kept if item["kind"] == "gap"]
    # The FIFO does not give a record twice; the kernel's own log would.
    assert numbers(kept) == [1, *after]
    assert gap["detail"]["lost_records"] == len(lost)
    happened("exit code 0; three events were not stored, and the next start named three lost records")


@fault(
    "every write to the disk fails with an I/O error, then works again",
    promise=1,
    promised="events go out as not stored, status says why; then all is stored",
)
def test_a_disk_with_errors_costs_nothing_once_it_works_again(node: Node, happened: Happened) -> None:
    with Follower(node.daemon) as follower:
        node.count(Calls.WRITE)
        node.disk.fails(errno.EIO)
        news = node.write(30)
        follower.wait_until(lambda items: len(numbers(items)) == 31, "all of them")
        told = node.wait_until_journal_is("failing")
        assert "I/O error" in told["reason"]
        assert [item["stored"] for item in everything_kept(node.daemon) if item["kind"] == "xid"] == [
            True,
            *[False] * len(news),
        ]
        wait_for(lambda: node.journal()["failures"] > 1, "another try")
        refused = node.disk.hit
        node.disk.works()
        node.wait_until_stored()
    check_all_after_kill(node)
    happened(f"{len(news)} faults told, {refused} writes refused; then all were stored, each once")


@fault(
    "the disk takes writes, and fails when they are to be brought to it",
    promise=2,
    promised="status says so; the events are told all the same",
)
def test_a_sync_that_fails_is_said(node: Node, happened: Happened) -> None:
    node.count(Calls.SYNC)
    node.disk.at(1, Action.FAIL, upto=ALWAYS, error=errno.EIO)
    node.write(1, code=79)
    trouble = wait_for(lambda: node.journal()["last_error"], "status to say so")
    assert "cannot sync the journal" in trouble
    assert node.disk.hit > 0
    assert numbers(everything_kept(node.daemon)) == [1, 2]
    happened(f"status: {trouble}")


@fault(
    "the disk becomes full in the middle of a commit, and stays so for a while",
    promise=1,
    promised="events go out as not stored, status says why; then all is stored",
)
def test_a_disk_that_becomes_full_in_the_middle_of_a_commit_costs_nothing(
    node: Node, happened: Happened
) -> None:
    with Follower(node.daemon) as follower:
        node.count(Calls.WRITE)
        node.disk.at(4, Action.FAIL_HALFWAY, upto=ALWAYS, error=errno.ENOSPC)
        news = node.write(30)
        follower.wait_until(lambda items: len(numbers(items)) == 31, "all of them")
        told = node.wait_until_journal_is("failing")
        assert "full" in told["reason"]
        node.disk.works()
        node.wait_until_stored()
    check_all_after_kill(node)
    happened(f"{len(news)} faults told while it was full; then all were stored, each once")


def delete_journal(node: Node) -> None:
    """As someone does who makes room."""
    for path in node.daemon.state_dir.glob("journal.sqlite3*"):
        path.unlink()


def delete_log_of_journal(node: Node) -> None:
    """As someone does who takes it for a log."""
    Path(f"{node.daemon.state_dir}/journal.sqlite3-wal").unlink()


def delete_state_dir(node: Node) -> None:
    """As someone does who cleans up."""
    shutil.rmtree(node.daemon.state_dir)


def restore_older_journal(node: Node) -> None:
    """As someone does who restores a backup."""
    state = node.daemon.state_dir
    shutil.copy(state / "journal.sqlite3", state / "backup")
    delete_journal(node)
    (state / "backup").rename(state / "journal.sqlite3")


@pytest.mark.parametrize(
    "damage", [delete_journal, delete_log_of_journal, delete_state_dir, restore_older_journal]
)
@fault(
    "the journal, its log or its directory is deleted or replaced while the daemon runs",
    promise=2,
    promised="it is said; what memory holds goes into a new journal; nothing that is told as stored is lost",
)
def test_a_journal_deleted_under_a_running_daemon_is_missed(
    node: Node, damage: Callable[[Node], None], happened: Happened
) -> None:
    node.write(5)
    wait_for(lambda: len(numbers(everything_kept(node.daemon))) == 6, "all of them")
    damage(node)
    node.write(5)
    wait_for(lambda: len(numbers(everything_kept(node.daemon))) == 11, "what comes then")
    notes = wait_for(lambda: node.journal()["notes"], "status to say so")
    node.wait_until_stored()
    check_all_after_kill(node)
    happened(f"{damage.__name__.replace('_', ' ')}: all 11 events were kept; status: {notes[0]}")
