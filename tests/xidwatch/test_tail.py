"""`xidwatch tail`: from a daemon, across its restart, and from the journal without one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from daemon import paths
from daemon.event import parse_rfc3339
from daemon.journal import Change, Journal
from daemon.retention import Retention
from probes.errors import UserError
from tests.support.command import running, xidwatch
from tests.support.daemon import ROOT, Daemon
from tests.support.events import TIME_US, item
from tests.support.kernel_log import FakeKernelLog
from tests.support.socket_stub import SocketStub
from tests.support.waiting import DEADLINE_S, wait_for
from xidwatch import tail
from xidwatch.tail import Options, Start, parse_since

HOUR_US = 3_600_000_000


def xid(code: int, pci: str = "0000:91:00", pid: int = 446) -> str:
    return f"NVRM: Xid (PCI:{pci}): {code}, pid={pid}, name=python3, Ch 00000008"


# -- where to begin ------------------------------------------------------------------------------


def test_since_takes_a_cursor_a_duration_or_a_time() -> None:
    now = TIME_US
    assert parse_since(None, now_us=now) == Start(None)
    assert parse_since("0", now_us=now) == Start(0)
    assert parse_since("1769079606995", now_us=now) == Start(1769079606995)
    assert parse_since("1h", now_us=now) == Start(0, now - HOUR_US)
    time = parse_rfc3339("2026-11-22T11:20:00Z")
    assert parse_since("2026-11-22T11:20:00Z", now_us=now) == Start(0, time)
    assert parse_since("2026-11-22T12:20+01:00", now_us=now) == Start(0, time)


def test_a_time_without_zone_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    assert parse_since("2026-11-22 11:20", now_us=0).time_us == parse_rfc3339("2026-11-22T11:20:00Z")


@pytest.mark.parametrize(
    "text", ["", "-5", "5 parsecs", "soon", "2026-13-01", "٣", "9" * 30, "0001-01-01", "\0"]
)
def test_since_of_nonsense_is_refused(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_since(text, now_us=TIME_US)
    assert caught.value.hint


# -- a daemon that misbehaves --------------------------------------------------------------------


def cursors(text: str) -> list[int]:
    return [json.loads(line)["cursor"] for line in text.splitlines()]


def status(*, newest: int = 4, hears: bool = True) -> bytes:
    probe = {"name": "kmsg", "live": True, "hears": hears, "reason": None if hears else "permission denied"}
    return json.dumps({"newest_cursor": newest, "probes": [probe]}).encode() + b"\n"


def lines_of(*cursors: int) -> bytes:
    return b"".join(item(cursor, id=f"ev_{cursor}").json.encode() + b"\n" for cursor in cursors)


def test_the_daemons_error_is_the_users(tmp_path: Path) -> None:
    answer = b'{"error": "cursor 9 is ahead of the newest, 5", "hint": "use 5"}\n'
    with SocketStub(tmp_path / "s", answer, status=status()):
        result = xidwatch("tail", "--since", "9", "--socket", str(tmp_path / "s"))
    assert (result.code, result.out) == (2, "")
    assert result.err == "xidwatch: cursor 9 is ahead of the newest, 5\nhint: use 5\n"


@pytest.mark.parametrize("answer", [b"hello\n", b"[1]\n", b'{"kind": "xid"}\n', b"\xff\xfe\n"])
def test_an_answer_that_makes_no_sense_is_an_error_not_a_traceback(tmp_path: Path, answer: bytes) -> None:
    with SocketStub(tmp_path / "s", answer, status=status()):
        result = xidwatch("tail", "--socket", str(tmp_path / "s"))
    assert result.code == 2
    assert "not understood" in result.err


def test_a_line_that_was_cut_off_is_not_shown(tmp_path: Path) -> None:
    with SocketStub(tmp_path / "s", lines_of(1) + lines_of(2)[:-30], status=status()):
        result = xidwatch("tail", "--json", "--socket", str(tmp_path / "s"))
    assert cursors(result.out) == [1]


def test_what_retention_deleted_is_said(tmp_path: Path) -> None:
    answer = b'{"missed": {"first": 3, "last": 7}}\n' + lines_of(8)
    with SocketStub(tmp_path / "s", answer, answer, status=status()):
        text = xidwatch("tail", "--since", "2", "--socket", str(tmp_path / "s"))
        as_json = xidwatch("tail", "--since", "2", "--json", "--socket", str(tmp_path / "s"))
    assert "events between cursors 3 and 7 were deleted before they were read" in text.out.splitlines()[0]
    assert json.loads(as_json.out.splitlines()[0]) == {"missed": {"first": 3, "last": 7}}


def test_filters_and_start_are_put_to_the_daemon(tmp_path: Path) -> None:
    flags = ["--severity", "critical", "--code", "79,48", "--code", "13", "--kind", "xid", "--gpu", "3"]
    with SocketStub(tmp_path / "s", b"", b"", status=status()) as stub:
        xidwatch("tail", *flags, "--since", "17", "--socket", str(tmp_path / "s"))
        xidwatch("tail", "--socket", str(tmp_path / "s"))
    assert stub.requests[0] == {
        "want": "events",
        "since": 17,
        "since_time_us": None,
        "limit": None,
        "follow": False,
        "severity": "critical",
        "code": ["79,48", "13"],
        "kind": ["xid"],
        "gpu": ["3"],
    }
    assert (stub.requests[1]["since"], stub.requests[1]["limit"]) == (None, 10)


def test_a_duration_leaves_out_what_happened_before(tmp_path: Path) -> None:
    old = item(1, id="ev_old", last_time_us=TIME_US - HOUR_US).json.encode() + b"\n"
    with SocketStub(tmp_path / "s", old + lines_of(2), status=status()):
        result = xidwatch("tail", "--json", "--since", "2026-11-22T11:00Z", "--socket", str(tmp_path / "s"))
    assert cursors(result.out) == [2]


def test_a_time_is_put_to_the_daemon_and_from_then_on_the_cursor(tmp_path: Path) -> None:
    path = tmp_path / "s"
    flags = ["--follow", "--json", "--since", "2026-11-22T11:00:00Z", "--socket", str(path)]
    with (
        SocketStub(path, b"", lines_of(4, 5), lines_of(6), status=status()) as stub,
        running("tail", *flags) as command,
    ):
        command.wait_for_lines(3)
    asked = [(request["since"], request["since_time_us"]) for request in stub.requests[:3]]
    at_us = parse_rfc3339("2026-11-22T11:00:00Z")
    assert asked == [(None, at_us), (None, at_us), (5, None)]


def test_a_follower_goes_on_after_its_last_event(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with (
        SocketStub(path, lines_of(4, 5), lines_of(6), status=status()) as stub,
        running("tail", "--follow", "--json", "--socket", str(path)) as command,
    ):
        lines = command.wait_for_lines(3)
        command.wait_for_error("the daemon is back")
    assert cursors("\n".join(lines)) == [4, 5, 6]
    assert stub.requests[1]["since"] == 5


def test_a_follower_goes_on_when_a_stopping_daemon_ends_with_an_error(tmp_path: Path) -> None:
    path = tmp_path / "s"
    stopping = lines_of(5) + b'{"error": "xidwatch is shutting down", "hint": null}\n'
    with (
        SocketStub(path, stopping, lines_of(6), status=status()),
        running("tail", "--follow", "--json", "--socket", str(path)) as command,
    ):
        lines = command.wait_for_lines(2)
    assert cursors("\n".join(lines)) == [5, 6]


def test_a_follower_without_any_event_goes_on_from_where_it_began(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with (
        SocketStub(path, b"", lines_of(6), status=status()) as stub,
        running("tail", "--follow", "--json", "--code", "79", "--socket", str(path)) as command,
    ):
        command.wait_for_lines(1)
    assert stub.requests[1]["since"] == 4


def test_a_daemon_that_does_not_hear_is_never_taken_for_a_node_without_faults(tmp_path: Path) -> None:
    with SocketStub(tmp_path / "s", b"", b"", status=status(hears=False)):
        for flags in ([], ["--json"]):
            result = xidwatch("tail", *flags, "--socket", str(tmp_path / "s"))
            assert (result.code, result.out) == (0, "")
            assert "the daemon does not hear through kmsg: permission denied" in result.err


def test_nothing_to_show_is_said(tmp_path: Path) -> None:
    with SocketStub(tmp_path / "s", b"", status=status()):
        assert (
            xidwatch("tail", "--socket", str(tmp_path / "s")).err == "xidwatch tail: no such event is kept\n"
        )


def test_no_daemon_at_a_socket_that_was_named_is_an_error(tmp_path: Path) -> None:
    result = xidwatch("tail", "--socket", str(tmp_path / "none"))
    assert result.code == 2
    assert f"no daemon listens at {tmp_path / 'none'}" in result.err


def test_a_stale_socket_file_counts_as_no_daemon(tmp_path: Path) -> None:
    with SocketStub(tmp_path / "s", status=status()):
        pass
    result = xidwatch("tail", environ={"XIDWATCH_SOCKET": str(tmp_path / "s")})
    assert result.code == 2
    assert "no daemon listens" in result.err


# -- the journal, without a daemon ---------------------------------------------------------------


@pytest.fixture
def no_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory with a journal of 15 events, an hour apart up to an hour ago; no daemon anywhere."""
    now_us = time.time_ns() // 1000
    monkeypatch.setattr(paths, "client_sockets", lambda: (tmp_path / "no", tmp_path / "none"))
    journal = Journal.open(tmp_path / "state")
    faults = [
        item(n, id=f"ev_{n}", code=79 if n % 2 else 31, last_time_us=now_us - (16 - n) * HOUR_US)
        for n in range(1, 16)
    ]
    journal.commit(Change(items=faults))
    journal.close()
    return tmp_path / "state"


