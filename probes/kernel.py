"""What the running kernel says of itself: boot, clocks, log buffer, and who may read its log.

Plain reads of /proc, and klogctl(2) through ctypes because the standard library does not wrap it.
What cannot be read is None (or "" for the boot id): never a guess.
"""

from __future__ import annotations

import ctypes
import os
import time
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Protocol

_PROC = Path("/proc")


class Capability(IntEnum):
    """Bit numbers of <linux/capability.h>."""

    SYS_ADMIN = 21
    SYSLOG = 34
    PERFMON = 38
    BPF = 39


class SyslogAction(IntEnum):
    """Actions of syslog(2) that only look."""

    READ_ALL = 3
    SIZE_BUFFER = 10


class Clock(Protocol):
    """The two clocks a probe needs."""

    def monotonic_us(self) -> int:
        """CLOCK_MONOTONIC in µs. Like the kernel log's own clock it stops in suspend; the two
        drift apart by what NTP slews."""

    def wall_us(self) -> int:
        """CLOCK_REALTIME in µs since the Unix epoch."""


class SystemClock:
    """This machine's clocks."""

    def monotonic_us(self) -> int:
        """CLOCK_MONOTONIC in µs."""
        return time.monotonic_ns() // 1000

    def wall_us(self) -> int:
        """CLOCK_REALTIME in µs since the Unix epoch."""
        return time.time_ns() // 1000


@dataclass(frozen=True, slots=True)
class LogAccess:
    """Everything that decides whether this process may open /dev/kmsg."""

    capabilities: int | None
    """Effective capabilities as a bit mask."""
    user_namespace: bool
    """In a user namespace of its own, where capabilities do not reach the kernel log."""
    dmesg_restrict: bool | None
    """sysctl kernel.dmesg_restrict: only CAP_SYSLOG may read."""
    devkmsg: str | None
    """sysctl kernel.printk_devkmsg: `on`, `ratelimit` or `off`. `off` refuses reading too."""
    container: str | None
    """What `container` says."""
    uid: int
    """Effective user id."""
    bounding: int | None = None
    """Capabilities that a program of user 0 could get here, as a bit mask."""

    def has(self, capability: Capability) -> bool:
        """True when the process holds it, and not just in a user namespace."""
        return bool((self.capabilities or 0) >> capability & 1) and not self.user_namespace

    def withheld(self, capability: Capability) -> bool:
        """True in a container that was granted it, for a user other than 0 who does not get it: Docker and
        Kubernetes set no ambient capabilities."""
        granted = bool((self.bounding or 0) >> capability & 1)
        return granted and self.uid != 0 and self.container is not None and not self.has(capability)

    def lacking(self, *capabilities: Capability) -> str:
        """In words, that these are not there, and where."""
        names = " and ".join(f"CAP_{capability.name}" for capability in capabilities)
        verb, them = ("are", "them") if len(capabilities) > 1 else ("is", "it")
        if all(map(self.withheld, capabilities)):
            given = f"{names} {verb} granted to this {self.container} container"
            return f"{given}, but user {self.uid} does not get {them}"
        return f"{names} {verb} missing" + (f" in this {self.container} container" if self.container else "")


def boot_id() -> str:
    """Random id of this boot; "" when /proc does not tell."""
    return _read(_PROC / "sys/kernel/random/boot_id") or ""


def log_access() -> LogAccess:
    """Read it all for this process, now."""
    restrict = _read(_PROC / "sys/kernel/dmesg_restrict")
    return LogAccess(
        capabilities=_capability_set("CapEff"),
        user_namespace=_in_user_namespace(),
        dmesg_restrict=None if restrict is None else restrict != "0",
        devkmsg=_read(_PROC / "sys/kernel/printk_devkmsg"),
        container=container(),
        uid=os.geteuid(),
        bounding=_capability_set("CapBnd"),
    )


def container(environ: dict[str, str] | None = None, root: Path = Path("/")) -> str | None:
    """`kubernetes`, `podman`, `docker`, what `$container` names, or None when nothing shows one."""
    env = os.environ if environ is None else environ
    if "KUBERNETES_SERVICE_HOST" in env:
        return "kubernetes"
    if env.get("container"):
        return env["container"]
    for mark, name in (("run/.containerenv", "podman"), (".dockerenv", "docker")):
        if (root / mark).exists():
            return name
    return None


def klogctl(action: SyslogAction, size: int = 0) -> int:
    """syslog(2); what was read is thrown away. Raises OSError (EPERM without the right to look)."""
    buffer = ctypes.create_string_buffer(size) if size else None
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.klogctl(int(action), buffer, size)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _capability_set(name: str) -> int | None:
    for line in (_read(_PROC / "self/status") or "").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1], 16)
    return None


def _in_user_namespace() -> bool:
    # The initial namespace maps all ids onto themselves, in one line: user_namespaces(7).
    mapping = _read(_PROC / "self/uid_map")
    return mapping is not None and mapping.split() != ["0", "0", "4294967295"]


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return None
