"""`xidwatch stdio` where no daemon runs."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from daemon import paths
from daemon.intake import GPUS_KEY
from daemon.journal_file import FILE_NAME
from tests.support.command import xidwatch
from tests.support.daemon import Daemon
from tests.support.kernel_log import FakeKernelLog
from tests.support.relay import INITIALIZE, Relay
from tests.support.waiting import wait_for

FELL_OFF = "NVRM: Xid (PCI:0000:91:00): 79, pid=446, name=python3, GPU has fallen off the bus."


@pytest.fixture
def nowhere(tmp_path: Path) -> dict[str, str]:
    """An environment without a daemon; skips where the machine has one."""
    if paths.SYSTEM_SOCKET.exists():
        pytest.skip("a daemon of this machine has the system socket")
    return {
        "XDG_RUNTIME_DIR": str(tmp_path / "run"),
        "XIDWATCH_STATE_DIR": str(tmp_path / "state"),
        "XIDWATCH_NODE_NAME": "lonely",
    }


def test_it_hears_keeps_in_memory_and_says_so(nowhere: dict[str, str], kernel_log: FakeKernelLog) -> None:
    with Relay(environ={**nowhere, "XIDWATCH_KMSG": str(kernel_log.path)}) as host:
        said = host.shake_hands()["instructions"]
        assert "No xidwatch daemon runs on this node" in said
        assert "hears the kernel log itself" in said
        kernel_log.write(FELL_OFF)
        host.call(1, "wait_for_xid", since=0, kind="xid")
        (event,) = host.answer_to(1)["result"]["structuredContent"]["events"]
        assert (event["code"], event["node"]) == (79, "lonely")
        host.hang_up()
        code, _, err = host.end()
    assert code == 0
    assert "Traceback" not in err
    assert not Path(nowhere["XIDWATCH_STATE_DIR"]).exists()


def test_what_it_cannot_hear_is_said_before_anything_else(nowhere: dict[str, str]) -> None:
    hide = "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3"
    tried = subprocess.run(["unshare", "--mount", "sh", "-c", hide], capture_output=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"/dev cannot be hidden from a process: {tried.stderr.decode().strip()}")
    prefix = ["unshare", "--mount", "sh", "-c", f'{hide} && exec "$@"', "sh"]
    with Relay(prefix=prefix, environ=nowhere) as host:
        assert "CANNOT hear the kernel log" in host.shake_hands()["instructions"]
        host.call(1, "get_daemon_status")
        assert host.answer_to(1)["result"]["structuredContent"]["probes"][0]["hears"] is False


def test_the_last_daemons_events_are_there_and_its_journal_is_left_as_it_was(
    nowhere: dict[str, str], running_daemon: Daemon, kernel_log: FakeKernelLog
) -> None:
    kernel_log.write(FELL_OFF)
    with Relay("--socket", str(running_daemon.socket)) as host:
        host.shake_hands()
        host.call(1, "wait_for_xid", since=0, kind="xid")
        before = host.answer_to(1)["result"]["structuredContent"]["events"][0]
    running_daemon.stop()
    files = {each.name: each.read_bytes() for each in running_daemon.state_dir.iterdir() if each.is_file()}
    environ = {
        **nowhere,
        "XIDWATCH_STATE_DIR": str(running_daemon.state_dir),
        "XIDWATCH_KMSG": str(kernel_log.path),
    }
    with Relay(environ=environ) as host:
        assert "from the journal of the last daemon, read-only" in host.shake_hands()["instructions"]
        host.call(1, "get_xid_events", since=0, kind="xid")
        (kept,) = host.answer_to(1)["result"]["structuredContent"]["events"]
        kernel_log.write(FELL_OFF.replace("91:00", "92:00"))
        host.call(2, "wait_for_xid", since=kept["cursor"], kind="xid")
        (new,) = host.answer_to(2)["result"]["structuredContent"]["events"]
    assert (kept["id"], kept["cursor"]) == (before["id"], kept["cursor"])
    assert new["cursor"] > kept["cursor"]
    after = {each.name: each.read_bytes() for each in running_daemon.state_dir.iterdir() if each.is_file()}
    assert after == files


def lose_a_gpu(daemon: Daemon, kernel_log: FakeKernelLog) -> None:
    """Have the daemon keep in its journal that a GPU fell off the bus, and end."""
    kernel_log.write(FELL_OFF)
    wait_for(lambda: daemon.events("since=0&kind=xid"), "the event")
    assert daemon.stop() == 0


def files_of(directory: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in directory.iterdir() if each.is_file()}


def rewrite_gpus(state_dir: Path, text: str) -> None:
    with closing(sqlite3.connect(state_dir / FILE_NAME)) as journal, journal:
        changed = journal.execute("UPDATE faults SET state = ? WHERE key = ?", (text, GPUS_KEY))
        assert changed.rowcount == 1


def test_a_gpu_that_the_last_daemon_lost_is_lost_here_too(
    nowhere: dict[str, str], running_daemon: Daemon, kernel_log: FakeKernelLog
) -> None:
    lose_a_gpu(running_daemon, kernel_log)
    before = files_of(running_daemon.state_dir)
    quiet = FakeKernelLog(kernel_log.path.parent / "quiet")
    environ = {
        **nowhere,
        "XIDWATCH_STATE_DIR": str(running_daemon.state_dir),
        "XIDWATCH_KMSG": str(quiet.path),
    }
    with Relay(environ=environ) as host:
        assert "1 GPU of this node had been lost by then." in host.shake_hands()["instructions"]
        host.call(1, "get_gpu_health")
        health = host.answer_to(1)["result"]["structuredContent"]
        host.call(2, "describe_gpu_node")
        node = host.answer_to(2)["result"]["structuredContent"]
    for data in (health, node):
        (gpu,) = data["gpus"]
        assert (data["state"], gpu["state"], gpu["pci"]) == ("unhealthy", "unhealthy", "0000:91:00.0")
        assert gpu["lost"]["presence"] == "lost"
        assert [event["code"] for event in gpu["lost"]["last_events"]] == [79]
    assert files_of(running_daemon.state_dir) == before


@pytest.mark.parametrize("text", ["{", "[]", '{"expected": {"gpus": [{"pci": 1}]}, "sick": {}}'])
def test_gpus_that_cannot_be_read_from_the_journal_are_said_and_cost_no_event(
    nowhere: dict[str, str], running_daemon: Daemon, kernel_log: FakeKernelLog, text: str
) -> None:
    lose_a_gpu(running_daemon, kernel_log)
    rewrite_gpus(running_daemon.state_dir, text)
    quiet = FakeKernelLog(kernel_log.path.parent / "quiet")
    environ = {
        **nowhere,
        "XIDWATCH_STATE_DIR": str(running_daemon.state_dir),
        "XIDWATCH_KMSG": str(quiet.path),
    }
    with Relay(environ=environ) as host:
        assert "one that was lost may not be missed here" in host.shake_hands()["instructions"]
        host.call(1, "get_xid_events", since=0, kind="xid")
        assert len(host.answer_to(1)["result"]["structuredContent"]["events"]) == 1
        host.call(2, "get_gpu_health")
        assert host.answer_to(2)["result"]["structuredContent"]["gpus"] == []
        host.hang_up()
        assert "Traceback" not in host.end()[1]


def test_a_locked_journal_is_read_and_a_damaged_one_is_said(
    nowhere: dict[str, str], running_daemon: Daemon, kernel_log: FakeKernelLog
) -> None:
    lose_a_gpu(running_daemon, kernel_log)
    environ = {
        **nowhere,
        "XIDWATCH_STATE_DIR": str(running_daemon.state_dir),
        "XIDWATCH_KMSG": str(kernel_log.path),
    }
    path = running_daemon.state_dir / FILE_NAME
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
        holder.execute("BEGIN EXCLUSIVE")
        with Relay(environ=environ) as host:
            assert "1 GPU of this node had been lost" in host.shake_hands()["instructions"]
    path.write_bytes(path.read_bytes()[:4096] + b"nonsense" * 4096)
    with Relay(environ=environ) as host:
        assert "cannot be shown, nor GPUs that they missed" in host.shake_hands()["instructions"]


def test_what_is_piped_in_is_answered(nowhere: dict[str, str], kernel_log: FakeKernelLog) -> None:
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    stdin = f"{json.dumps(INITIALIZE)}\nnonsense\n{json.dumps(ping)}".encode()
    result = xidwatch("stdio", stdin=stdin, environ={**nowhere, "XIDWATCH_KMSG": str(kernel_log.path)})
    assert result.code == 0
    assert {json.loads(line)["id"] for line in result.out.splitlines()} == {0, None, 1}


def test_it_is_read_only_whatever_the_environment_says(
    nowhere: dict[str, str], kernel_log: FakeKernelLog
) -> None:
    environ = {**nowhere, "XIDWATCH_KMSG": str(kernel_log.path), "XIDWATCH_MODE": "operator"}
    with Relay(environ=environ) as host:
        host.shake_hands()
        host.call(1, "get_daemon_status")
        assert host.answer_to(1)["result"]["structuredContent"]["mode"] == "read-only"


def test_a_setting_that_makes_no_sense_is_an_error(nowhere: dict[str, str]) -> None:
    result = xidwatch("stdio", environ={**nowhere, "XIDWATCH_RING_SIZE": "many"})
    assert result.code == 2
    assert "XIDWATCH_RING_SIZE" in result.err
