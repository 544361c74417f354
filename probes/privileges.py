"""Gives up the capabilities that loading eBPF programs took, once they are loaded.

Only CAP_BPF and CAP_PERFMON are given up: nothing else needs them. What the rest of the daemon needs is
kept: CAP_SYSLOG to read the log again later, and whatever a service was granted to look at processes and
to act on GPUs. A process that holds CAP_SYS_ADMIN keeps everything: it includes both.

Capabilities belong to a thread, and a new thread or process inherits what its maker has: call this before
there are others.

Whoever gave them up holds them no more. Whether a program that it starts gets them anew is another question.
The bounding set prevents that where CAP_SETPCAP is held, and no_new_privs where user 0 lacks it. A process
of another user may still start a file that has them (setcap(8)), its own if that is where it got them:
no_new_privs would also disable nvidia-modprobe, the setuid program that makes the GPUs' device files for
NVML. `GivenUp.how_again` says so.

Source: capabilities(7), capset(2), PR_CAPBSET_DROP, PR_CAP_AMBIENT, PR_SET_NO_NEW_PRIVS.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from probes.kernel import Capability

EBPF = frozenset({Capability.BPF, Capability.PERFMON})
_SELF = Path("/proc/thread-self/status")
_TASKS = Path("/proc/self/task")
_CAP_SETPCAP = 8
_VERSION_3 = 0x20080522  # _LINUX_CAPABILITY_VERSION_3: two words of 32 bits a set
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _AMBIENT_LOWER = 24, 38, 47, 3


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


@dataclass(frozen=True, slots=True)
class GivenUp:
    """What came of it."""

    capabilities: tuple[str, ...]
    """`CAP_BPF`, `CAP_PERFMON`: no longer held; empty when nothing was given up."""
    why_kept: str | None
    """Why something is still held that was to be given up; None when nothing is."""
    how_again: str | None = None
    """How a program that this one starts can get what was given up; None where none can."""


def give_up(capabilities: Collection[Capability] = EBPF, *, needed: Collection[Capability] = ()) -> GivenUp:
    """Give up those of `capabilities` that are not still `needed`.

    Never raises: what cannot be given up is kept, and the answer says why.
    """
    permitted, effective = _set("CapPrm"), _set("CapEff")
    held = [capability for capability in sorted(capabilities) if permitted >> capability & 1]
    mask = sum(1 << capability for capability in held if capability not in needed)
    if not held:
        return GivenUp((), None)
    if permitted >> Capability.SYS_ADMIN & 1:
        return GivenUp((), "CAP_SYS_ADMIN is held, which includes them")
    if not mask:
        return GivenUp((), f"{_names(held)} still needed")
    if len(list(_TASKS.iterdir())) > 1:
        return GivenUp((), "other threads of this process run already, and would keep them")
    error = _drop(mask, effective, permitted)
    if error is not None:
        return GivenUp((), error)
    kept = [capability for capability in held if capability in needed]
    gone = tuple(f"CAP_{capability.name}" for capability in held if capability not in needed)
    is_for_good = not _set("CapBnd") & mask or bool(_set("NoNewPrivs"))
    how_again = None if is_for_good else "by executing a file that has them (setcap)"
    return GivenUp(gone, f"{_names(kept)} still needed" if kept else None, how_again)


def _drop(mask: int, effective: int, permitted: int) -> str | None:
    """Why the capabilities of `mask` could not be given up; None when this thread holds them no more."""
    libc = ctypes.CDLL(None, use_errno=True)
    numbers = [number for number in range(64) if mask >> number & 1]
    if effective >> _CAP_SETPCAP & 1:
        for number in numbers:
            libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
    elif os.geteuid() == 0 and libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        # A program that root starts gets the whole bounding set; with no_new_privs, what its maker has.
        return f"cannot set no_new_privs: {os.strerror(ctypes.get_errno())}"
    for number in numbers:
        libc.prctl(_PR_CAP_AMBIENT, _AMBIENT_LOWER, number, 0, 0)
    header = _Header(_VERSION_3, 0)
    sets = [each & ~mask for each in (effective, permitted, _set("CapInh"))]
    data = (_Data * 2)(*(_Data(*(each >> shift & 0xFFFFFFFF for each in sets)) for shift in (0, 32)))
    if libc.capset(ctypes.byref(header), data) != 0:
        return f"cannot set capabilities: {os.strerror(ctypes.get_errno())}"
    return None


def _set(name: str) -> int:
    """One of this thread's capability sets, or `NoNewPrivs`; 0 where /proc does not tell."""
    try:
        lines = _SELF.read_text("ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1], 16) for line in lines if line.startswith(f"{name}:")), 0)


def _names(capabilities: Collection[Capability]) -> str:
    names = " and ".join(f"CAP_{capability.name}" for capability in capabilities)
    return f"{names} {'are' if len(capabilities) > 1 else 'is'}"
