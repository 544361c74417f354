"""`xidwatch stdio` beside a running daemon: the relay, its ends, and what it costs."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import xidwatch
from tests.support.daemon import ROOT, Daemon, clean_environment
from tests.support.kernel_log import FakeKernelLog
from tests.support.relay import INITIALIZE, Relay
from tests.support.waiting import DEADLINE_S, wait_for

FELL_OFF = "NVRM: Xid (PCI:0000:91:00): 79, pid=446, name=python3, GPU has fallen off the bus."
HEAVY = {"mcp", "pydantic", "starlette", "uvicorn", "asyncio", "sqlite3", "importlib.metadata", "anyio"}


def relay(daemon: Daemon, *flags: str) -> Relay:
    return Relay("--socket", str(daemon.socket), *flags)


def test_a_host_connects_calls_and_is_pushed_to(running_daemon: Daemon, kernel_log: FakeKernelLog) -> None:
    with relay(running_daemon) as host:
        assert host.shake_hands()["serverInfo"]["name"] == "xidwatch"
        host.call(1, "wait_for_xid", severity="fatal", since=0)
        kernel_log.write(FELL_OFF)
        messages = [host.message()]
        while not any(message.get("id") == 1 for message in messages):
            messages.append(host.message())
        assert messages[-1]["result"]["structuredContent"]["events"][0]["code"] == 79
        while not any(message.get("method") == "notifications/message" for message in messages):
            messages.append(host.message())


def test_what_is_piped_in_is_answered_before_the_end(running_daemon: Daemon) -> None:
    lines = [INITIALIZE, {"jsonrpc": "2.0", "method": "notifications/initialized"}]
    calls = [
        {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": {"name": "get_xid_events"}}
        for number in range(1, 30)
    ]
    stdin = "\n".join(json.dumps(line) for line in [*lines, *calls]).encode()  # the last one has no newline
    result = xidwatch("stdio", "--socket", str(running_daemon.socket), stdin=stdin)
    assert result.code == 0
    assert result.err == ""
    assert {json.loads(line)["id"] for line in result.out.splitlines()} == set(range(30))


def test_a_host_that_hangs_up_ends_the_relay_whatever_still_waits(running_daemon: Daemon) -> None:
    with relay(running_daemon) as host:
        host.shake_hands()
        host.call(1, "wait_for_xid", timeout_s=600)
        host.hang_up()
        code, rest, err = host.end()
    assert (code, err) == (0, "")
    assert [message.get("id") for message in rest] == [1]


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_daemon_that_goes_leaves_no_request_without_an_answer(running_daemon: Daemon, how: str) -> None:
    with relay(running_daemon) as host:
        host.shake_hands()
        host.call(1, "wait_for_xid", timeout_s=600)
        host.call("two", "wait_for_xid", timeout_s=600)
        host.tell({"jsonrpc": "2.0", "id": 3, "method": "ping"})
        assert host.answer_to(3)["result"] == {}
        getattr(running_daemon, how)()
        code, rest, err = host.end()
    assert code == 1
    assert err.startswith("xidwatch: the daemon went away\n")
    assert sorted(str(message["id"]) for message in rest if "id" in message) == ["1", "two"]
    if how == "kill":
        assert all("went away" in message["error"]["message"] for message in rest)


def test_after_a_restart_of_the_daemon_a_new_relay_goes_on(
    running_daemon: Daemon, kernel_log: FakeKernelLog
) -> None:
    with relay(running_daemon) as host:
        host.shake_hands()
        kernel_log.write(FELL_OFF)
        host.call(1, "wait_for_xid", since=0)
        cursor = host.answer_to(1)["result"]["structuredContent"]["next_cursor"]
        running_daemon.kill()
        assert host.end()[0] == 1
    running_daemon.start()
    with relay(running_daemon) as host:
        host.shake_hands()
        kernel_log.write(FELL_OFF.replace("79", "48").replace("91:00", "92:00"))
        host.call(1, "wait_for_xid", since=cursor)
        events = host.answer_to(1)["result"]["structuredContent"]["events"]
    assert 48 in {event["code"] for event in events}


def test_a_host_that_probes_before_it_shakes_hands_needs_the_legacy_era(running_daemon: Daemon) -> None:
    """Claude Code sends server/discover and then initialize."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    discover = {"jsonrpc": "2.0", "id": "probe", "method": "server/discover", "params": {"_meta": meta}}
    with relay(running_daemon, "--era", "legacy") as host:
        host.tell(discover)
        assert host.message()["error"]["code"] == -32601
        assert host.shake_hands()["protocolVersion"] == "2025-11-25"
        host.call(1, "get_daemon_status")
        assert host.answer_to(1)["result"]["structuredContent"]["node"] == "test-node"
    with relay(running_daemon) as host:
        host.tell(discover)
        assert "2026-07-28" in host.message()["result"]["supportedVersions"]
        host.tell(INITIALIZE)
        assert host.message()["error"]["code"] == -32022


