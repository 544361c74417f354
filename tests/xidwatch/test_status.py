"""`xidwatch status`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from probes.privileges import GivenUp
from tests.support.command import xidwatch
from tests.support.daemon import Daemon
from tests.support.kernel_log import FakeKernelLog
from tests.support.socket_stub import SocketStub
from tests.support.waiting import wait_for
from xidwatch.status import duration, render
from xidwatch.terminal import PLAIN
from xidwatch.version import VERSION


def state(**changes: Any) -> dict[str, Any]:
    """A daemon's status in which all is well, changed."""
    probe = {
        **{"name": "kmsg", "state": "ok", "hears": True, "live": True},
        **{"reason": None, "hint": None, "counters": {}},
    }
    journal: dict[str, Any] = {
        "state": "ok",
        "reason": None,
        "unstored": 0,
        "late": 0,
        "lost": 0,
        "failures": 0,
        "notes": [],
    }
    return {
        "version": "1.2.3",
        "node": "gpu-17",
        "uptime_s": 93784.5,
        "listen": "http://127.0.0.1:8080",
        "socket": "/run/xidwatch/mcp.sock",
        "mode": "read-only",
        "drills_allowed": False,
        "driver_version": None,
        "probes": [probe],
        "tracker": tracker(),
        "gpu": gpu(),
        "unavailable": [{"part": "ebpf", "reason": "not part of this version"}],
        "journal": journal,
        "newest_cursor": 0,
        "oldest_cursor": 0,
        "clients": {"events": 2, "mcp": 0, "sse": 0, "socket": 1},
        "counters": {"lines": 5, "forged": 0},
        **changes,
    }


def gpu(**changes: Any) -> dict[str, Any]:
    """Readings of eight GPUs that all answer."""
    well: dict[str, Any] = {"source": "ok", "reason": None, "mock": False, "expected": 8}
    return {**well, "lost": [], "hung": [], "workers_abandoned": 0, **changes}


def tracker(**changes: Any) -> dict[str, Any]:
    """A tracker that runs and sees everything."""
    well: dict[str, Any] = {"runs": True, "state": None, "reason": None, "hint": None}
    return {**well, "blind_to": [], "counters": {"ended": 7, "told": 2, "dropped": 0}, **changes}


def deaf(**changes: Any) -> dict[str, Any]:
    """A probe that hears nothing."""
    return {
        **{"name": "kmsg", "state": "down", "hears": False, "live": True, "counters": {}},
        **{"reason": "/dev/kmsg: permission denied", "hint": "run as root"},
        **changes,
    }


def test_it_shows_what_hears_what_is_kept_and_where_to_connect() -> None:
    text = "\n".join(render(state(newest_cursor=9, oldest_cursor=3), PLAIN))
    for part in (
        *("gpu-17", "xidwatch 1.2.3, up for 1d 2h", "http://127.0.0.1:8080 and /run/xidwatch/mcp.sock"),
        *("kmsg hears", "ebpf: not part of this version", "cursors 3 to 9", "lines 5", "drills not allowed"),
        "events 2, socket 1 (this command is one)",
    ):
        assert part in text
    assert "forged" not in text


def test_it_names_gpus_that_are_lost_or_hang_and_why_nothing_can_be_read() -> None:
    lost = {"pci": "0000:91:00.0", "presence": "lost", "since": "2026-11-22T11:20:06Z"}
    hung = {"pci": "0000:92:00.0", "trouble": "hung", "call": "nvmlDeviceGetTemperature"}
    hung["since"] = "2026-11-22T11:21:07Z"
    text = "\n".join(render(state(gpu=gpu(lost=[lost], hung=[hung, hung], workers_abandoned=1)), PLAIN))
    assert "ok; 8 known" in text
    assert "0000:91:00.0 lost since 2026-11-22T11:20:06Z" in text
    assert text.count("0000:92:00.0 hung in nvmlDeviceGetTemperature since 2026-11-22T11:21:07Z") == 1
    assert "1 process left behind in calls that did not return" in text
    text = "\n".join(render(state(gpu=gpu(source="no_driver", reason="not loaded", expected=0)), PLAIN))
    assert "no driver: not loaded; 0 known" in text


def test_a_probe_that_does_not_hear_says_why_and_what_to_do() -> None:
    text = "\n".join(render(state(probes=[deaf()]), PLAIN))
    assert "kmsg does not hear: /dev/kmsg: permission denied (run as root)" in text


def test_it_says_whether_it_is_told_how_processes_end_and_what_it_cannot_see() -> None:
    assert "told how processes end (ended 7, told 2)" in "\n".join(render(state(), PLAIN))
    blind = "\n".join(render(state(tracker=tracker(blind_to=["exit codes and signals"])), PLAIN))
    assert "not known here: exit codes and signals" in blind
    off = tracker(runs=False, state="no_capability", reason="CAP_BPF is missing", hint="run as root")
    text = "\n".join(render(state(tracker=off), PLAIN))
    assert "not told how processes end: CAP_BPF is missing (run as root)" in text


def test_a_probe_that_hears_in_part_or_let_go_as_asked_is_neither_well_nor_down() -> None:
    nvml = {"name": "nvml", "live": False, "hint": "look", "counters": {"gpus": 7}}
    in_part = {**nvml, "state": "degraded", "hears": True, "reason": "1 of 8 GPUs is not heard: X (why)"}
    let_go = {**nvml, "state": "released", "hears": False, "reason": "it let go"}
    text = "\n".join(render(state(probes=[in_part, let_go]), PLAIN))
    assert "nvml hears in part: 1 of 8 GPUs is not heard: X (why) (look) (gpus 7)" in text
    assert "nvml released: it let go (look)" in text


