"""Two daemons that want the same state directory, socket or port: one has it, the other says so."""

from __future__ import annotations

from pathlib import Path

from tests.support.bad_input import fault as fault_line
from tests.support.command import running, xidwatch
from tests.support.daemon import Daemon, free_port
from tests.support.fault_lab import Happened, fault
from tests.support.kernel_log import FakeKernelLog
from tests.support.readers import everything_kept
from tests.support.status import status
from tests.support.waiting import wait_for


def heard(daemon: Daemon, code: int) -> bool:
    """Whether a fault of this code is kept."""
    return any(item["code"] == code for item in everything_kept(daemon))


@fault(
    "a daemon is started on the state directory of another one, which is then killed",
    promise=1,
    promised="it waits, takes over within the 30 s, and goes on where the other one stopped",
)
def test_a_daemon_that_waits_for_the_directory_takes_it_over(
    running_daemon: Daemon, tmp_path: Path, kernel_log: FakeKernelLog, happened: Happened
) -> None:
    first = running_daemon
    kernel_log.write(fault_line(79, 1))
    wait_for(lambda: heard(first, 79), "the first fault")
    cursors = [item["cursor"] for item in everything_kept(first)]
    (tmp_path / "second").mkdir()
    second = Daemon(tmp_path / "second", kmsg=kernel_log.path, flags=["--allow-drills"])
    second.state_dir = first.state_dir
    try:
        second.spawn()
        wait_for(lambda: "waiting for process" in _log(second), "the second one to wait")
        assert first.get("/readyz")[0] == 200
        first.kill()
        wait_for(lambda: second.socket.exists() and _is_ready(second), "the second one to hear")
        kernel_log.write(fault_line(48, 2), time_us=kernel_log.time_us + 60_000_000)
        wait_for(lambda: heard(second, 48), "the next fault")
        kept = everything_kept(second)
        assert heard(second, 79)
        assert not any(item["kind"] == "gap" for item in kept)
        assert max(item["cursor"] for item in kept) > max(cursors)
        assert status(second)["journal"]["state"] == "ok"
    finally:
        assert second.stop() == 0
    happened("it waited, named the process it waited for, took over, and kept what both heard")


@fault(
    "two daemons are given one socket, or one port",
    promise=4,
    promised="the second one is refused in one sentence; the first one hears and answers as before",
)
def test_a_second_daemon_takes_nothing_away_from_the_first(
    running_daemon: Daemon, tmp_path: Path, kernel_log: FakeKernelLog, happened: Happened
) -> None:
    first = running_daemon
    sentences = []
    for socket, port in ((first.socket, free_port()), (tmp_path / "s2", first.port)):
        refused = xidwatch(
            *("serve", "--listen", f"127.0.0.1:{port}", "--socket", str(socket), "--gpu", "off"),
            *("--state-dir", str(tmp_path / f"state-{port}"), "--kmsg", str(kernel_log.path)),
        )
        assert refused.code == 2, refused
        assert "Traceback" not in refused.err
        [sentence] = [line for line in refused.err.splitlines() if line.startswith("xidwatch: ")]
        sentences.append(sentence.removeprefix("xidwatch: "))
    assert first.get("/readyz")[0] == 200
    assert status(first)["journal"]["state"] == "ok"
    kernel_log.write(fault_line(79, 1))
    wait_for(lambda: heard(first, 79), "the fault")
    happened("; ".join(f"“{sentence}”" for sentence in sentences).replace(str(tmp_path), ""))


@fault(
    "a daemon waits for a state directory and is told to end",
    promise=4,
    promised="it ends at once; the one that holds the directory is not touched",
)
def test_a_daemon_that_waits_can_be_ended(running_daemon: Daemon, tmp_path: Path, happened: Happened) -> None:
    first = running_daemon
    arguments = ("--listen", f"127.0.0.1:{free_port()}", "--socket", str(tmp_path / "s2"))
    with running("serve", *arguments, "--state-dir", str(first.state_dir)) as second:
        second.wait_for_error(f"waiting for process {first.pid}")
        second.process.terminate()
        code = second.process.wait(30)
        assert "Traceback" not in second.text("err")
    assert code == 0
    assert first.get("/readyz")[0] == 200
    happened("it ended with code 0 while it waited")


def _log(daemon: Daemon) -> str:
    return daemon.log.read_text() if daemon.log.exists() else ""


def _is_ready(daemon: Daemon) -> bool:
    try:
        return daemon.get("/readyz")[0] == 200
    except OSError:
        return False
