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

from probes.bpf.availability import State, Unavailable, attach, check, explain, known_beforehand
from probes.bpf.descriptors import Descriptors
from probes.bpf.memlock import limit_bytes, unlimited_on_old_kernels
from probes.bpf.object_error import ObjectError
from probes.bpf.release import kernel_release
from probes.bpf.surroundings import Surroundings, look
from probes.bpf.syscalls import BpfError, Step
from probes.health import Verdict
from probes.kernel import Capability, LogAccess

ROOT = Path(__file__).parents[3]
_TRY = """
import ctypes, json, os, platform, struct, sys
if "seccomp" in sys.argv:
    # Linux 4.14: load the number of the system call; bpf gives the errno asked for, all others pass.
    number = {"x86_64": 321, "aarch64": 280}[platform.machine()]
    error, allow = 0x50000 | int(sys.argv[2]), 0x7FFF0000
    code = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, error), (0x06, 0, 0, allow)]
    filter = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in code))
    program = struct.pack("=HxxxxxxQ", len(code), ctypes.addressof(filter))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, program, 0, 0) == 0, ctypes.get_errno()  # PR_SET_SECCOMP, a filter
from probes.bpf.availability import Unavailable, attach, check
found = attach()
state = found.state if isinstance(found, Unavailable) else "hears"
if not isinstance(found, Unavailable):
    found.close()
said = check()
print(json.dumps({"state": state, "verdict": said.verdict, "finding": said.finding, "hint": said.hint}))
"""


def told(*wrapper: str, arguments: tuple[str, ...] = ()) -> dict[str, Any]:
    """What a process says that `wrapper` starts."""
    if wrapper and shutil.which(wrapper[0]) is None:
        pytest.skip(f"{wrapper[0]} is not installed")
    command = [*wrapper, sys.executable, "-c", _TRY, *arguments]
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
    said = told(arguments=("seccomp", str(number)))
    assert said["state"] == "seccomp"
    assert "although it has the capabilities" in said["finding"]
    assert said["hint"]


def test_without_the_capability_a_seccomp_filter_is_not_blamed(bpf_machine: None) -> None:
    assert told(*only(), arguments=("seccomp", "1"))["state"] in {"no_capability", "unprivileged_bpf"}


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
        console_loglevel=4,
        btf=True,
        memlock_bytes=None,
    )
    if "release" in changes:
        changes["version"] = kernel_release(changes["release"])
    return replace(fine, **changes)


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
def test_what_no_attempt_would_tell_is_known_beforehand(
    around: Surroundings, state: State, reason: str, hint: str
) -> None:
    found = known_beforehand(around)
    assert found is not None
    assert found.state is state
    assert reason in found.reason
    assert hint in (found.hint or "")


@pytest.mark.parametrize(
    "around",
    [here(), here(btf=False), here(release="5.15.0-100", console_loglevel=7), here(release="weird")],
    ids=["6.1", "no BTF", "5.15 with a loud console", "a release that is no number"],
)
def test_a_kernel_that_may_be_able_is_tried(around: Surroundings) -> None:
    assert known_beforehand(around) is None


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
