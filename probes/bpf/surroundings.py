"""Everything about this process and kernel that decides whether an eBPF program may be loaded."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from probes import kernel
from probes.bpf import kernel_functions, memlock, syscalls
from probes.bpf.hooks import SPRINT, SPRINT_PARAMETERS, Printing
from probes.bpf.kernel_structs import VMLINUX
from probes.bpf.release import CONSOLE_HEARS_ALL, kernel_release, older_than
from probes.kernel import Capability, LogAccess

_LOCKDOWN = Path("/sys/kernel/security/lockdown")
_UNPRIVILEGED = Path("/proc/sys/kernel/unprivileged_bpf_disabled")
_PRINTK = Path("/proc/sys/kernel/printk")
_STATUS = Path("/proc/self/status")
_SECCOMP_FILTER = "2"  # SECCOMP_MODE_FILTER


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What was read, for `availability` to explain; None where it could not be read."""

    machine: str
    """`x86_64`, `aarch64`, …"""
    supported: bool
    """The number of bpf(2) is known for this machine."""
    release: str
    """Of the kernel, as uname(2) tells it."""
    version: tuple[int, int] | None
    """(6, 18)"""
    access: LogAccess
    """Capabilities, user namespace and container of this process."""
    seccomp_filter: bool
    """A seccomp filter stands between this process and the kernel."""
    reaches_kernel: bool
    """bpf(2) is answered by the kernel itself; meaningful only with CAP_BPF."""
    lockdown: str | None
    """`none`, `integrity` or `confidentiality`; None without securityfs or lockdown."""
    unprivileged_bpf_disabled: int | None
    """sysctl: 0 lets anyone load some harmless kinds of programs; 1 and 2 do not."""
    printing: Printing
    """What decides where lines are heard."""
    btf: bool
    """The kernel describes its types."""
    memlock_bytes: int | None
    """RLIMIT_MEMLOCK; None when there is no limit."""

    @property
    def missing(self) -> tuple[Capability, ...]:
        """Capabilities that loading a tracing program needs and this process lacks."""
        if self.access.has(Capability.SYS_ADMIN):
            return ()
        needed = (Capability.BPF, Capability.PERFMON)
        return tuple(cap for cap in needed if not self.access.has(cap))


def look() -> Surroundings:
    """Read it all, for this process, now."""
    where = printing()
    return Surroundings(
        machine=platform.machine(),
        supported=syscalls.supported(),
        release=where.release,
        version=where.version,
        access=kernel.log_access(),
        seccomp_filter=_seccomp() == _SECCOMP_FILTER,
        reaches_kernel=syscalls.reaches_kernel(),
        lockdown=_lockdown(_read(_LOCKDOWN)),
        unprivileged_bpf_disabled=_number(_read(_UNPRIVILEGED)),
        printing=where,
        btf=_present(VMLINUX),
        memlock_bytes=memlock.limit_bytes(),
    )


def printing() -> Printing:
    """Read what decides where lines are heard. BTF is read, once, only where there is something to decide."""
    release = os.uname().release
    version = kernel_release(release)
    return Printing(
        release=release,
        version=version,
        console_loglevel=_number((_read(_PRINTK) or "").partition("\t")[0]),
        sprint=_sprint() if older_than(CONSOLE_HEARS_ALL, version) else None,
    )


@cache
def _sprint() -> int | None:
    return kernel_functions.number(SPRINT, SPRINT_PARAMETERS)


def _seccomp() -> str | None:
    for line in (_read(_STATUS) or "").splitlines():
        if line.startswith("Seccomp:"):
            return line.split()[1]
    return None


def _lockdown(text: str | None) -> str | None:
    """The word in brackets: `none [integrity] confidentiality`."""
    words = (word for word in (text or "").split() if word.startswith("["))
    return next(words, "").strip("[]") or None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.strip().isdecimal() else None


def _present(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return None
