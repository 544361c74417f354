"""The container a process runs in, told from its cgroup.

Docker, containerd, CRI-O and Podman name the cgroup after the container's id: 64 hex digits,
alone or as `RUNTIME-ID.scope`. Where containers nest, the innermost one is meant. A runtime's own
monitor (`conmon`) lives in a cgroup with the id in its name and is outside all the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_SEGMENT = re.compile(r"(?:(?P<runtime>[A-Za-z0-9_.-]+?)-)?(?P<id>[0-9a-f]{64})(?:\.scope)?")
_MONITOR = "conmon"
_HOST_CGROUP_NAMESPACE = "cgroup:[4026531835]"  # PROC_CGROUP_INIT_INO, 0xEFFFFFFB, since Linux 4.6


@dataclass(frozen=True, slots=True)
class Container:
    """What a cgroup tells: in a container or not, or why neither can be said."""

    inside: bool | None
    id: str | None
    """Full id; None when it is in no container, or none is named."""
    unknown: str | None = None
    """Why `inside` is None."""


def container_of(
    cgroup: str, *, has_own_pids: bool = False, has_host_cgroups: bool | None = None
) -> Container:
    """The container that the text of /proc/PID/cgroup (either version) names.

    `has_own_pids`: the process lives in a pid namespace below this program's. `has_host_cgroups`:
    this program sees the cgroups of the host by their whole path; found out by default.
    """
    paths = [line.split(":", 2)[2] for line in cgroup.splitlines() if line.count(":") >= 2]
    if not paths:
        return Container(None, None, "its cgroup could not be read")
    for path in paths:
        found = [match for segment in path.split("/") if (match := _SEGMENT.fullmatch(segment))]
        if found and not (found[-1]["runtime"] or "").endswith(_MONITOR):
            return Container(True, found[-1]["id"])
    if has_own_pids:
        return Container(None, None, "it has a pid namespace of its own, but its cgroup names no container")
    if not (sees_host_cgroups() if has_host_cgroups is None else has_host_cgroups):
        return Container(None, None, "this program runs in a cgroup namespace that hides where others are")
    return Container(False, None)


def sees_host_cgroups(proc: Path = Path("/proc")) -> bool:
    """True when this program lives in the host's cgroup namespace."""
    try:
        return str((proc / "self/ns/cgroup").readlink()) == _HOST_CGROUP_NAMESPACE
    except OSError:
        return False
