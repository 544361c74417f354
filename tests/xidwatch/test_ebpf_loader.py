"""The loaders as an operator meets them: a daemon that hears, and words where it cannot."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from probes.bpf.unavailable import State
from tests.support import bcc as real_bcc
from tests.support import real_kernel_log
from tests.support.bad_input import is_one_sentence
from tests.support.command import running, xidwatch
from tests.support.daemon import ROOT, Daemon
from tests.support.waiting import DEADLINE_S, wait_for

REAL = Path("/dev/kmsg")
BAD_PROGRAMS = {
    "not_compiled": ("int f(void) { return nowhere; }\n", ":1: use of undeclared identifier 'nowhere'"),
    "foreign_layout": ("RAW_TRACEPOINT_PROBE(console) { return 0; }\n", "no map named `lines`"),
}


@pytest.fixture(scope="module")
def usable() -> None:
    """Skips, with the reason, where bcc or the kernel log cannot be had."""
    real_kernel_log.skip_unless_usable()
    real_bcc.skip_unless_usable()


@pytest.fixture(params=BAD_PROGRAMS)
def bad(request: pytest.FixtureRequest, usable: None, tmp_path: Path) -> tuple[str, Path, str]:
    """The state, a program that leads to it, and a part of the reason."""
    text, words = BAD_PROGRAMS[request.param]
    program = tmp_path / "mine.c"
    program.write_text(text)
    return request.param, program, words


def bpf_of(probes: list[dict[str, Any]]) -> dict[str, Any]:
    return next(probe for probe in probes if probe["name"] == "bpf")


def hear_a_drill(daemon: Daemon) -> None:
    """Through eBPF, and through /dev/kmsg too."""
    domain = real_kernel_log.own_domain()
    real_kernel_log.write(real_kernel_log.drill_line(f"{domain}:01:00", 79, 7))

    def witnesses() -> set[str]:
        mine = [event for event in daemon.events() if domain in str(event["gpu"])]
        return {witness["probe"] for event in mine for witness in event["witnesses"]}

    wait_for(lambda: witnesses() == {"kmsg", "bpf"}, "both witnesses of one event")


@pytest.mark.kmsg
@pytest.mark.parametrize("loader", ["native", "bcc"])
def test_a_daemon_hears_through_either_loader_and_never_carries_the_compiler(
    usable: None, tmp_path: Path, loader: str
) -> None:
    flags = ["--allow-drills", "--ebpf", "required", "--ebpf-loader", loader, "--gpu", "off"]
    daemon = Daemon(tmp_path, kmsg=REAL, flags=flags).start()
    try:
        hear_a_drill(daemon)
        assert "LLVM" not in Path(f"/proc/{daemon.pid}/maps").read_text()
        assert Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text() == ""
    finally:
        daemon.stop()


@pytest.mark.kmsg
def test_the_program_of_the_documents_hears_and_status_names_it(usable: None, tmp_path: Path) -> None:
    text = (ROOT / "docs/ebpf.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```c\n(.*?)```", text, re.DOTALL)
    program = tmp_path / "xids-only.c"
    program.write_text(code)
    flags = ["--allow-drills", "--ebpf-program", str(program), "--gpu", "off"]
    daemon = Daemon(tmp_path, kmsg=REAL, flags=flags).start()
    try:
        hear_a_drill(daemon)
        status = xidwatch("status", "--json", "--socket", str(daemon.socket))
        bpf = bpf_of(json.loads(status.out)["probes"])
        assert bpf["hears"]
        assert str(program) in bpf["note"]
        assert str(program) in xidwatch("status", "--socket", str(daemon.socket)).out
    finally:
        daemon.stop()


def test_the_document_explains_states_that_exist_and_all_of_the_compilers() -> None:
    text = (ROOT / "docs/ebpf.md").read_text(encoding="utf-8")
    told = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) - {"native", "bcc"}
    assert told <= set(State)
    assert {state for state in State if re.search("bcc|program|compile|headers", state)} <= told


@pytest.mark.kmsg
def test_a_bad_program_is_a_state_with_name_reason_and_hint_everywhere(
    bad: tuple[str, Path, str], tmp_path: Path
) -> None:
    state, program, words = bad
    daemon = Daemon(tmp_path, kmsg=REAL, flags=["--ebpf-program", str(program), "--gpu", "off"]).start()
    try:
        ready = bpf_of(json.loads(daemon.get("/readyz")[1])["probes"])
        status = xidwatch("status", "--json", "--socket", str(daemon.socket))
        for probe in (ready, bpf_of(json.loads(status.out)["probes"])):
            assert (probe["hears"], probe["cause"]) == (False, state)
            assert words in probe["reason"]
            assert probe["hint"]
        assert f"does not hear ({state})" in xidwatch("status", "--socket", str(daemon.socket)).out
    finally:
        daemon.stop()


def test_the_doctor_names_what_is_wrong_with_a_program(bad: tuple[str, Path, str], tmp_path: Path) -> None:
    state, program, words = bad
    flags = ["--ebpf-program", str(program), "--state-dir", str(tmp_path / "state"), "--gpu", "off"]
    result = xidwatch("doctor", "--json", *flags, "--socket", str(tmp_path / "s"), "--listen", "127.0.0.1:0")
    [check] = [check for check in json.loads(result.out)["checks"] if check["name"] == "ebpf"]
    assert check["verdict"] in ("warn", "fail")
    assert f"({state})" in check["finding"]
    assert words in check["finding"]
    assert check["hint"]


def test_where_ebpf_is_required_a_bad_program_is_an_error_at_the_start(
    bad: tuple[str, Path, str], tmp_path: Path
) -> None:
    _, program, words = bad
    flags = ["--ebpf", "required", "--ebpf-program", str(program), "--gpu", "off", "--log-level", "error"]
    places = ["--state-dir", str(tmp_path / "state"), "--socket", str(tmp_path / "s")]
    result = xidwatch("serve", *flags, *places, "--listen", "127.0.0.1:0")
    is_one_sentence(result)
    assert f"{program}" in result.err
    assert words in result.err


def test_sigterm_while_the_compiler_works_ends_both_at_once(usable: None, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "never_written.h")
    program = tmp_path / "mine.c"
    program.write_text('#include "never_written.h"\n')
    flags = ["--ebpf-program", str(program), "--gpu", "off", "--listen", "127.0.0.1:0"]
    places = ["--state-dir", str(tmp_path / "state"), "--socket", str(tmp_path / "s")]
    with running("serve", *flags, *places) as command:
        process = command.process
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        pid = wait_for(lambda: children.read_text().split(), "the compiler to start")[0]
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0
        assert "Traceback" not in command.text("err")
    stat = Path(f"/proc/{pid}/stat")
    wait_for(lambda: not stat.exists() or ") Z " in stat.read_text(), "the compiler to die")
