"""A local command: what it is given, and that nothing it does holds anybody up."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from daemon.filter import EVERYTHING
from daemon.page import Missed
from daemon.sinks.batch import Batch
from daemon.sinks.command import VALUE_CHARS, Command, environment, stdin_of
from daemon.sinks.news import News, Updates
from daemon.sinks.outcome import Fate, Outcome
from daemon.sinks.targets import CommandTarget
from tests.daemon.stored import in_loop
from tests.support.events import TIME_US, item
from tests.support.waiting import wait_for


def run(script: str, *batches: Batch, timeout_s: float = 20.0) -> list[Outcome]:
    """What becomes of each batch with this shell script as the command."""

    async def main() -> list[Outcome]:
        command = made(script, timeout_s)
        try:
            return [await command.send(batch) for batch in batches]
        finally:
            await command.close()

    return in_loop(main)


def made(script: str, timeout_s: float = 20.0) -> Command:
    target = CommandTarget(("/bin/sh", "-c", script), timeout_s)
    return Command("page", target, News(EVERYTHING, Updates.IMPORTANT, drills=False))


def batch(*cursors: int, **changes: Any) -> Batch:
    return Batch("page", "test-node", TIME_US, [item(cursor) for cursor in cursors], **changes)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_one_event_is_itself_on_stdin_and_several_are_a_batch() -> None:
    assert json.loads(stdin_of(batch(1))) == json.loads(item(1).json)
    several = json.loads(stdin_of(batch(1, 2)))
    assert [event["cursor"] for event in several["events"]] == [1, 2]
    missed = json.loads(stdin_of(batch(1, missed=Missed(1, 2))))
    assert missed["missed"] == {"first": 1, "last": 2}


def test_the_variables_hold_the_event_and_leave_out_what_is_not_known() -> None:
    values = environment(batch(7))
    assert values["XIDWATCH_EVENT_TYPE"] == "event"
    assert values["XIDWATCH_EVENT_CODE"] == "79"
    assert values["XIDWATCH_EVENT_GPU"] == "0000:91:00.0"
    assert values["XIDWATCH_EVENT_GPU_INDEX"] == "3"
    assert values["XIDWATCH_EVENT_CURSOR"] == "7"
    assert "XIDWATCH_EVENT_INCIDENT" not in values
    assert "XIDWATCH_EVENT_STATE" not in values
    assert environment(batch(1, is_test=True))["XIDWATCH_EVENT_TYPE"] == "test"


def test_of_several_events_the_variables_are_those_of_the_worst() -> None:
    from daemon.event import Severity

    items = [item(1, severity=Severity.WARNING), item(2), item(3, severity=Severity.CRITICAL)]
    values = environment(Batch("page", "test-node", TIME_US, items))
    assert (values["XIDWATCH_EVENT_TYPE"], values["XIDWATCH_EVENT_COUNT"]) == ("events", "3")
    assert (values["XIDWATCH_EVENT_CURSOR"], values["XIDWATCH_EVENT_SEVERITY"]) == ("2", "fatal")
    assert values["XIDWATCH_EVENT_SUMMARY"].startswith("3 events, among them: FATAL test-node")


def test_values_hold_no_control_characters_and_are_bounded() -> None:
    nasty = "a\0b\nc\x1b[31m\u202e" + "x" * 5000
    values = environment(Batch("page", "n\n", TIME_US, [item(1, summary=nasty, name=nasty)]))
    assert all(value.isprintable() and len(value) <= VALUE_CHARS for value in values.values())
    assert run("exit 0", Batch("page", "n", TIME_US, [item(1, name=nasty)]))[0].is_delivered


@pytest.mark.parametrize(
    ("script", "fate", "said"),
    [
        ("cat > /dev/null", Fate.DELIVERED, "exit code 0"),
        ("exit 0", Fate.DELIVERED, "exit code 0"),
        ("echo no such host >&2; exit 75", Fate.AWAY, "exit code 75: no such host"),
        ("printf 'a\\033[31m\\nb'; exit 3", Fate.CLOSED, "exit code 3: a\\x1b[31m b"),
        ("kill -SEGV $$", Fate.CLOSED, "ended by signal 11"),
    ],
)
def test_the_exit_code_says_what_became_of_it(script: str, fate: Fate, said: str) -> None:
    (outcome,) = run(script, batch(1))
    assert (outcome.fate, outcome.said) == (fate, said)


def test_a_program_that_cannot_be_started_is_waited_for() -> None:
    async def main() -> Outcome:
        target = CommandTarget(("/no/such/program",), 1.0)
        command = Command("page", target, News(EVERYTHING, Updates.IMPORTANT, drills=False))
        try:
            return await command.send(batch(1))
        finally:
            await command.close()

    assert in_loop(main) == Outcome(Fate.AWAY, "cannot be started: no such file or directory")


def test_output_without_end_is_read_and_dropped() -> None:
    (outcome,) = run("yes abcdefgh | head -c 20000000; exit 4", batch(1))
    assert outcome.fate is Fate.CLOSED
    assert outcome.said.startswith("exit code 4: abcdefgh")
    assert len(outcome.said) < 400


def test_a_large_input_reaches_one_that_reads_late_and_may_be_ignored(tmp_path: Path) -> None:
    items = [item(cursor, summary="x" * 4000) for cursor in range(1, 101)]
    large = Batch("page", "test-node", TIME_US, items)
    script = f"exec 3<&0; cat <&3 > {tmp_path}/got"
    assert run(script, large)[0].is_delivered
    assert json.loads((tmp_path / "got").read_bytes()) == json.loads(large.to_json())
    assert run("exec <&-; exit 0", large)[0].is_delivered


def test_one_that_hangs_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    script = f"sleep 1000 & echo $! > {tmp_path}/child; exec >&- 2>&- <&-; sleep 1000"
    first, second = run(script, batch(1), batch(2), timeout_s=0.3)
    assert first == second == Outcome(Fate.CLOSED, "did not end within 0.3 s and was killed")
    child = int((tmp_path / "child").read_text())
    wait_for(lambda: not is_alive(child), "the end of its child")


def test_one_that_ends_and_leaves_a_child_with_its_output_is_not_waited_for(tmp_path: Path) -> None:
    (outcome,) = run(f"sleep 1000 & echo $! > {tmp_path}/child; exit 0", batch(1))
    assert outcome.is_delivered
    child = int((tmp_path / "child").read_text())
    wait_for(lambda: not is_alive(child), "the end of its child")


def test_the_end_of_the_process_ends_what_runs(tmp_path: Path) -> None:
    async def main() -> None:
        command = made(f"echo $$ > {tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; sleep 1000")
        sending = asyncio.create_task(command.send(batch(1)))
        while not (tmp_path / "pid").exists():
            await asyncio.sleep(0.01)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await command.close()

    in_loop(main)
    pid = int((tmp_path / "pid").read_text())
    wait_for(lambda: not is_alive(pid), "the end of the command")


def test_it_inherits_no_settings_of_ours_nor_of_systemd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XIDWATCH_TOKEN_FILE", "/x")
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/x")
    monkeypatch.setenv("KEEP_ME", "yes")
    run(f"env > {tmp_path}/env; pwd > {tmp_path}/pwd", batch(1))
    names = [line.partition("=")[0] for line in (tmp_path / "env").read_text().splitlines()]
    assert "KEEP_ME" in names
    assert "NOTIFY_SOCKET" not in names
    assert all(name.startswith("XIDWATCH_EVENT_") for name in names if name.startswith("XIDWATCH"))
    assert (tmp_path / "pwd").read_text() == "/\n"


def test_no_descriptor_is_left_behind() -> None:
    async def main() -> tuple[int, int]:
        command = made("exit 0")
        await command.send(batch(1))
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (the names are counted)
        for cursor in range(2, 10):
            await command.send(batch(cursor))
        after = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (the names are counted)
        await command.close()
        return before, after

    before, after = in_loop(main)
    assert after == before


def test_it_is_not_lent_the_capabilities_that_the_daemon_hears_the_kernel_with() -> None:
    lend = ("setpriv", "--inh-caps", "+syslog", "--ambient-caps", "+syslog")
    if shutil.which("setpriv") is None or subprocess.run([*lend, "true"], check=False).returncode:
        pytest.skip("this process cannot lend capabilities with setpriv")
    script = (
        "from tests.daemon.sinks.test_command import batch, run\n"
        "print(run('cat >/dev/null; grep CapAmb /proc/self/status; exit 1', batch(1))[0].said)"
    )
    root = Path(__file__).parents[3]
    told = subprocess.run(
        [*lend, sys.executable, "-c", script], capture_output=True, text=True, cwd=root, check=True
    )
    assert told.stdout.strip() == "exit code 1: CapAmb: 0000000000000000"


def test_it_is_given_no_secret_of_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer s3cret")
    (outcome,) = run("env | grep OTEL; exit 1", batch(1))
    assert outcome.said == "exit code 1"
