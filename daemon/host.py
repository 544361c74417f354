"""What this machine is: operating system, kernel, size, and since when it runs.

Plain reads of /proc and /etc, cheap enough for every question. What cannot be read is None.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from daemon.text import clean
from probes import kernel

ROOT = Path("/")


@dataclass(frozen=True, slots=True)
class HostFacts:
    """One look at the machine."""

    os_name: str | None
    """`Ubuntu 24.04.1 LTS`. Inside a container it is the image's, not the node's."""
    kernel_release: str
    """`6.8.0-45-generic`, as uname(2) gives it: always the node's."""
    architecture: str
    """`x86_64`."""
    container: str | None
    """`kubernetes`, `docker`, … when this program runs in one; None when nothing shows one."""
    cpus: int | None
    """Logical CPUs that are online."""
    memory_total_bytes: int | None
    uptime_s: float | None
    """Since the machine booted, time in suspend included."""


def host_facts(root: Path = ROOT) -> HostFacts:
    """The machine as it is now; `root` is where its /proc and /etc are."""
    uname = os.uname()
    return HostFacts(
        os_name=_os_name(root),
        kernel_release=uname.release,
        architecture=uname.machine,
        container=kernel.container(root=root),
        cpus=os.cpu_count(),
        memory_total_bytes=_memory_total_bytes(root),
        uptime_s=_uptime_s(root),
    )


def _os_name(root: Path) -> str | None:
    release = _os_release(root)
    name = release.get("PRETTY_NAME") or release.get("NAME")
    return clean(name, 80) if name else None


def _os_release(root: Path) -> Mapping[str, str]:
    # os-release(5): the first of the two that is there.
    text = _read(root / "etc/os-release") or _read(root / "usr/lib/os-release") or ""
    pairs = (line.partition("=") for line in text.splitlines())
    return {key: value.strip("\"'") for key, _, value in pairs}


def _memory_total_bytes(root: Path) -> int | None:
    for line in (_read(root / "proc/meminfo") or "").splitlines():
        name, _, value = line.partition(":")
        if name == "MemTotal" and value.split()[:1] and value.split()[0].isdigit():
            return int(value.split()[0]) * 1024
    return None


def _uptime_s(root: Path) -> float | None:
    try:
        return float((_read(root / "proc/uptime") or "").split()[0])
    except (IndexError, ValueError):
        return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return None