def test_a_host_that_takes_channels_asks_for_them(running_daemon: Daemon, kernel_log: FakeKernelLog) -> None:
    with relay(running_daemon, "--channel", "claude") as host:
        assert host.shake_hands()["capabilities"]["experimental"] == {"claude/channel": {}}
        kernel_log.write(FELL_OFF)
        while (message := host.message())["method"] != "notifications/claude/channel":
            pass
    assert isinstance(message["params"]["content"], str)
    with relay(running_daemon) as host:
        assert "experimental" not in host.shake_hands()["capabilities"]


@pytest.mark.parametrize(
    "line", [b"nonsense\n", b"[]\n", b"\xff\xfe\n", b'{"id":{}}\n', b"[" * 10_000 + b"\n"]
)
def test_what_is_no_message_is_answered_by_the_daemon(running_daemon: Daemon, line: bytes) -> None:
    with relay(running_daemon) as host:
        host.tell(line)
        assert "error" in host.message()
        assert host.shake_hands()["serverInfo"]["name"] == "xidwatch"


def test_large_messages_pass_in_both_directions(running_daemon: Daemon, kernel_log: FakeKernelLog) -> None:
    with relay(running_daemon) as host:
        host.shake_hands()
        host.tell(b"x" * (5 * 1024 * 1024) + b"\n")
        assert "longer than" in host.message()["error"]["message"]
        for device in range(200):
            kernel_log.write(FELL_OFF.replace("0000:91", f"{device:04x}:91"))
        wait_for(lambda: len(running_daemon.events()) >= 20, "the events")
        host.call(1, "get_xid_events", since=0, limit=1000)
        assert len(host.answer_to(1)["result"]["structuredContent"]["events"]) >= 20


def test_a_line_without_end_is_dropped_and_the_session_goes_on(running_daemon: Daemon) -> None:
    with relay(running_daemon) as host:
        host.shake_hands()
        for _ in range(8):
            host.tell(b"x" * (1 << 20))
        host.tell(b"\n")
        refused = host.message()
        assert refused["error"] == {"code": -32600, "message": "Invalid request: longer than 1048576 bytes"}
        host.tell({"jsonrpc": "2.0", "id": 1, "method": "ping"})
        assert host.answer_to(1)["result"] == {}
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{host.process.pid}/status").read_text())
        assert peak is not None
        assert int(peak[1]) < 25_000


def test_a_host_that_does_not_read_does_not_hold_the_relay_of_a_dead_daemon(running_daemon: Daemon) -> None:
    with relay(running_daemon) as host:
        host.shake_hands()
        for number in range(100):
            host.call("x" * 2_000 + str(number), "wait_for_xid", timeout_s=600)
        host.tell({"jsonrpc": "2.0", "id": 3, "method": "ping"})
        assert host.answer_to(3)["result"] == {}
        running_daemon.kill()
        assert host.process.wait(DEADLINE_S) == 1


def test_a_named_socket_where_nobody_is_is_an_error(tmp_path: Path) -> None:
    result = xidwatch("stdio", "--socket", str(tmp_path / "none"))
    assert result.code == 2
    assert "no daemon listens at" in result.err
    assert result.out == ""


def test_a_default_socket_that_nobody_serves_is_an_error_not_a_daemon_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "xidwatch").mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "xidwatch" / "mcp.sock"))
    if Path("/run/xidwatch/mcp.sock").exists():
        pytest.skip("a daemon of this machine has the system socket")
    result = xidwatch("stdio", environ={"XDG_RUNTIME_DIR": str(tmp_path)})
    assert result.code == 2
    assert "no daemon listens at" in result.err


def test_a_socket_that_may_not_be_opened_is_an_error(running_daemon: Daemon) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    running_daemon.socket.chmod(0o600)
    # Imported first: the program may lie where nobody else may read.
    script = (
        "import locale, os, shutil, sys; from xidwatch import cli, stdio; from daemon import settings;"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); sys.exit(cli.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "stdio", "--socket", str(running_daemon.socket)],
        capture_output=True,
        cwd=ROOT,
        env=clean_environment(),
        check=False,
        input=b"",
    )
    assert b"may not connect to" in done.stderr
    assert done.returncode == 2


