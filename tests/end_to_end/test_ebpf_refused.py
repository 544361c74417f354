"""What keeps eBPF from this process, made real: the same name, reason and hint wherever one looks.

In `/readyz` and `status` of a daemon that goes on without it, in `doctor`, and as the error with which
`--ebpf required` ends the start.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from probes.bpf.availability import attach
from probes.bpf.unavailable import Unavailable
from tests.support.command import xidwatch
from tests.support.daemon import ROOT, Daemon, clean_environment
from tests.support.kernel_log import FakeKernelLog
from tests.support.real_kernel_log import skip_unless_usable
from tests.support.waiting import DEADLINE_S

CODE_OF_A_USER_ERROR = 2


@dataclass(frozen=True, slots=True)
class Refusal:
    """One way not to be allowed, and the words for it."""

    wrapper: Sequence[str]
    states: frozenset[str]
    reason: str
    hint: str


def only(*capabilities: str) -> list[str]:
    kept = "".join(f",+{name}" for name in capabilities)
    return ["setpriv", f"--bounding-set=-all{kept}", "--inh-caps=-all"]


NEITHER = frozenset({"no_capability", "unprivileged_bpf"})
REFUSALS = {
    "no capability": Refusal(only("syslog"), NEITHER, "CAP_BPF and CAP_PERFMON are missing", "BPF"),
    "only CAP_BPF": Refusal(
        only("bpf", "syslog"), frozenset({"only_cap_bpf"}), "CAP_BPF alone loads no program", "PERFMON"
    ),
    "seccomp": Refusal(
        [sys.executable, "-m", "tests.support.seccomp", "1"],
        frozenset({"seccomp"}),
        "a seccomp filter keeps bpf(2) from this process",
        "seccomp|SystemCallFilter|runtime|engine",
    ),
    "user namespace": Refusal(
        ["unshare", "--user", "--map-root-user"],
        frozenset({"user_namespace"}),
        "capabilities of a user namespace do not reach bpf(2)",
        "outside of the user namespace",
    ),
}


@pytest.fixture(params=REFUSALS, scope="module")
def refusal(request: pytest.FixtureRequest) -> Refusal:
    skip_unless_usable()
    if isinstance(found := attach(), Unavailable):
        pytest.skip(f"eBPF cannot be taken away where it is not: {found.reason}")
    found.close()
    refusal = REFUSALS[request.param]
    if shutil.which(refusal.wrapper[0]) is None:
        pytest.skip(f"{refusal.wrapper[0]} is not installed")
    tried = run(refusal, "-c", "pass")
    if tried.returncode:
        pytest.skip(f"{refusal.wrapper[0]}: {tried.stderr.strip()}")
    return refusal


def run(refusal: Refusal, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*refusal.wrapper, sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=clean_environment() | {"PYTHONPATH": str(ROOT)},
        timeout=DEADLINE_S,
    )


@pytest.fixture
def daemon(refusal: Refusal, kernel_log: FakeKernelLog) -> Iterator[Daemon]:
    """One that wants eBPF beside another log, and is refused it."""
    running = Daemon(
        kernel_log.path.parent,
        kmsg=kernel_log.path,
        flags=["--probes", "kmsg,bpf", "--gpu", "off"],
        wrapper=refusal.wrapper,
    )
    try:
        yield running.start()
    finally:
        running.stop()


def is_said(refusal: Refusal, said: dict[str, Any]) -> None:
    assert said["cause"] in refusal.states
    assert refusal.reason in said["reason"]
    assert re.search(refusal.hint, said["hint"])


def test_a_daemon_that_goes_on_without_it_says_so_in_readyz_and_status(
    refusal: Refusal, daemon: Daemon
) -> None:
    status, body = daemon.get("/readyz")
    assert status == 200  # the other log is heard
    [said] = [probe for probe in json.loads(body)["probes"] if probe["name"] == "bpf"]
    assert not said["hears"]
    is_said(refusal, said)
    shown = xidwatch("status", "--json", "--socket", str(daemon.socket))
    assert shown.code == 0, shown.err
    [told] = [probe for probe in json.loads(shown.out)["probes"] if probe["name"] == "bpf"]
    is_said(refusal, told)
    for_people = xidwatch("status", "--socket", str(daemon.socket))
    assert refusal.reason in " ".join(for_people.out.split())


def test_the_doctor_uses_the_same_words(refusal: Refusal, tmp_path: Path) -> None:
    done = run(
        refusal, "-m", "xidwatch", "doctor", "--json", "--state-dir", str(tmp_path), "--ebpf", "required"
    )
    [said] = [check for check in json.loads(done.stdout)["checks"] if check["name"] == "ebpf"]
    assert said["verdict"] == "fail"
    state = re.search(r"\((\w+)\)$", said["finding"])
    assert state is not None
    is_said(refusal, {"cause": state[1], "reason": said["finding"], "hint": said["hint"]})


def test_where_it_is_required_the_start_ends_with_the_reason(
    refusal: Refusal, kernel_log: FakeKernelLog, tmp_path: Path
) -> None:
    daemon = Daemon(tmp_path, kmsg=kernel_log.path, flags=["--ebpf", "required", "--gpu", "off"])
    flags = ["serve", "--listen", f"127.0.0.1:{daemon.port}", "--socket", str(daemon.socket)]
    flags += ["--state-dir", str(daemon.state_dir), "--kmsg", str(kernel_log.path), "--ebpf", "required"]
    done = run(refusal, "-m", "xidwatch", *flags, "--gpu", "off", "--log-level", "error")
    assert done.returncode == CODE_OF_A_USER_ERROR, done.stderr
    assert "eBPF is required, and it cannot be" in done.stderr
    assert refusal.reason in done.stderr
    assert re.search(refusal.hint, done.stderr)
    assert "Traceback" not in done.stderr


def test_with_three_capabilities_it_hears_and_keeps_the_one_it_needs_later(kernel_log: FakeKernelLog) -> None:
    skip_unless_usable()
    if isinstance(found := attach(), Unavailable):
        pytest.skip(found.reason)
    found.close()
    daemon = Daemon(
        kernel_log.path.parent,
        kmsg=kernel_log.path,
        flags=["--probes", "kmsg,bpf"],
        wrapper=only("bpf", "perfmon", "syslog"),
    )
    try:
        daemon.start()
        probes = json.loads(daemon.get("/readyz")[1])["probes"]
        assert {probe["name"] for probe in probes if probe["hears"]} == {"kmsg", "bpf"}
        assert "gave up CAP_PERFMON and CAP_BPF" in daemon.log.read_text()
        syslog = 1 << 34
        for task in Path(f"/proc/{daemon.pid}/task").iterdir():
            assert capabilities(task) == syslog, (task / "comm").read_text()
    finally:
        daemon.stop()


def capabilities(process: Path) -> int:
    """The permitted set."""
    lines = (process / "status").read_text().splitlines()
    return next(int(line.split()[1], 16) for line in lines if line.startswith("CapPrm"))