def test_without_a_daemon_the_journal_is_read_and_that_is_said(
    no_daemon: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert tail.run(Options(as_json=True, state_dir=no_daemon)) == 0
    out, err = capfd.readouterr()
    assert cursors(out) == list(range(6, 16))
    assert err.startswith("xidwatch tail: no daemon listens at ")
    assert "reading the journal instead" in err


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"since": "12"}, [13, 14, 15]),
        ({"since": "0", "codes": ("31",)}, [2, 4, 6, 8, 10, 12, 14]),
        ({"codes": ("31",)}, [2, 4, 6, 8, 10, 12, 14]),
        ({"since": "0", "severity": "fatal", "gpus": ("7",)}, []),
        ({"since": "3.5h"}, [13, 14, 15]),
    ],
)
def test_the_journal_answers_like_the_daemon(
    no_daemon: Path, capfd: pytest.CaptureFixture[str], options: dict[str, object], expected: list[int]
) -> None:
    tail.run(Options(as_json=True, state_dir=no_daemon, **options))  # type: ignore[arg-type]  # names of fields
    assert cursors(capfd.readouterr().out) == expected


def test_reading_the_journal_changes_nothing_in_its_directory(no_daemon: Path) -> None:
    before = {path.name: path.read_bytes() for path in no_daemon.iterdir()}
    tail.run(Options(state_dir=no_daemon))
    assert {path.name: path.read_bytes() for path in no_daemon.iterdir()} == before


