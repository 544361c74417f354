"""Each reason why eBPF cannot hear: made real where this machine can, told from made-up facts elsewhere."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from probes.bpf.availability import attach, check, explain
from probes.bpf.descriptors import Descriptors
from probes.bpf.hooks import Printing
from probes.bpf.memlock import limit_bytes, unlimited_on_old_kernels
from probes.bpf.object_error import ObjectError
from probes.bpf.release import kernel_release
from probes.bpf.surroundings import Surroundings, look
from probes.bpf.syscalls import BpfError, Step
from probes.bpf.unavailable import State, Unavailable
from probes.health import Verdict
from probes.kernel import Capability, LogAccess

ROOT = Path(__file__).parents[3]
_TRY = """
import json
from probes.bpf.availability import attach, check
from probes.bpf.unavailable import Unavailable
found = attach()
state = found.state if isinstance(found, Unavailable) else "hears"
if not isinstance(found, Unavailable):
    found.close()
said = check()
print(json.dumps({"state": state, "verdict": said.verdict, "finding": said.finding, "hint": said.hint}))
"""


def told(*wrapper: str) -> dict[str, Any]:
    """What a process says that `wrapper` starts."""
    if wrapper and shutil.which(wrapper[0]) is None:
        pytest.skip(f"{wrapper[0]} is not installed")
    command = [*wrapper, sys.executable, "-c", _TRY]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    if done.returncode and wrapper and "Error" not in done.stderr:
        pytest.skip(f"{' '.join(wrapper)}: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def only(*capabilities: str) -> list[str]:
    """A command prefix that leaves root nothing but these capabilities."""
    kept = "".join(f",+{name}" for name in capabilities)
    return ["setpriv", f"--bounding-set=-all{kept}", "--inh-caps=-all"]


def without_bpf(number: int) -> list[str]:
    """A command prefix that has bpf(2) answered with this errno."""
    return [sys.executable, "-m", "tests.support.seccomp", str(number)]


def test_root_hears(bpf_machine: None) -> None:
    said = check()
    assert said.name == "ebpf"
    assert said.verdict is Verdict.OK
    assert "native loader" in said.finding
    assert "printk:console" in said.finding
    assert said.hint is None


def test_two_capabilities_are_all_it_takes(bpf_machine: None) -> None:
    assert told(*only("bpf", "perfmon"))["state"] == "hears"


@pytest.mark.parametrize(
    ("kept", "state", "words"),
    [
        ((), {"no_capability", "unprivileged_bpf"}, "CAP_BPF and CAP_PERFMON are missing"),
        (("perfmon",), {"no_capability", "unprivileged_bpf"}, "CAP_BPF is missing"),
        (("bpf",), {"only_cap_bpf"}, "CAP_PERFMON is missing"),
    ],
    ids=["none", "only CAP_PERFMON", "only CAP_BPF"],
)
def test_missing_capabilities_are_named(
    bpf_machine: None, kept: tuple[str, ...], state: set[str], words: str
) -> None:
    said = told(*only(*kept))
    assert said["state"] in state
    assert said["verdict"] == "fail"
    assert words in said["finding"]
    assert "BPF" in said["hint"]
    assert "PERFMON" in said["hint"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS, errno.EACCES])
def test_a_seccomp_filter_is_told_from_a_missing_capability(bpf_machine: None, number: int) -> None:
    said = told(*without_bpf(number))
    assert said["state"] == "seccomp"
    assert "although it has the capabilities" in said["finding"]
    assert said["hint"]


def test_without_the_capability_a_seccomp_filter_is_not_blamed(bpf_machine: None) -> None:
    assert told(*only(), *without_bpf(errno.EPERM))["state"] in {"no_capability", "unprivileged_bpf"}


def test_capabilities_of_a_user_namespace_do_not_count(bpf_machine: None) -> None:
    said = told("unshare", "--user", "--map-root-user")
    assert said["state"] == "user_namespace"
    assert "outside of the user namespace" in said["hint"]


def test_a_kernel_that_hides_its_types_and_tracefs_is_heard_all_the_same(
    bpf_machine: None, tmp_path: Path
) -> None:
    hide = "mount -t tmpfs none /sys/kernel/btf && for at in /sys/kernel/tracing /sys/kernel/debug; do "
    hide += '[ ! -d $at ] || mount -t tmpfs none $at; done && exec "$@"'
    assert told("unshare", "--mount", "sh", "-c", hide, "sh")["state"] == "hears"


def test_what_says_no_to_this_process_leaves_no_descriptor_behind(bpf_machine: None) -> None:
    def refuse() -> Descriptors:
        raise BpfError(Step.ATTACH, errno.ENOENT)

    found = attach(refuse)
    assert isinstance(found, Unavailable)
    assert found.state is State.TRACEPOINT_ABSENT
    assert "printk:console" in found.reason


def here(**changes: Any) -> Surroundings:
    """A machine on which nothing is missing, but for `changes`."""
    caps = 1 << Capability.BPF | 1 << Capability.PERFMON
    access = LogAccess(
        capabilities=changes.pop("capabilities", caps),
        user_namespace=False,
        dmesg_restrict=True,
        devkmsg="on",
        container=changes.pop("container", None),
        uid=0,
    )
    fine = Surroundings(
        machine="x86_64",
        supported=True,
        release="6.1.0-23-amd64",
        version=(6, 1),
        access=access,
        seccomp_filter=False,
        reaches_kernel=True,
        lockdown="none",
        unprivileged_bpf_disabled=2,
        printing=Printing("6.1.0-23-amd64", (6, 1), 4, None),
        btf=True,
        memlock_bytes=None,
    )
    release = changes.get("release", fine.release)
    changes["version"] = version = kernel_release(release)
    loglevel, sprint = changes.pop("console_loglevel", 4), changes.pop("sprint", None)
    return replace(fine, printing=Printing(release, version, loglevel, sprint), **changes)


def at_console(closed: list[str], hook: str = "printk:console") -> Descriptors:
    """A program at printk:console, or elsewhere, whatever the kernel; `closed` tells when it was let go."""

    class Program(Descriptors):
        def close(self) -> None:
            closed.append(self.hook)

    return Program("bcc", hook, 0, 0, 0, (), ())


@pytest.mark.parametrize(
    ("around", "state", "reason", "hint"),
    [
        (here(machine="ppc64le", supported=False), State.PLATFORM, "not on ppc64le", "kmsg"),
        (here(release="5.4.0-100"), State.KERNEL_TOO_OLD, "kernel 5.4.0-100 has no BPF ring buffer", "5.19"),
        (here(release="5.15.0-100"), State.TRACEPOINT_MUTED, "console log level 4", "kernel.printk=5"),
        (here(release="5.10.0-28", btf=False), State.NO_BTF, "without BTF", "kernel.printk=5"),
    ],
    ids=["platform", "too old", "muted", "muted and no BTF"],
)
def test_where_nothing_would_be_heard_the_state_says_so(
    around: Surroundings, state: State, reason: str, hint: str
) -> None:
    found = attach(lambda: at_console([]), around)
    assert isinstance(found, Unavailable)
    assert found.state is state
    assert reason in found.reason
    assert hint in (found.hint or "")


@pytest.mark.parametrize(
    "around",
    [
        here(),
        here(btf=False),
        here(release="5.15.0-100", console_loglevel=7),
        here(release="5.15.0-100", sprint=23456),
        here(release="weird"),
    ],
    ids=[
        "6.1",
        "no BTF",
        "5.15 with a loud console",
        "5.15 with printk_sprint",
        "a release that is no number",
    ],
)
def test_where_something_may_be_heard_the_program_stays(around: Surroundings) -> None:
    found = attach(lambda: at_console([], "kprobe own"), around)
    assert isinstance(found, Descriptors)


def test_a_program_at_a_muted_tracepoint_is_let_go_whatever_loaded_it() -> None:
    closed: list[str] = []
    found = attach(lambda: at_console(closed), here(release="5.15.0-100", sprint=23456))
    assert isinstance(found, Unavailable)
    assert found.state is State.TRACEPOINT_MUTED
    assert "the bcc loader attaches there only" in found.reason
    assert closed == ["printk:console"]


def test_a_kernel_whose_trampolines_refuse_says_both() -> None:
    def refuse() -> Descriptors:
        raise BpfError(Step.ATTACH, 524)

    found = attach(refuse, here(release="5.15.0-100", sprint=23456))
    assert isinstance(found, Unavailable)
    assert found.state is State.TRACEPOINT_MUTED
    assert "printk:console" in found.reason
    assert "fexit/printk_sprint cannot be had" in found.reason
    assert "kernel.printk=5" in (found.hint or "")


LOCKED = "85: (85) call bpf_probe_read_kernel#113\nunknown func bpf_probe_read_kernel#113\n"
LOCKED_TOO = "program of this type cannot use helper bpf_probe_read_kernel#113\n"


@pytest.mark.parametrize(
    ("error", "around", "state"),
    [
        (BpfError(Step.CREATE_MAP, errno.ENOSYS), here(), State.NO_SYSCALL),
        (BpfError(Step.CREATE_MAP, errno.EPERM), here(capabilities=0), State.NO_CAPABILITY),
        (
            BpfError(Step.CREATE_MAP, errno.EPERM),
            here(capabilities=0, unprivileged_bpf_disabled=0),
            State.UNPRIVILEGED_BPF,
        ),
        (
            BpfError(Step.CREATE_MAP, errno.EPERM),
            here(release="5.10.0-28", memlock_bytes=65536),
            State.MEMLOCK,
        ),
        (BpfError(Step.CREATE_MAP, errno.EPERM), here(memlock_bytes=65536), State.REFUSED),
        (BpfError(Step.LOAD_PROGRAM, errno.EINVAL, LOCKED), here(lockdown="confidentiality"), State.LOCKDOWN),
        (BpfError(Step.LOAD_PROGRAM, errno.EINVAL, LOCKED_TOO), here(lockdown=None), State.LOCKDOWN),
        (BpfError(Step.LOAD_PROGRAM, errno.EINVAL, LOCKED), here(lockdown="integrity"), State.VERIFIER),
        (BpfError(Step.LOAD_PROGRAM, errno.EACCES, "R1 invalid mem access"), here(), State.VERIFIER),
        (BpfError(Step.CREATE_MAP, errno.ENOMEM), here(), State.FAILED),
        (ObjectError("damaged"), here(), State.OBJECT),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_refusal_is_explained_by_the_surroundings(
    error: BpfError | ObjectError, around: Surroundings, state: State
) -> None:
    found = explain(error, around)
    assert found.state is state
    assert found.reason
    assert found.hint
    assert "\n" not in found.reason


@pytest.mark.parametrize(
    ("container", "grant", "unfilter"),
    [
        (None, "AmbientCapabilities=CAP_BPF CAP_PERFMON CAP_SYSLOG", "SystemCallFilter=bpf"),
        ("kubernetes", "capabilities.add: [BPF, PERFMON, SYSLOG]", "seccompProfile: Unconfined"),
        ("podman", "--cap-add BPF --cap-add PERFMON", "--security-opt seccomp=unconfined"),
    ],
)
def test_the_hint_is_for_the_place_it_is_read_in(container: str | None, grant: str, unfilter: str) -> None:
    refused = BpfError(Step.CREATE_MAP, errno.EPERM)
    found = explain(refused, here(container=container, capabilities=0))
    assert grant in (found.hint or "")
    assert container is None or f"in this {container} container" in found.reason
    found = explain(refused, here(container=container, seccomp_filter=True, reaches_kernel=False))
    assert found.state is State.SECCOMP
    assert unfilter in (found.hint or "")


def test_this_process_is_seen_as_it_is() -> None:
    around = look()
    assert around.version == kernel_release(os.uname().release)
    assert around.supported
    status = Path("/proc/self/status").read_text()
    assert around.seccomp_filter == ("Seccomp:\t2" in status)


def test_the_memory_limit_is_lifted_on_old_kernels_and_only_while_it_counts() -> None:
    before = limit_bytes()
    if before is None:
        pytest.skip("this process has no memory limit to lift")
    with unlimited_on_old_kernels((5, 10)):
        lifted = limit_bytes()
        assert lifted is None or lifted >= before
    assert limit_bytes() == before
    with unlimited_on_old_kernels((5, 11)):
        assert limit_bytes() == before
