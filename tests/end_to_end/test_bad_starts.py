"""Starts that cannot work: one sentence that says why, exit code 2, no traceback, nothing damaged."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.bad_input import fault, is_one_sentence
from tests.support.command import Result, running, xidwatch
from tests.support.daemon import ROOT, Daemon, clean_environment, free_port
from tests.support.fault_lab import Happened
from tests.support.fault_lab import fault as broken
from tests.support.kernel_log import FakeKernelLog
from tests.support.waiting import DEADLINE_S, wait_for


def serve(tmp_path: Path, **settings: str) -> Result:
    """The outcome of a start that is to fail."""
    chosen = {
        "listen": f"127.0.0.1:{free_port()}",
        "socket": str(tmp_path / "s"),
        "state-dir": str(tmp_path / "state"),
    } | {name.replace("_", "-"): value for name, value in settings.items()}
    return xidwatch("serve", *(f"--{name}={value}" for name, value in chosen.items()))


def refusal(result: Result) -> str:
    """The sentence with which a start was refused; what the daemon logged before does not count."""
    assert result.code == 2, result
    assert "Traceback" not in result.err
    lines = result.err.removesuffix("\n").split("\n")
    sentences = [line for line in lines if line.startswith("xidwatch: ")]
    assert len(sentences) == 1
    assert lines[-1].startswith(("xidwatch: ", "hint: "))
    return sentences[0]


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}" in refusal(serve(tmp_path, listen=f"127.0.0.1:{port}"))


def test_a_state_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("mine")
    assert "is not a directory" in refusal(serve(tmp_path))
    assert (tmp_path / "state").read_text() == "mine"


def test_an_unknown_key_in_the_config_file_is_named(tmp_path: Path) -> None:
    config = tmp_path / "xidwatch.toml"
    config.write_text('lissten = "127.0.0.1:8080"\n')
    result = serve(tmp_path, config=str(config))
    is_one_sentence(result)
    assert "lissten" in result.err
    assert "listen" in result.err.split("\n")[1]


def test_a_kernel_log_that_is_a_plain_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kmsg").write_text("4,1,1,-;x\n")
    assert "kmsg" in refusal(serve(tmp_path, kmsg=str(tmp_path / "kmsg")))


def test_a_socket_path_that_is_a_plain_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("mine")
    assert "is not a socket" in refusal(serve(tmp_path))
    assert (tmp_path / "s").read_text() == "mine"


def test_a_socket_that_a_killed_daemon_left_behind_is_taken_over(
    tmp_path: Path, kernel_log: FakeKernelLog
) -> None:
    daemon = Daemon(tmp_path, kmsg=kernel_log.path)
    try:
        daemon.start()
        daemon.kill()
        assert daemon.socket.is_socket()
        daemon.start()
        assert xidwatch("status", "--socket", str(daemon.socket)).code == 0
    finally:
        assert daemon.stop() == 0
    assert not daemon.socket.exists()


@pytest.mark.slow
@broken(
    "two daemons on one state directory, neither of which goes away",
    promise=4,
    promised="the second one waits 30 s, names the process that holds it, and ends with code 2",
)
def test_a_second_daemon_on_the_state_directory_waits_and_then_gives_up(
    running_daemon: Daemon, tmp_path: Path, happened: Happened
) -> None:
    daemon = running_daemon
    arguments = ("--listen", f"127.0.0.1:{free_port()}", "--socket", str(tmp_path / "s2"))
    with running("serve", *arguments, "--state-dir", str(daemon.state_dir)) as second:
        second.wait_for_error(f"waiting for process {daemon.pid}")
        # It waits for 30 s: a predecessor may take its time to end.
        code = second.process.wait(2 * DEADLINE_S)
        result = Result(code, second.text(), second.text("err"))
    assert f"in use by process {daemon.pid}" in refusal(result)
    assert daemon.get("/readyz")[0] == 200
    happened("refused in one sentence with the pid; the first one hears as before")


def test_a_corrupt_journal_is_set_aside_and_status_says_so(tmp_path: Path, kernel_log: FakeKernelLog) -> None:
    daemon = Daemon(tmp_path, kmsg=kernel_log.path)
    try:
        daemon.start()
        kernel_log.write(fault(79, 1))
        [before] = wait_for(lambda: daemon.events("since=0&kind=xid"), "the fault")
        daemon.stop()
        journal = daemon.state_dir / "journal.sqlite3"
        journal.write_bytes(b"this was a journal" * 1000)
        daemon.start()
        kernel_log.write(fault(48, 2), time_us=kernel_log.time_us + 60_000_000)
        [event] = wait_for(lambda: daemon.events("since=0&kind=xid&code=48"), "the next fault")
        assert (event["code"], event["stored"]) == (48, True)
        assert event["cursor"] > before["cursor"]
        told = json.loads(xidwatch("status", "--json", "--socket", str(daemon.socket)).out)["journal"]
        assert told["state"] == "ok"
        [note] = told["notes"]
        aside = [path for path in daemon.state_dir.iterdir() if path.name.startswith("journal.sqlite3.")]
        assert [path.read_bytes()[:4] for path in aside if path.name in note] == [b"this"]
        assert aside[0].name in xidwatch("status", "--socket", str(daemon.socket)).out
        # Whoever comes back with an older cursor is told what he missed.
        page = json.loads(daemon.get(f"/events.json?since={before['cursor'] - 1}")[1])
        assert page["missed"]["first"] <= before["cursor"] <= page["missed"]["last"]
    finally:
        daemon.stop()
    assert "Traceback" not in daemon.log.read_text()


def as_nobody() -> list[str]:
    """What to put before a command so that it runs without any rights; skips where that cannot be had."""
    setpriv = shutil.which("setpriv")
    if setpriv is None or os.geteuid() != 0:
        pytest.skip("needs root and setpriv to become another user")
    rights = ["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
    prefix = [setpriv, *rights]
    tried = subprocess.run(
        [*prefix, sys.executable, "-c", "import xidwatch"], cwd=ROOT, capture_output=True, check=False
    )
    if tried.returncode:
        pytest.skip("user 65534 may not read this Python or this checkout")
    return prefix


def run_as_nobody(prefix: list[str], *arguments: str, home: str = "/nonexistent") -> Result:
    environ = {k: v for k, v in clean_environment().items() if not k.startswith("XDG_")} | {"HOME": home}
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "xidwatch", *arguments],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


def test_a_user_without_a_home_is_told_what_to_do() -> None:
    result = run_as_nobody(as_nobody(), "serve")
    assert "state directory" in refusal(result)
    assert "--state-dir" in result.err


def test_a_user_without_rights_cannot_write_a_drill_and_is_told_why() -> None:
    result = run_as_nobody(as_nobody(), "drill", "79")
    is_one_sentence(result)
    assert "/dev/kmsg" in result.err


@pytest.mark.kmsg
def test_a_user_who_may_not_read_the_kernel_log_gets_a_daemon_that_says_so(tmp_path: Path) -> None:
    prefix = as_nobody()
    reading = "import os; os.close(os.open('/dev/kmsg', os.O_RDONLY))"
    if (
        subprocess.run([*prefix, sys.executable, "-c", reading], capture_output=True, check=False).returncode
        == 0
    ):
        pytest.skip("on this machine everyone may read /dev/kmsg")
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    for parent in home.parents[:3]:
        if not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o001)
    port = free_port()
    command = [*prefix, sys.executable, "-m", "xidwatch", "serve", "--listen", f"127.0.0.1:{port}"]
    command += ["--state-dir", str(home / "state"), "--socket", str(home / "s")]
    with (tmp_path / "stderr.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=clean_environment(), stdout=log, stderr=log)
    try:

        def told() -> dict[str, Any] | None:
            assert process.poll() is None, (tmp_path / "stderr.log").read_text()
            result = xidwatch("status", "--json", "--socket", str(home / "s"))
            if result.code == 2 or "probes" not in result.out:
                return None
            assert result.code == 1  # there is something wrong: nothing hears
            state: dict[str, Any] = json.loads(result.out)
            return state

        probes = wait_for(told, "the daemon to answer")["probes"]
        assert "kmsg" in {probe["name"] for probe in probes}
        for probe in probes:
            assert probe["hears"] is False
            assert re.search("CAP_|root|user 0", f"{probe['reason']} {probe['hint']}")
    finally:
        process.terminate()
        assert process.wait(DEADLINE_S) == 0
    said = (tmp_path / "stderr.log").read_text()
    assert "does not hear" in said
    assert "Traceback" not in said
