"""Whether the eBPF probe can hear here; if not, which state this is, why, and what to do.

A program is loaded for real and let go again: what the kernel answers is the truth, and what was
read of the surroundings explains it. `check` and the probe use the same `attach`, so the doctor and
the daemon never disagree.
"""

from __future__ import annotations

import errno
import time
from dataclasses import replace

from probes.bpf import native
from probes.bpf.descriptors import Descriptors, Loader
from probes.bpf.hooks import CONSOLE, PRINTK_SPRINT
from probes.bpf.object_error import ObjectError
from probes.bpf.release import NO_MEMLOCK, READ_BY_ALL, RING_BUFFER, older_than
from probes.bpf.surroundings import Surroundings, look
from probes.bpf.syscalls import BpfError, Step
from probes.bpf.unavailable import LoaderError, State, Unavailable
from probes.health import Check, Verdict
from probes.kernel import Capability

NAME = "ebpf"
_UNEXPLAINED = frozenset({State.REFUSED, State.VERIFIER, State.TRACEPOINT_ABSENT, State.FAILED})
_KMSG_OR_LATER = "use the kmsg probe, or a kernel of 5.19 or later"


def attach(loader: Loader = native.load, around: Surroundings | None = None) -> Descriptors | Unavailable:
    """A running program, or why there is none. Nothing is left behind in the second case."""
    around = around or look()
    cannot = impossible(around)
    if cannot is not None:
        return cannot
    try:
        found = loader()
    except LoaderError as error:
        return error.why
    except (BpfError, ObjectError) as error:
        why = explain(error, around)
        if why.state in _UNEXPLAINED and not around.printing.console_hears_xids:
            return _unheard(around, f"and {PRINTK_SPRINT.name} cannot be had: {_words(error)}")
        return why
    if found.hook == CONSOLE.name and not around.printing.console_hears_xids:
        found.close()
        return _muted(around, found.loader)
    return found


def check(loader: Loader = native.load) -> Check:
    """Load the program, let it go, and say how that went."""
    before = time.monotonic()
    around = look()
    found = attach(loader, around)
    if isinstance(found, Unavailable):
        return Check(NAME, Verdict.FAIL, f"{found.reason} ({found.state})", found.hint)
    taken_ms = (time.monotonic() - before) * 1000
    found.close()
    why = (around.printing.choice(found.hook), found.note)
    finding = f"the {found.loader} loader attached a program to {found.hook} in {taken_ms:.0f} ms"
    finding += "".join(f"; {clause}" for clause in why if clause)
    if found.hook != CONSOLE.name or around.printing.console_hears_all:
        return Check(NAME, Verdict.OK, finding)
    return Check(
        NAME, Verdict.WARN, finding, "keep the kmsg probe beside it, or use a kernel of 5.19 or later"
    )


def needed_while_running(around: Surroundings) -> frozenset[Capability]:
    """What a program that is attached still takes: its counts are read through bpf(2)."""
    if older_than(READ_BY_ALL, around.version) and around.unprivileged_bpf_disabled != 0:
        return frozenset({Capability.BPF})
    return frozenset()


def impossible(around: Surroundings) -> Unavailable | None:
    """A machine or kernel on which no program of ours runs, wherever it is to be attached."""
    if not around.supported:
        return Unavailable(
            State.PLATFORM,
            f"eBPF programs are loaded on x86_64 and aarch64 only, not on {around.machine}",
            "use the kmsg probe",
        )
    if older_than(RING_BUFFER, around.version):
        return Unavailable(
            State.KERNEL_TOO_OLD,
            f"kernel {around.release} has no BPF ring buffer, which came with 5.8",
            _KMSG_OR_LATER,
        )
    return None


def explain(error: BpfError | ObjectError, around: Surroundings) -> Unavailable:
    """What a failed attempt means for this process on this kernel."""
    if isinstance(error, ObjectError):
        reason = f"the program's file cannot be used: {error}"
        return Unavailable(State.OBJECT, reason, "install xidwatch again")
    if error.errno == errno.ENOSYS and not around.seccomp_filter:
        return Unavailable(
            State.NO_SYSCALL,
            "this kernel has no bpf(2)",
            "use the kmsg probe, or a kernel with CONFIG_BPF_SYSCALL (gVisor has none)",
        )
    if error.errno in (errno.EPERM, errno.EACCES, errno.ENOSYS) and not error.log:
        return _refused(error, around)
    return _failed(error, around)


