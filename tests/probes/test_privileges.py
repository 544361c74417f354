"""Giving up capabilities, in processes that hold some and then start others."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest

from probes.kernel import Capability
from tests.support.daemon import ROOT

_PROGRAM = """
import json, subprocess, sys, threading
from probes.kernel import Capability
from probes.privileges import give_up

def sets(status):
    words = (line.split() for line in status.splitlines() if line[:3] == "Cap")
    return {name[:-1]: int(value, 16) for name, value in words}

before = sets(open("/proc/thread-self/status").read())
if "thread" in sys.argv:
    asked, go_on = threading.Event(), threading.Event()
    threading.Thread(target=lambda: (asked.set(), go_on.wait()), daemon=True).start()
    asked.wait()
given = give_up(needed={Capability[name] for name in sys.argv[1:] if name.isupper()})
after = sets(open("/proc/thread-self/status").read())
child = sets(subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout)
inherited = {}
thread = threading.Thread(target=lambda: inherited.update(sets(open("/proc/thread-self/status").read())))
thread.start()
thread.join()
again = give_up()
print(json.dumps({"before": before, "after": after, "child": child, "thread": inherited,
                  "gone": given.capabilities, "how_again": given.how_again,
                  "why_kept": given.why_kept, "again": again.capabilities}))
"""
BPF, PERFMON, SYSLOG = 1 << Capability.BPF, 1 << Capability.PERFMON, 1 << Capability.SYSLOG
SETPCAP = 1 << 8


def run(*kept: str, arguments: tuple[str, ...] = ()) -> dict[str, Any]:
    """What becomes of root that has nothing but the capabilities `kept`."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("this takes root and setpriv")
    bounding = "".join(f",+{name}" for name in kept)
    command = ["setpriv", f"--bounding-set=-all{bounding}", "--inh-caps=-all", sys.executable, "-c", _PROGRAM]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, env=environ)
    if done.returncode and "cap" in done.stderr and "Traceback" not in done.stderr:
        pytest.skip(f"setpriv: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("with_setpcap", [False, True], ids=["as in a container", "with CAP_SETPCAP"])
def test_what_loading_took_is_gone_and_what_else_is_granted_stays(with_setpcap: bool) -> None:
    kept = ("bpf", "perfmon", "syslog", *(("setpcap",) if with_setpcap else ()))
    said = run(*kept)
    assert said["before"]["CapEff"] & (BPF | PERFMON) == BPF | PERFMON
    assert said["gone"] == ["CAP_PERFMON", "CAP_BPF"]
    assert said["why_kept"] is None
    expected = SYSLOG | (SETPCAP if with_setpcap else 0)
    for who in ("after", "thread", "child"):
        assert said[who]["CapEff"] == said[who]["CapPrm"] == expected, who
    assert said["again"] == []
    assert said["how_again"] is None


def test_what_is_still_needed_stays_and_is_named() -> None:
    said = run("bpf", "perfmon", arguments=("BPF",))
    assert said["gone"] == ["CAP_PERFMON"]
    assert said["why_kept"] == "CAP_BPF is still needed"
    assert said["after"]["CapEff"] == BPF
    said = run("bpf", "perfmon", arguments=("BPF", "PERFMON"))
    assert said["gone"] == []
    assert said["why_kept"] == "CAP_PERFMON and CAP_BPF are still needed"
    assert said["after"] == said["before"]


def test_a_process_with_everything_keeps_everything() -> None:
    said = run("bpf", "perfmon", "sys_admin", "kill")
    assert said["gone"] == []
    assert "CAP_SYS_ADMIN" in said["why_kept"]
    assert said["after"] == said["before"]


def test_a_process_without_them_has_nothing_to_give_up() -> None:
    said = run("syslog")
    assert (said["gone"], said["why_kept"]) == ([], None)
    assert said["after"] == said["before"]


def test_with_other_threads_nothing_is_given_up_by_halves() -> None:
    said = run("bpf", "perfmon", arguments=("thread",))
    assert said["gone"] == []
    assert "other threads" in said["why_kept"]
    assert said["after"] == said["before"]


def test_a_user_without_root_loses_its_ambient_capabilities() -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("this takes root and setpriv")
    caps = "+bpf,+perfmon,+syslog"
    command = ["setpriv", "--reuid=65534", "--clear-groups", f"--inh-caps={caps}", f"--ambient-caps={caps}"]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}

    def run_as_user(python: str, program: str) -> subprocess.CompletedProcess[str]:
        whole = [*command, python, "-B", "-c", program]
        return subprocess.run(whole, capture_output=True, text=True, check=False, env=environ)

    reachable = (
        python
        for python in (sys.executable, "/usr/bin/python3")
        if run_as_user(python, "import probes.privileges").returncode == 0
    )
    python = next(reachable, None)
    if python is None:
        pytest.skip("no Python lies where another user can reach it and this code")
    done = run_as_user(python, _PROGRAM)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["before"]["CapEff"] == BPF | PERFMON | SYSLOG
    for who in ("after", "thread", "child"):
        assert said[who]["CapEff"] == said[who]["CapPrm"] == SYSLOG, who
    assert said["how_again"] == "by executing a file that has them (setcap)"
    command.insert(1, "--no-new-privs")
    assert json.loads(run_as_user(python, _PROGRAM).stdout)["how_again"] is None
