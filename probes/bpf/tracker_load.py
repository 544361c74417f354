"""Loads the process tracker: the object in this package, bpf(2), and what the kernel's BTF tells.

Where members of the kernel's structs lie is written to a map before the program is attached. A group of
members that this kernel does not have, or does not describe, is left out, and what hangs on it is unknown.
It takes 30 ms, most of it in the kernel's verifier.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from probes.bpf import syscalls
from probes.bpf.descriptors import Descriptors
from probes.bpf.ended import Known
from probes.bpf.kernel_structs import VMLINUX, KernelStructs
from probes.bpf.loading import Loading, read_object

LOADER = "native"
HOOK = "sched:sched_process_exit"
OBJECT = Path(__file__).with_name("tracker.bpf.o")
_TRACEPOINT = "sched_process_exit"
_SECTION = f"raw_tp/{_TRACEPOINT}"
_ENDS, _COUNTS, _WATCHED, _MEMBERS = "ends", "counts", "watched", "members"
_POINTER_BYTES = 8

_WANTED: Mapping[Known, Sequence[tuple[str, ...]]] = {
    # In the order of struct tracker_members: a struct, and the names that its member had, the latest first.
    Known.END: (
        ("task_struct", "group_leader"),
        ("task_struct", "signal"),
        ("task_struct", "comm"),
        ("task_struct", "start_boottime", "real_start_time"),  # renamed in Linux 5.5
        ("signal_struct", "live"),
    ),
    Known.CODE: (
        ("task_struct", "exit_code"),
        ("signal_struct", "flags"),
        ("signal_struct", "group_exit_code"),
    ),
    Known.FILES: (
        ("task_struct", "files"),
        ("files_struct", "fdt"),
        ("fdtable", "max_fds"),
        ("fdtable", "fd"),
        ("file", "f_inode"),
        ("inode", "i_rdev"),
        ("inode", "i_mode"),
    ),
    Known.CGROUP: (
        ("task_struct", "cgroups"),
        ("css_set", "dfl_cgrp"),
        ("cgroup", "kn"),
        ("kernfs_node", "name"),
        ("kernfs_node", "__parent", "parent"),  # renamed in Linux 6.15
    ),
    Known.CGROUP_V1: (("css_set", "subsys"), ("cgroup_subsys_state", "cgroup")),
    Known.NAMESPACE: (("task_struct", "thread_pid"), ("pid", "level")),
}


@dataclass(frozen=True, slots=True)
class Members:
    """What is known of the running kernel's structs."""

    known: Known
    offsets: Sequence[int]
    """In the order of struct tracker_members; 0 in groups that are not known."""

    def packed(self) -> bytes:
        """As struct tracker_members."""
        return struct.pack(f"={1 + len(self.offsets)}I", self.known, *self.offsets)


@dataclass(frozen=True, slots=True)
class Tracker:
    """A running tracker. Nothing is pinned: it leaves the kernel when its descriptors are closed."""

    descriptors: Descriptors
    """Its ring has struct tracker_end, its counts struct tracker_counts."""
    watched: int
    """The map of pids to tell of; closed by whoever closes the descriptors."""
    known: Known
    """What it can tell on this kernel."""


def members(btf: Path = VMLINUX) -> Members:
    """What the BTF of a kernel, the running one's by default, tells; nothing is known where there is none."""
    try:
        structs = KernelStructs(btf.read_bytes())
    except (OSError, ValueError):
        return Members(Known(0), [0] * sum(map(len, _WANTED.values())))
    known, offsets = Known(0), []
    for group, wanted in _WANTED.items():
        found = [structs.offset(*member) for member in wanted]
        if group is Known.CGROUP_V1:
            found[0] = _of_memory(structs, found[0])
        complete = [offset for offset in found if offset is not None]
        if len(complete) == len(wanted):
            known |= group
            offsets += complete
        else:
            offsets += [0] * len(wanted)
    return Members(known if Known.END in known else Known(0), offsets)


def _of_memory(structs: KernelStructs, controllers: int | None) -> int | None:
    """Where a css_set, whose array of controllers lies at this offset, keeps the memory controller."""
    number = structs.enumerator("cgroup_subsys_id", "memory_cgrp_id")
    return None if number is None or controllers is None else controllers + number * _POINTER_BYTES


def load(path: Path = OBJECT, btf: Path = VMLINUX) -> Tracker:
    """Load the program and attach it. Raises BpfError or ObjectError, and leaves nothing behind then."""
    program = read_object(path, frozenset({_SECTION}), frozenset({_ENDS, _COUNTS, _WATCHED, _MEMBERS}))
    kernel = members(btf)
    with Loading(program) as loading:
        syscalls.update(loading.maps[_MEMBERS], 0, kernel.packed())
        loading.raw_tracepoint(_SECTION, _TRACEPOINT)
        loading.keep()
    os.close(loading.maps[_MEMBERS])  # the program holds the map, and nobody changes it any more
    return Tracker(
        Descriptors(
            loader=LOADER,
            hook=HOOK,
            ring=loading.maps[_ENDS],
            ring_bytes=program.maps[_ENDS].max_entries,
            counts=loading.maps[_COUNTS],
            programs=tuple(loading.programs),
            links=tuple(loading.links),
        ),
        loading.maps[_WATCHED],
        kernel.known,
    )
