"""`xidwatch release-driver`, against prepared answers."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from probes.errors import UserError
from tests.support.command import xidwatch
from tests.support.socket_stub import SocketStub
from xidwatch import release_driver

UNTIL = "2026-11-22T11:30:00.000000Z"


def told(tmp_path: Path, answer: Mapping[str, object], *, as_json: bool = False) -> tuple[int, str]:
    """Exit code and output for this answer of the daemon."""
    out = io.StringIO()
    with SocketStub(tmp_path / "s", json.dumps(answer).encode() + b"\n") as daemon:
        code = release_driver.run(tmp_path / "s", as_json=as_json, out=out)
        assert [request["want"] for request in daemon.requests] == ["release-driver"]
    return code, out.getvalue()


def test_what_was_let_go_is_named_and_when_it_is_taken_up_again(tmp_path: Path) -> None:
    answer = {
        "reader": {"ended": [41], "stuck": []},
        "events": {"ended": [42], "stuck": [], "until": UNTIL},
    }
    assert told(tmp_path, answer) == (
        0,
        "the process that reads GPUs (pid 41) has ended\n"
        "the process that hears NVML's events (pid 42) has ended\n"
        "xidwatch holds the driver no more\n"
        "the next question about a GPU takes the driver up again\n"
        "kernel messages go on to be heard: nothing is lost\n"
        f"NVML's events are heard again from {UNTIL}, or when the driver was loaded anew\n",
    )


def test_a_process_that_is_stuck_is_said_and_the_exit_code_is_1(tmp_path: Path) -> None:
    code, text = told(tmp_path, {"reader": {"ended": [], "stuck": [41]}, "events": None})
    assert code == 1
    assert "(pid 41) is stuck in a call of the driver and holds it until that returns" in text
    assert "no more" not in text


def test_a_daemon_that_held_nothing_says_so(tmp_path: Path) -> None:
    assert told(tmp_path, {"reader": None, "events": None}) == (0, "xidwatch did not hold the driver\n")


def test_the_tracepoint_that_pins_the_module_is_let_go_of(tmp_path: Path) -> None:
    answer = {"reader": None, "events": None, "tracepoint": {"was_attached": True}}
    assert told(tmp_path, answer) == (
        0,
        "the driver's tracepoint is let go of\n"
        "xidwatch holds the driver no more\n"
        "the tracepoint is heard again when the driver was loaded anew\n",
    )


def test_json_is_the_daemons_answer(tmp_path: Path) -> None:
    answer = {"reader": {"ended": [], "stuck": [41]}, "events": None}
    code, text = told(tmp_path, answer, as_json=True)
    assert (code, json.loads(text)) == (1, answer)


@pytest.mark.parametrize(
    "answer", [{}, {"reader": 1, "events": None}, {"reader": {"ended": []}, "events": None}]
)
def test_an_answer_of_another_version_is_an_error(tmp_path: Path, answer: Mapping[str, object]) -> None:
    with pytest.raises(UserError, match="not understood"):
        told(tmp_path, answer)


def test_without_a_daemon_that_is_said(tmp_path: Path) -> None:
    result = xidwatch("release-driver", "--socket", str(tmp_path / "none"))
    assert result.code == 2
    assert result.err.startswith("xidwatch: no daemon listens at")
