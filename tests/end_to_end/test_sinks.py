"""Alarms that need no client: from a line of the kernel to a webhook, across restarts, kills and refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import xidwatch
from tests.support.daemon import Daemon
from tests.support.kernel_log import FakeKernelLog
from tests.support.receiver import Answer, Received, Receiver
from tests.support.waiting import wait_for

NO_PROCESS = 2**22
"""No process has this pid or a higher one: nothing is found out about it that would be a later revision."""


def write_fault(log: FakeKernelLog, number: int, code: int = 79, *, bus: int = 0x91) -> None:
    """A fault of its own, long after the one before."""
    text = f"NVRM: Xid (PCI:0000:{bus:02x}:00): {code}, pid={NO_PROCESS + number}, name=python3, GPU fell off"
    log.write(text, time_us=log.time_us + 60_000_000)


def pids(events: list[dict[str, Any]]) -> list[int]:
    """Of the faults, as `write_fault` numbers them."""
    return [event["process"]["pid"] - NO_PROCESS for event in events if event["kind"] == "xid"]


def taken(receiver: Receiver) -> list[int]:
    """The faults that it took, in the order of their coming."""
    return pids([event for each in receiver.taken for event in each.events])


def wait_for_fault(receiver: Receiver, number: int) -> None:
    receiver.wait_for(lambda: number in taken(receiver), f"fault {number}")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


def daemon_with(directory: Path, log: FakeKernelLog, sinks: str) -> Daemon:
    file = directory / "sinks.toml"
    file.write_text(sinks, encoding="utf-8")
    return Daemon(directory, kmsg=log.path, flags=["--on-event", str(file), "--gpu", "off"])


def webhook(receiver: Receiver, more: str = "") -> str:
    # Many a minute, so that no test waits for the pace.
    return f'''
[[sink]]
name = "pager"
type = "webhook"
url = "{receiver.url}/hook"
per-minute = 600
{more}
'''


def sink_status(daemon: Daemon, name: str = "pager") -> dict[str, Any]:
    """What `xidwatch status` says of a sink."""
    state = json.loads(xidwatch("status", "--json", "--socket", str(daemon.socket)).out)
    found: dict[str, Any] = next(sink for sink in state["sinks"] if sink["name"] == name)
    return found


def test_a_fault_reaches_a_webhook_with_its_incident_and_each_later_one_once(
    tmp_path: Path, kernel_log: FakeKernelLog, receiver: Receiver
) -> None:
    daemon = daemon_with(tmp_path, kernel_log, webhook(receiver))
    try:
        daemon.start()
        for number in (1, 2, 3):
            write_fault(kernel_log, number)
            wait_for_fault(receiver, number)
        assert taken(receiver) == [1, 2, 3]
        first = receiver.taken[0].json
        assert (first["type"], first["sink"], first["node"]) == ("events", "pager", "test-node")
        assert (first["missed"], first["skipped"]) == (None, [])
        event = first["events"][0]
        kept = next(each for each in daemon.events() if each["id"] == event["id"])
        assert {key: event[key] for key in ("code", "severity", "lines", "cursor")} == {
            key: kept[key] for key in ("code", "severity", "lines", "cursor")
        }
        incidents = [each for post in receiver.taken for each in post.events if each["kind"] == "incident"]
        assert incidents[0]["detail"]["state"] == "open"
        status = sink_status(daemon)
        assert (status["state"], status["failures"], status["lag_s"]) == ("ok", 0, 0)
        assert status["delivered"] >= 4
        assert "gets through" in xidwatch("status", "--socket", str(daemon.socket)).out
        metrics = daemon.get("/metrics")[1].decode()
        assert 'xidwatch_sink_lag_seconds{sink="pager"} 0.0' in metrics
        assert 'xidwatch_outlet_up{outlet="sink pager"} 1.0' in metrics
    finally:
        assert daemon.stop() == 0
    assert "Traceback" not in daemon.log.read_text()


def test_a_restart_sends_nothing_twice_and_what_happened_meanwhile_once(
    tmp_path: Path, kernel_log: FakeKernelLog, receiver: Receiver
) -> None:
    daemon = daemon_with(tmp_path, kernel_log, webhook(receiver))
    try:
        daemon.start()
        write_fault(kernel_log, 1)
        receiver.wait_for(lambda: taken(receiver) == [1], "the first fault")
        daemon.stop()
        write_fault(kernel_log, 2)
        daemon.start()
        receiver.wait_for(lambda: 2 in taken(receiver), "the fault of the time without a daemon")
        daemon.stop()
        daemon.start()
        write_fault(kernel_log, 3)
        receiver.wait_for(lambda: 3 in taken(receiver), "the fault after")
        assert taken(receiver) == [1, 2, 3]
    finally:
        daemon.stop()


def test_a_kill_between_delivery_and_cursor_sends_that_event_again_and_loses_none(
    tmp_path: Path, kernel_log: FakeKernelLog, receiver: Receiver
) -> None:
    daemon = daemon_with(tmp_path, kernel_log, webhook(receiver))
    killed: list[int] = []

    def take_and_kill(received: Received) -> Answer:
        if 2 in pids(received.events) and not killed:
            killed.append(daemon.pid)
            os.kill(daemon.pid, signal.SIGKILL)
        return Answer()

    try:
        daemon.start()
        write_fault(kernel_log, 1)
        receiver.wait_for(lambda: taken(receiver) == [1], "the first fault")
        receiver.answer = take_and_kill
        write_fault(kernel_log, 2)
        receiver.wait_for(lambda: killed and 2 in taken(receiver), "the kill")
        daemon.kill()
        daemon.start()
        receiver.wait_for(lambda: taken(receiver).count(2) == 2, "the same event again")
        write_fault(kernel_log, 3)
        receiver.wait_for(lambda: 3 in taken(receiver), "the fault after")
        assert taken(receiver) == [1, 2, 2, 3]
        twice = [each for post in receiver.taken for each in post.events if each["kind"] == "xid"]
        assert twice[1]["id"] == twice[2]["id"], "a receiver can tell that it is the same"
    finally:
        daemon.stop()


def test_a_receiver_that_is_away_or_fails_gets_everything_in_order_when_it_is_back(
    tmp_path: Path, kernel_log: FakeKernelLog, receiver: Receiver
) -> None:
    answers = [
        Answer(503, {"retry-after": "1"}),
        Answer(closes=True),
        Answer(429, {"retry-after": "0"}),
        Answer(500, body=b"oops \x1b[31m <!channel>"),
    ]
    receiver.answer = lambda received: answers.pop(0) if answers else Answer()
    daemon = daemon_with(tmp_path, kernel_log, webhook(receiver))
    try:
        daemon.start()
        receiver.stop()
        for number in (1, 2, 3):
            write_fault(kernel_log, number)
        wait_for(lambda: sink_status(daemon)["state"] == "retrying", "the first failure")
        assert "refused" in sink_status(daemon)["reason"]
        assert "does not get through" in xidwatch("status", "--socket", str(daemon.socket)).out
        assert daemon.get("/healthz")[0] == daemon.get("/readyz")[0] == 200
        receiver.start()
        receiver.wait_for(lambda: taken(receiver) == [1, 2, 3], "all of them, in order")
        assert not answers, "every bad answer was given"
        assert sink_status(daemon)["failures"] >= 5
        wait_for(lambda: sink_status(daemon)["state"] == "ok", "all well again")
        log = daemon.log.read_text()
        assert "500 Internal Server Error: oops \\x1b[31m" in log
        assert "\x1b" not in log
    finally:
        daemon.stop()


def test_a_receiver_that_hangs_holds_up_neither_the_other_sink_nor_the_stream_nor_the_end(
    tmp_path: Path, kernel_log: FakeKernelLog, receiver: Receiver
) -> None:
    with Receiver(lambda received: Answer(hangs=True)) as hanging:
        slow = webhook(hanging).replace("pager", "slow")
        daemon = daemon_with(tmp_path, kernel_log, slow + webhook(receiver))
        try:
            daemon.start()
            for number in (1, 2, 3):
                write_fault(kernel_log, number)
                wait_for_fault(receiver, number)
                assert pids(daemon.events())[-1] == number
            assert len(hanging.received) == 1
            assert sink_status(daemon, "slow")["lag_s"] >= 0
        finally:
            assert daemon.stop() == 0


def test_one_event_that_is_refused_blocks_no_other_and_the_receiver_is_told(
    tmp_path: Path, kernel_log: FakeKernelLog, receiver: Receiver
) -> None:
    receiver.answer = lambda received: Answer(400 if 2 in pids(received.events) else 200, body=b"bad gpu")
    daemon = daemon_with(tmp_path, kernel_log, webhook(receiver, 'kind = ["xid"]'))
    try:
        daemon.start()
        write_fault(kernel_log, 1)
        receiver.wait_for(lambda: taken(receiver) == [1], "the first fault")
        write_fault(kernel_log, 2)
        write_fault(kernel_log, 3)
        receiver.wait_for(lambda: 3 in taken(receiver), "the fault after the refused one")
        assert taken(receiver) == [1, 3]
        refused = next(event["id"] for event in daemon.events() if pids([event]) == [2])
        told = [skipped for post in receiver.taken for skipped in post.json["skipped"]]
        assert [(each["id"], each["reason"]) for each in told] == [(refused, "400 Bad Request: bad gpu")]
        alone = [post for post in receiver.received if pids(post.events) == [2]]
        assert len(alone) >= 3, "it was tried by itself before it was given up"
        status = sink_status(daemon)
        assert status["skipped"] == 1
        assert refused in status["last_skipped"]
        assert f"gave up event {refused}" in daemon.log.read_text()
        assert "gave up" in xidwatch("status", "--socket", str(daemon.socket)).out
    finally:
        daemon.stop()


def test_what_retention_deleted_while_the_receiver_was_away_is_told_as_missed(
    tmp_path: Path, kernel_log: FakeKernelLog, receiver: Receiver
) -> None:
    daemon = daemon_with(tmp_path, kernel_log, webhook(receiver))
    try:
        daemon.start()
        write_fault(kernel_log, 1)
        receiver.wait_for(lambda: taken(receiver) == [1], "the first fault")
        last = receiver.taken[-1].events[-1]["cursor"]
        daemon.stop()
        for file in daemon.state_dir.glob("journal.sqlite3*"):
            file.unlink()
        daemon.start()
        receiver.wait_for(lambda: receiver.taken[-1].json["missed"], "word of what was missed")
        missed = receiver.taken[-1].json["missed"]
        assert missed["first"] > last - 1
        assert missed["last"] >= missed["first"]
        write_fault(kernel_log, 2)
        receiver.wait_for(lambda: 2 in taken(receiver), "what comes then")
        assert receiver.taken[-1].json["missed"] is None, "it is told once"
        assert sink_status(daemon)["missed"] == 1
    finally:
        daemon.stop()


def test_a_command_gets_the_event_on_stdin_and_in_variables_and_never_through_a_shell(
    tmp_path: Path, kernel_log: FakeKernelLog
) -> None:
    script = tmp_path / "page"
    script.write_text(
        '#!/bin/sh\ncat > "$1/stdin.$XIDWATCH_EVENT_KIND"; env > "$1/env.$XIDWATCH_EVENT_KIND"\n'
        'touch "$1/done.$XIDWATCH_EVENT_KIND"\n',
        encoding="utf-8",
    )
    script.chmod(0o755)
    sinks = f'[[sink]]\nname = "page"\ntype = "command"\ncommand = ["{script}", "{tmp_path}"]\n'
    daemon = daemon_with(tmp_path, kernel_log, sinks)
    try:
        daemon.start()
        name = "$(touch pwned);`id`"
        text = f"NVRM: Xid (PCI:0000:91:00): 79, pid={NO_PROCESS}, name={name}, GPU has fallen off the bus."
        kernel_log.write(text)
        wait_for((tmp_path / "done.xid").exists, "the command")
        event = json.loads((tmp_path / "stdin.xid").read_text())
        assert (event["kind"], event["code"], event["process"]["name"]) == ("xid", 79, name)
        variables = dict(
            line.split("=", 1) for line in (tmp_path / "env.xid").read_text().splitlines() if "=" in line
        )
        assert variables["XIDWATCH_EVENT_TYPE"] == "event"
        assert variables["XIDWATCH_EVENT_CODE"] == "79"
        assert variables["XIDWATCH_EVENT_SEVERITY"] == "fatal"
        assert variables["XIDWATCH_EVENT_GPU"] == "0000:91:00.0"
        assert not Path("/pwned").exists()
    finally:
        daemon.stop()


def test_a_command_that_hangs_or_forks_is_killed_with_its_group_and_tried_again(
    tmp_path: Path, kernel_log: FakeKernelLog
) -> None:
    script = tmp_path / "page"
    script.write_text(
        '#!/bin/sh\nif [ ! -e "$1/tried" ]; then\n  touch "$1/tried"\n  sleep 1000 & echo $! > "$1/child"\n'
        '  sleep 1000\nfi\nsleep 1000 & echo $! > "$1/second-child"\ntouch "$1/done"\n',
        encoding="utf-8",
    )
    script.chmod(0o755)
    sinks = (
        f'[[sink]]\nname = "page"\ntype = "command"\ncommand = ["{script}", "{tmp_path}"]\n'
        'timeout = "300ms"\nkind = ["xid"]\n'
    )
    daemon = daemon_with(tmp_path, kernel_log, sinks)
    try:
        daemon.start()
        write_fault(kernel_log, 1)
        wait_for(lambda: sink_status(daemon, "page")["delivered"] == 1, "the second try")
        assert "did not end within 0.3 s and was killed" in daemon.log.read_text()
        for name in ("child", "second-child"):
            pid = int((tmp_path / name).read_text())
            wait_for_end(pid)
    finally:
        daemon.stop()


def wait_for_end(pid: int) -> None:
    wait_for(lambda: not running(pid), f"the end of process {pid}")


def running(pid: int) -> bool:
    """True for a process that is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_alerts_fire_with_an_open_incident_and_are_resolved_when_it_recovers(
    tmp_path: Path, kernel_log: FakeKernelLog, receiver: Receiver
) -> None:
    sinks = f'[[sink]]\nname = "am"\ntype = "alertmanager"\nurl = "{receiver.url}"\nlabels = {{ dc = "b" }}\n'
    daemon = daemon_with(tmp_path, kernel_log, sinks)
    try:
        daemon.start()
        write_fault(kernel_log, 1)
        receiver.wait_for(lambda: receiver.taken, "the alert")
        post = receiver.taken[0]
        assert post.path == "/api/v2/alerts"
        (alert,) = post.json
        assert alert["labels"] == {
            "alertname": "XidwatchIncident",
            "severity": "fatal",
            "node": "test-node",
            "kind": "incident",
            "code": "79",
            "gpu": "0000:91:00.0",
            "dc": "b",
        }
        assert alert["endsAt"] > alert["startsAt"]
        daemon.kill()
        count = len(receiver.taken)
        daemon.start()
        receiver.wait_for(lambda: len(receiver.taken) > count, "what fires, again after the restart")
        assert receiver.taken[-1].json[0]["labels"] == alert["labels"]
        change = "GPU recovery action changed from 0x2 (Node Reboot Required) to 0x0 (None)"
        kernel_log.write(f"NVRM: Xid (PCI:0000:91:00): 154, {change}", time_us=kernel_log.time_us + 1_000_000)
        receiver.wait_for(lambda: "RECOVERED" in receiver.taken[-1].body.decode(), "the end of the alert")
        (resolved,) = receiver.taken[-1].json
        assert resolved["labels"] == alert["labels"]
        assert resolved["endsAt"] < alert["endsAt"]
    finally:
        daemon.stop()