def test_the_journal_says_what_retention_deleted_of_the_time_asked_for(
    no_daemon: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    journal = Journal.open(no_daemon)
    Retention(age_s=-1).delete_aged(journal)
    journal.close()
    tail.run(Options(as_json=True, state_dir=no_daemon, since="1h"))
    (missed,) = capfd.readouterr().out.splitlines()
    assert json.loads(missed)["missed"]["last"] == 15


def test_neither_daemon_nor_journal_is_an_error(no_daemon: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no journal"):
        tail.run(Options(state_dir=tmp_path / "elsewhere"))


# -- a real daemon -------------------------------------------------------------------------------


def test_events_of_a_daemon_are_printed_once_and_the_command_ends(
    running_daemon: Daemon, kernel_log: FakeKernelLog
) -> None:
    for pid in (1, 2, 3):
        kernel_log.write(xid(43, pid=pid), time_us=pid * 10_000_000)
    wait_for(lambda: len(running_daemon.events("since=0&kind=xid")) == 3, "three events")
    result = xidwatch("tail", "--json", "--kind", "xid", "--socket", str(running_daemon.socket))
    assert result.code == 0
    assert sorted(json.loads(line)["process"]["pid"] for line in result.out.splitlines()) == [1, 2, 3]
    assert result.out.isascii()


def test_a_line_for_people_says_what_where_who_and_how_bad(
    running_daemon: Daemon, kernel_log: FakeKernelLog
) -> None:
    kernel_log.write(xid(79))
    wait_for(running_daemon.events, "the event")
    line = xidwatch("tail", "--socket", str(running_daemon.socket)).out
    for part in ("FATAL", "Xid 79", "91:00", "python3[446]"):
        assert part in line
    assert "\x1b" not in line


def test_terminal_escapes_of_a_process_name_do_not_reach_the_terminal(
    running_daemon: Daemon, kernel_log: FakeKernelLog
) -> None:
    kernel_log.write("NVRM: Xid (PCI:0000:91:00): 43, pid=7, name=\x1b]0;pwn\x07\x1b[31m, Ch 00000008")
    wait_for(running_daemon.events, "the event")
    for flags in ([], ["--json"]):
        out = xidwatch("tail", *flags, "--socket", str(running_daemon.socket)).out
        assert out
        assert all(char.isprintable() or char == "\n" for char in out)


def test_a_follower_survives_kill_9_of_the_daemon_with_nothing_lost_or_doubled(
    running_daemon: Daemon, kernel_log: FakeKernelLog
) -> None:
    path = str(running_daemon.socket)
    with running("tail", "--follow", "--since", "0", "--json", "--socket", path) as command:
        kernel_log.write(xid(43, pid=1), time_us=10_000_000)
        command.wait_for_lines(1)
        running_daemon.kill()
        command.wait_for_error("the daemon went away")
        kernel_log.write(xid(43, pid=2), time_us=20_000_000)
        running_daemon.start()
        wait_for(lambda: any('"pid": 2' in line for line in command.lines()), "the event written meanwhile")
        events = [json.loads(line) for line in command.lines()]
    revisions = [(event["id"], event["revision"]) for event in events]
    assert len(revisions) == len(set(revisions))
    assert [e["cursor"] for e in events] == sorted(e["cursor"] for e in events)
    assert {e["process"]["pid"] for e in events if e["kind"] == "xid"} == {1, 2}


def test_a_follower_ends_quietly_on_ctrl_c(running_daemon: Daemon, kernel_log: FakeKernelLog) -> None:
    with running("tail", "--follow", "--socket", str(running_daemon.socket)) as command:
        kernel_log.write(xid(43))
        command.wait_for_lines(1)
        command.process.send_signal(signal.SIGINT)
        assert command.process.wait(DEADLINE_S) == 130
        assert command.text("err") == ""


def test_a_follower_ends_when_nobody_reads_its_output_any_more(running_daemon: Daemon) -> None:
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "xidwatch", "tail", "-f", "--socket", str(running_daemon.socket)]
    with subprocess.Popen(command, stdout=writer, stderr=subprocess.PIPE, cwd=ROOT) as process:
        os.close(writer)
        os.close(reader)
        # No event comes: the closed pipe alone must end it.
        _, err = process.communicate()
    assert err == b""


def test_a_daemon_says_what_retention_deleted_of_the_time_asked_for(
    tmp_path: Path, kernel_log: FakeKernelLog
) -> None:
    daemon = Daemon(tmp_path, kmsg=kernel_log.path, flags=["--retention", "1s"])
    try:
        daemon.start()
        kernel_log.write(xid(79))
        wait_for(daemon.events, "the fault")
        wait_for(lambda: not daemon.events(), "retention to delete it")
        command = xidwatch("tail", "--json", "--since", "1h", "--socket", str(daemon.socket))
    finally:
        daemon.stop()
    assert "missed" in json.loads(command.out.splitlines()[0])


def test_a_stopping_daemon_is_one_that_went_away_once(
    running_daemon: Daemon, kernel_log: FakeKernelLog
) -> None:
    with running("tail", "--follow", "--socket", str(running_daemon.socket)) as command:
        kernel_log.write(xid(43))
        command.wait_for_lines(1)
        # A reader that does not read keeps the daemon from ending at once.
        with socket.create_connection(("127.0.0.1", running_daemon.port)) as stalled:
            stalled.sendall(b"GET /events?since=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert stalled.recv(1)
            assert running_daemon.stop() == 0
        command.wait_for_error("the daemon went away")
        assert command.text("err").count("the daemon went away") == 1
        assert "is back" not in command.text("err")
