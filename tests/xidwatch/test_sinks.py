"""`xidwatch sinks test`, doctor's line about sinks, and a daemon that refuses bad ones."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from daemon.config import Config
from daemon.sinks.health import SinkHealth, SinkState
from probes.health import Verdict
from tests.support.command import xidwatch
from tests.support.receiver import Answer, Receiver
from xidwatch import alarms
from xidwatch.status import _sink
from xidwatch.terminal import PLAIN


def write(directory: Path, text: str) -> Path:
    file = directory / "sinks.toml"
    file.write_text(text, encoding="utf-8")
    return file


def three(directory: Path, url: str) -> Path:
    return write(
        directory,
        f'''
[[sink]]
name = "pager"
type = "webhook"
url = "{url}/secret-token"
severity = "critical"

[[sink]]
name = "am"
type = "alertmanager"
url = "{url}"

[[sink]]
name = "page"
type = "command"
command = ["/bin/sh", "-c", "cat > {directory}/got; echo $XIDWATCH_EVENT_TYPE; exit 7"]
''',
    )


def test_each_sink_is_sent_a_marked_alarm_and_what_came_back_is_said(tmp_path: Path) -> None:
    with Receiver() as receiver:
        file = three(tmp_path, receiver.url)
        told = xidwatch("sinks", "test", "--on-event", str(file), "--node-name", "gpu-17")
    assert told.code == 1, "one of them did not take it"
    lines = told.out.splitlines()
    assert re.fullmatch(r"taken +pager +webhook http://127\.0\.0\.1:\d+ +200 OK \(\d+ ms\)", lines[0])
    assert re.fullmatch(r"taken +am +alertmanager http://127\.0\.0\.1:\d+ +200 OK \(\d+ ms\)", lines[1])
    assert re.fullmatch(r"NOT TAKEN +page +command /bin/sh +exit code 7: test \(\d+ ms\)", lines[2])
    assert "secret-token" not in told.out + told.err
    posts = {post.path: post for post in receiver.taken}
    body = posts["/secret-token"].json
    event = body["events"][0]
    assert (body["type"], event["drill"], event["detail"], event["node"]) == (
        *("test", True, {"test": True}),
        "gpu-17",
    )
    assert "TEST ALARM" in event["summary"]
    (alert,) = posts["/api/v2/alerts"].json
    assert alert["labels"]["drill"] == "true"
    assert "TEST ALARM" in alert["annotations"]["summary"]
    assert json.loads((tmp_path / "got").read_text())["drill"] is True


def test_one_sink_can_be_tested_alone_and_programs_can_read_the_answer(tmp_path: Path) -> None:
    with Receiver(lambda received: Answer(403, body=b"invalid_token")) as receiver:
        file = three(tmp_path, receiver.url)
        told = xidwatch("sinks", "test", "pager", "--json", environ={"XIDWATCH_ON_EVENT": str(file)})
    (answer,) = json.loads(told.out)
    assert told.code == 1
    assert (answer["sink"], answer["type"], answer["taken"]) == ("pager", "webhook", False)
    assert answer["said"] == "403 Forbidden: invalid_token"
    assert len(receiver.received) == 1


def test_exit_code_0_means_that_every_sink_took_it(tmp_path: Path) -> None:
    with Receiver() as receiver:
        told = xidwatch("sinks", "test", "am", "--on-event", str(three(tmp_path, receiver.url)))
    assert (told.code, told.err) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "told", "hint"),
    [
        ((), "there are no sinks to test", "--on-event FILE"),
        (("pagr", "--on-event", "FILE"), "there is no sink 'pagr'", "did you mean 'pager'"),
        (("--on-event", "/no/such"), "cannot read the sinks in /no/such", ""),
    ],
)
def test_what_cannot_be_tested_is_an_error_with_a_hint(
    tmp_path: Path, arguments: tuple[str, ...], told: str, hint: str
) -> None:
    file = three(tmp_path, "http://127.0.0.1:9")
    done = xidwatch("sinks", "test", *(str(file) if word == "FILE" else word for word in arguments))
    assert done.code == 2
    assert told in done.err
    assert hint in done.err


def test_a_daemon_with_a_bad_sink_does_not_start_and_says_why(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("0123456789abcdef")
    key.chmod(0o644)
    file = write(
        tmp_path, f'[[sink]]\nname = "x"\ntype = "webhook"\nurl = "http://h/"\nsecret-file = "{key}"'
    )
    done = xidwatch("serve", "--on-event", str(file), "--state-dir", str(tmp_path / "state"))
    assert done.code == 2
    assert f"sink 'x': secret-file: {key} holds a secret and others may read or write it" in done.err
    assert "chmod" in done.err
    assert not (tmp_path / "state").exists()


def test_doctor_says_whether_the_receivers_can_be_reached(tmp_path: Path) -> None:
    assert alarms.check(Config()).verdict is Verdict.OFF
    with Receiver() as receiver:
        config = Config(on_event=three(tmp_path, receiver.url))
        found = alarms.check(config)
        assert (found.verdict, receiver.received) == (Verdict.OK, [])
        assert "pager (webhook http://127.0.0.1:" in found.finding
    found = alarms.check(config)
    assert found.verdict is Verdict.WARN
    assert "connection refused" in found.finding
    assert "sinks test" in (found.hint or "")
    write(tmp_path, "sink = 1")
    assert alarms.check(config).verdict is Verdict.FAIL


def test_status_says_whether_alarms_get_through_and_what_was_given_up() -> None:
    health = SinkHealth("pager", "webhook", "https://h", SinkState.RETRYING, "503 \x1b[31m", failures=3)
    health.oldest_waiting_us, health.last_skipped = 1_000_000, "ev_1: 400"
    line = _sink(health.to_dict(now_us=91_000_000), PLAIN)
    assert line == (
        "pager (webhook https://h) does not get through, for 1m 30s: "
        r"503 \x1b[31m (failures 3); gave up ev_1: 400"
    )
    fine = SinkHealth("pager", "webhook", "https://h", SinkState.OK, deliveries=2, delivered=5)
    assert _sink(fine.to_dict(now_us=0), PLAIN) == "pager (webhook https://h) gets through (delivered 5)"
    quiet = SinkHealth("pager", "webhook", "https://h", SinkState.OK)
    assert _sink(quiet.to_dict(now_us=0), PLAIN) == "pager (webhook https://h) has sent nothing yet"
    assert fine.as_outlet().up
    assert not health.as_outlet().up