def _failed(error: BpfError, around: Surroundings) -> Unavailable:
    """The process may do it, and the kernel cannot or will not."""
    if _locked_down(error, around):
        return Unavailable(
            State.LOCKDOWN,
            "kernel lockdown is in confidentiality mode: eBPF programs may not read kernel memory",
            "use the kmsg probe, or boot with lockdown=integrity",
        )
    if error.step is Step.ATTACH and error.errno == errno.ENOENT:
        return Unavailable(
            State.TRACEPOINT_ABSENT,
            f"kernel {around.release} has no tracepoint printk:console",
            "use the kmsg probe, or a kernel with CONFIG_TRACEPOINTS and CONFIG_PRINTK",
        )
    if error.step is Step.LOAD_PROGRAM and error.log:
        last = error.log.strip().splitlines()[-2:]
        return Unavailable(
            State.VERIFIER,
            f"the kernel's verifier refuses the program: {' / '.join(last)}",
            f"use the kmsg probe, and report this with the kernel's release {around.release}",
        )
    return Unavailable(State.FAILED, error.strerror or str(error), "use the kmsg probe")


def _muted(around: Surroundings, loader: str) -> Unavailable:
    """A program sits at printk:console, where it would hear no Xid."""
    if around.printing.sprint is not None:
        return _unheard(around, f"the {loader} loader attaches there only")
    if around.btf:
        return _unheard(around, "there is no other function to attach to")
    return replace(
        _unheard(around, "without BTF there is no other function to attach to"), state=State.NO_BTF
    )


def _unheard(around: Surroundings, alternative: str) -> Unavailable:
    return Unavailable(
        State.TRACEPOINT_MUTED,
        f"{around.printing.why_muted}; {alternative}",
        f"sysctl -w kernel.printk=5, or {_KMSG_OR_LATER}",
    )


def _words(error: BpfError | ObjectError) -> str:
    said = error.log.strip().splitlines() if isinstance(error, BpfError) else []
    return said[-1] if said else str(error)


def _locked_down(error: BpfError, around: Surroundings) -> bool:
    """Lockdown hides the helpers that read kernel memory from the verifier (bpf_tracing.c)."""
    if error.step is not Step.LOAD_PROGRAM:
        return False
    hidden = any(f"{words} bpf_probe_read" in error.log for words in ("unknown func", "cannot use helper"))
    return hidden and around.lockdown != "integrity"


def _refused(error: BpfError, around: Surroundings) -> Unavailable:
    """EPERM has many causes; they are told apart by what each of them lets through."""
    if around.access.user_namespace:
        return Unavailable(
            State.USER_NAMESPACE,
            "capabilities of a user namespace do not reach bpf(2)",
            "run outside of the user namespace: a rootful container, no userns remapping",
        )
    if around.missing:
        return _without_capability(around)
    if not around.reaches_kernel and around.seccomp_filter:
        return Unavailable(
            State.SECCOMP,
            "a seccomp filter keeps bpf(2) from this process, although it has the capabilities",
            _seccomp_hint(around.access.container),
        )
    if older_than(NO_MEMLOCK, around.version) and around.memlock_bytes is not None:
        return Unavailable(
            State.MEMLOCK,
            f"kernel {around.release} holds RLIMIT_MEMLOCK ({around.memlock_bytes} bytes) against the ring",
            "raise it: LimitMEMLOCK=infinity in a systemd unit, --ulimit memlock=-1 for a container",
        )
    return Unavailable(
        State.REFUSED,
        f"the kernel refuses to {error.step} although its own rules allow it",
        "look for a denial by a security module in the audit log",
    )


def _without_capability(around: Surroundings) -> Unavailable:
    lacking = around.access.lacking(*around.missing)
    if around.access.has(Capability.BPF):
        return Unavailable(
            State.ONLY_CAP_BPF,
            f"{lacking}: CAP_BPF alone loads no program that looks at the kernel",
            _grant(around.access.container),
        )
    if around.unprivileged_bpf_disabled == 0:
        return Unavailable(
            State.UNPRIVILEGED_BPF,
            f"{lacking}: kernel.unprivileged_bpf_disabled=0 opens bpf(2) to everyone, "
            "but not for programs that look at the kernel",
            _grant(around.access.container),
        )
    return Unavailable(State.NO_CAPABILITY, lacking, _grant(around.access.container))


def _grant(container: str | None) -> str:
    match container:
        case None:
            return "run as root, or grant both (systemd: AmbientCapabilities=CAP_BPF CAP_PERFMON CAP_SYSLOG)"
        case "kubernetes":
            return "run as user 0 with securityContext.capabilities.add: [BPF, PERFMON, SYSLOG]"
        case _:
            return "start the container as user 0 with --cap-add BPF --cap-add PERFMON --cap-add SYSLOG"


def _seccomp_hint(container: str | None) -> str:
    match container:
        case None:
            return "allow bpf in the service's filter: SystemCallFilter=bpf in a systemd unit"
        case "kubernetes":
            return "use containerd 1.7 or later, or seccompProfile: Unconfined"
        case "podman":
            return "use containers-common 0.60 or later, or --security-opt seccomp=unconfined"
        case _:
            return "use Docker 23 or later, or --security-opt seccomp=unconfined"
