"""`xidwatch stdio` where no daemon runs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from daemon import paths
from tests.support.command import xidwatch
from tests.support.daemon import Daemon
from tests.support.kernel_log import FakeKernelLog
from tests.support.relay import INITIALIZE, Relay

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