def test_a_refusal_by_the_daemon_is_told_to_the_host_and_the_user(tmp_path: Path) -> None:
    """An older daemon, which knows no channels."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        with Relay("--socket", str(path), "--channel", "claude") as host:
            connection, _ = listening.accept()
            with connection, connection.makefile("rb") as lines:
                assert json.loads(lines.readline())["xidwatch"]["channel"] == "claude"
                host.tell(INITIALIZE)
                assert lines.readline()
                connection.sendall(b'{"error": "no channels here", "hint": "leave it out"}\n')
                code, rest, err = host.end()
    assert code == 2
    assert err == "xidwatch: no channels here\nhint: leave it out\n"
    assert [(message["id"], message["error"]["message"]) for message in rest] == [(0, "no channels here")]


def test_half_an_answer_of_a_dying_daemon_is_not_passed_on(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        with Relay("--socket", str(path)) as host:
            connection, _ = listening.accept()
            with connection, connection.makefile("rb") as lines:
                host.tell({"jsonrpc": "2.0", "id": 'a"b\\é', "method": "ping"})
                host.tell({"jsonrpc": "2.0", "id": 2, "method": "ping"})
                host.tell({"jsonrpc": "2.0", "id": 3, "method": "ping"})
                cancelled = {"requestId": 3}
                host.tell({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": cancelled})
                for _ in range(5):
                    lines.readline()
                connection.sendall('{"jsonrpc":"2.0","id":"a\\"b\\\\é","result":{}}\n'.encode())
                connection.sendall(b'{"jsonrpc":"2.0","id":2,"result":{"half')
            code, rest, _ = host.end()
    assert code == 1
    assert [(message["id"], "error" in message) for message in rest] == [('a"b\\é', False), (2, True)]


def test_a_host_that_vanishes_takes_the_relay_with_it(running_daemon: Daemon) -> None:
    read_end, write_end = os.pipe()
    stdin_read, stdin_write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "xidwatch", "stdio", "--socket", str(running_daemon.socket)],
        stdin=stdin_read,
        stdout=write_end,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=clean_environment(),
    )
    with process:
        os.close(write_end)
        os.close(stdin_read)
        os.write(stdin_write, json.dumps(INITIALIZE).encode() + b"\n")
        assert os.read(read_end, 10)
        os.close(read_end)  # its stdin stays open
        _, err = process.communicate()
    os.close(stdin_write)
    assert err == b""
    assert process.returncode == 141


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)])
def test_a_signal_ends_it_at_once_and_quietly(
    running_daemon: Daemon, number: signal.Signals, code: int
) -> None:
    with relay(running_daemon) as host:
        host.shake_hands()
        host.call(1, "wait_for_xid", timeout_s=600)
        host.process.send_signal(number)
        assert host.process.wait(30) == code
        assert host.process.stderr is not None
        assert host.process.stderr.read() == b""


@pytest.mark.parametrize("redirections", ["<&-", "</dev/null", "</dev/null >&-"])
def test_descriptors_that_are_not_there_are_the_end_of_input(
    running_daemon: Daemon, redirections: str
) -> None:
    command = f'exec "$0" -m xidwatch stdio --socket "$1" {redirections}'
    done = subprocess.run(
        ["/bin/sh", "-c", command, sys.executable, str(running_daemon.socket)],
        capture_output=True,
        cwd=ROOT,
        env=clean_environment(),
        check=False,
        timeout=30,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_file_can_be_its_input(running_daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "in").write_text(json.dumps(INITIALIZE) + "\n")
    with (tmp_path / "in").open() as stdin:
        done = subprocess.run(
            [sys.executable, "-m", "xidwatch", "stdio", "--socket", str(running_daemon.socket)],
            stdin=stdin,
            capture_output=True,
            cwd=ROOT,
            env=clean_environment(),
            check=False,
            timeout=30,
        )
    assert json.loads(done.stdout)["id"] == 0
    assert done.returncode == 0


def test_it_imports_nothing_heavy_and_stays_small(running_daemon: Daemon) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-X",
            "importtime",
            "-m",
            "xidwatch",
            "stdio",
            "--socket",
            str(running_daemon.socket),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=ROOT,
        env=clean_environment(),
        check=False,
    )
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.decode().splitlines()}
    assert "xidwatch.stdio" in imported
    assert imported & HEAVY == set()
    with relay(running_daemon) as host:
        host.shake_hands()
        status = Path(f"/proc/{host.process.pid}/status").read_text()
    (resident,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    assert resident <= 15 * 1024  # kB; nothing that grows with the time of day


def test_ten_in_parallel_are_all_pushed_to(running_daemon: Daemon, kernel_log: FakeKernelLog) -> None:
    hosts: list[Relay] = []
    try:
        hosts.extend(relay(running_daemon) for _ in range(10))
        for host in hosts:
            host.shake_hands()
            host.call(1, "wait_for_xid", since=0, code=79)
        kernel_log.write(FELL_OFF)
        answers: list[Any] = [host.answer_to(1) for host in hosts]
    finally:
        for host in hosts:
            host.__exit__(None, None, None)
    assert {answer["result"]["structuredContent"]["events"][0]["code"] for answer in answers} == {79}
