"""Why the eBPF probe does not hear: a state with a name, a reason and a hint."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Why the probe does not hear."""

    PLATFORM = "platform"
    KERNEL_TOO_OLD = "kernel_too_old"
    TRACEPOINT_MUTED = "tracepoint_muted"
    NO_BTF = "no_btf"
    NO_SYSCALL = "no_bpf_syscall"
    SECCOMP = "seccomp"
    USER_NAMESPACE = "user_namespace"
    NO_CAPABILITY = "no_capability"
    ONLY_CAP_BPF = "only_cap_bpf"
    UNPRIVILEGED_BPF = "unprivileged_bpf"
    MEMLOCK = "memlock"
    LOCKDOWN = "lockdown"
    TRACEPOINT_ABSENT = "tracepoint_absent"
    REFUSED = "refused"
    """By something that leaves no trace to tell it by: a security module, most likely."""
    VERIFIER = "verifier"
    OBJECT = "object"
    NO_BCC = "no_bcc"
    """The BPF Compiler Collection is not installed, or does not run."""
    NAMESAKE_BCC = "namesake_bcc"
    """PyPI's `bcc` is installed, which has nothing to do with BPF, and no other."""
    NO_HEADERS = "no_headers"
    """The compiler lacks headers of the kernel that the program includes."""
    NO_PROGRAM = "no_program"
    """The operator's program cannot be read, or attaches to nothing."""
    NOT_COMPILED = "not_compiled"
    """The operator's program has an error."""
    COMPILER_HANGS = "compiler_hangs"
    COMPILER_CRASHED = "compiler_crashed"
    """It ended, or answered, without handing over a program."""
    FOREIGN_LAYOUT = "foreign_layout"
    DEAF = "deaf"
    """It runs, yet the kernel log goes on without it."""
    FAILED = "failed"
    """None of the above; the reason has the kernel's words."""
    NO_DRIVER = "no_driver"
    """There is no NVIDIA driver to hear."""
    RELEASED = "released"
    """Let go of on request; it hears again when the driver is loaded."""
    NOT_STARTED = "not_started"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Unavailable:
    """A state, in words: one sentence each."""

    state: State
    reason: str
    hint: str | None


class LoaderError(Exception):
    """A loader knows by itself why it loads nothing."""

    def __init__(self, state: State, reason: str, hint: str | None) -> None:
        super().__init__(reason)
        self.why = Unavailable(state, reason, hint)