def test_a_full_disk_does_not_hold_back_the_alarms(
    tmp_path: Path, kernel_log: FakeKernelLog, receiver: Receiver
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(state)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount: {mounted.stderr.decode().strip()}")
    daemon = daemon_with(tmp_path, kernel_log, webhook(receiver, 'kind = ["xid"]'))
    try:
        daemon.start()
        filler = state / "filler"
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            while file.write(b"\0" * 4096):
                pass
        for number in range(1, 30):
            write_fault(kernel_log, number)
        receiver.wait_for(lambda: taken(receiver) == list(range(1, 30)), "every fault")
        wait_for(lambda: sink_status(daemon)["trouble"], "word of the cursor that is not saved")
        assert "no space left" in sink_status(daemon)["trouble"]
        filler.unlink()
        write_fault(kernel_log, 30)
        receiver.wait_for(lambda: 30 in taken(receiver), "one more")
        wait_for(lambda: sink_status(daemon)["trouble"] is None, "the cursor to be saved")
        daemon.kill()
        daemon.start()
        write_fault(kernel_log, 31)
        receiver.wait_for(lambda: 31 in taken(receiver), "the one after the restart")
        assert taken(receiver) == list(range(1, 32)), "nothing came twice"
    finally:
        daemon.stop()
        subprocess.run(["umount", "--lazy", str(state)], check=True)


def test_a_storm_is_told_in_few_deliveries_and_a_fault_of_another_gpu_is_not_lost_in_it(
    tmp_path: Path, kernel_log: FakeKernelLog, receiver: Receiver
) -> None:
    sinks = webhook(receiver).replace("per-minute = 600", "per-minute = 60")
    daemon = daemon_with(tmp_path, kernel_log, sinks)
    try:
        daemon.start()
        for number in range(400):
            write_fault(kernel_log, number, 31, bus=0x10 + number % 8)
        write_fault(kernel_log, 1000, 79, bus=0x91)
        receiver.wait_for(lambda: 1000 in taken(receiver), "the one that matters")
        assert len(receiver.received) < 60
        assert max(len(post.events) for post in receiver.taken) > 5
        assert all(len(post.events) <= 100 for post in receiver.taken)
    finally:
        daemon.stop()