def test_a_journal_that_takes_no_events_says_why() -> None:
    journal = {**state()["journal"], "state": "failing", "reason": "disk full", "unstored": 3}
    assert "failing: disk full; unstored 3" in "\n".join(render(state(journal=journal), PLAIN))


def test_text_of_the_daemon_is_cleaned() -> None:
    text = "".join(render(state(node="a\x1b[31m", probes=[deaf(reason="\x07")]), PLAIN))
    assert text.isprintable()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59, "59s"), (725, "12m 5s"), (3600, "1h 0m"), (273600, "3d 4h")],
)
def test_a_duration_is_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("probe", "code"), [(state()["probes"][0], 0), (deaf(), 1)])
def test_the_exit_code_tells_whether_anything_is_heard(
    tmp_path: Path, probe: dict[str, Any], code: int
) -> None:
    with SocketStub(tmp_path / "s", status=json.dumps(state(probes=[probe])).encode() + b"\n"):
        assert xidwatch("status", "--socket", str(tmp_path / "s")).code == code


@pytest.mark.parametrize(
    ("probes", "code", "line"),
    [
        ([state()["probes"][0], deaf(name="bpf")], 0, "ready: hears the kernel log through kmsg"),
        ([deaf()], 1, "not ready: kmsg: /dev/kmsg: permission denied"),
        ([{**state()["probes"][0], "live": False}], 1, "not ready: no live source was asked for"),
    ],
)
def test_readiness_is_one_line_and_an_exit_code(
    tmp_path: Path, probes: list[dict[str, Any]], code: int, line: str
) -> None:
    with SocketStub(tmp_path / "s", status=json.dumps(state(probes=probes)).encode() + b"\n"):
        result = xidwatch("status", "--ready", "--socket", str(tmp_path / "s"))
    assert (result.code, result.out, result.err) == (code, f"{line}\n", "")


def test_without_a_daemon_nothing_is_ready(tmp_path: Path) -> None:
    result = xidwatch("status", "--ready", "--socket", str(tmp_path / "none"))
    assert result.code == 1
    assert result.err.startswith("xidwatch: no daemon listens at")


def test_readiness_and_json_are_two_forms_of_one_answer() -> None:
    result = xidwatch("status", "--ready", "--json")
    assert result.code == 2
    assert "not allowed with" in result.err


def test_no_daemon_is_said_in_one_sentence_with_a_hint(tmp_path: Path) -> None:
    result = xidwatch("status", "--socket", str(tmp_path / "none"))
    assert result.code == 1
    assert result.out == ""
    assert result.err.splitlines() == [
        f"xidwatch: no daemon listens at {tmp_path / 'none'}",
        "hint: start one with `xidwatch serve`, or name its socket with --socket",
    ]
    as_json = xidwatch("status", "--json", "--socket", str(tmp_path / "none"))
    assert as_json.code == 1
    assert json.loads(as_json.out)["error"].startswith("no daemon listens")


@pytest.mark.parametrize("answer", [b"", b"{}\n", b"nonsense\n"])
def test_a_daemon_that_answers_nothing_sensible_is_an_error(tmp_path: Path, answer: bytes) -> None:
    with SocketStub(tmp_path / "s", status=answer):
        result = xidwatch("status", "--socket", str(tmp_path / "s"))
    assert result.code in {1, 2}
    assert "Traceback" not in result.err
    assert result.err.startswith("xidwatch: ")


def test_a_running_daemon_says_what_it_hears(running_daemon: Daemon, kernel_log: FakeKernelLog) -> None:
    kernel_log.write("NVRM: Xid (PCI:0000:91:00): 79, GPU has fallen off the bus.")
    event = wait_for(running_daemon.events, "the event")[-1]
    text = xidwatch("status", "--socket", str(running_daemon.socket))
    assert text.code == 0, text.err
    assert "kmsg hears" in text.out
    assert f"xidwatch {VERSION}" in text.out
    as_json = json.loads(xidwatch("status", "--json", "--socket", str(running_daemon.socket)).out)
    assert as_json["node"] == "test-node"
    assert as_json["newest_cursor"] >= event["cursor"]
    assert running_daemon.url == as_json["listen"]
    assert as_json["clients"] == {"events": 0, "mcp": 0, "sse": 0, "socket": 1}


@pytest.mark.parametrize(
    ("privileges", "line"),
    [
        (GivenUp(("CAP_PERFMON", "CAP_BPF"), None), "gave up CAP_PERFMON and CAP_BPF"),
        (
            GivenUp(("CAP_BPF",), None, "by executing a file that has them"),
            "gave up CAP_BPF; to be had again by executing a file that has them",
        ),
        (GivenUp(("CAP_PERFMON",), "CAP_BPF is still needed"), "gave up CAP_PERFMON; kept: CAP_BPF is"),
        (GivenUp((), "CAP_SYS_ADMIN is held"), "kept: CAP_SYS_ADMIN is held"),
    ],
)
def test_it_says_which_rights_were_given_up_and_why_some_were_kept(privileges: GivenUp, line: str) -> None:
    rows = render(state(privileges=asdict(privileges)), PLAIN)
    [rights] = [row for row in rows if row.startswith("rights")]
    assert line in rights


def test_where_there_were_no_rights_to_give_up_nothing_is_said_of_them() -> None:
    for privileges in (None, asdict(GivenUp((), None))):
        assert not any(row.startswith("rights") for row in render(state(privileges=privileges), PLAIN))
