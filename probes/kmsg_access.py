"""Opening the kernel log, and the exact words for why it cannot be opened.

A refusal has many causes that all look like EPERM. They are told apart by what the kernel checks
where: access(2) runs the checks on the file (mode, device cgroup) but not those of the driver's
open (kernel.printk_devkmsg, then CAP_SYSLOG or kernel.dmesg_restrict; kernel/printk/printk.c).
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from probes.errors import UserError
from probes.kernel import Capability, LogAccess

DEFAULT_PATH = Path("/dev/kmsg")
_DEVICE = os.makedev(1, 11)  # Documentation/admin-guide/devices.txt


class NotTheLogError(OSError):
    """Something else stands where the kernel log should be."""


@dataclass(frozen=True, slots=True)
class OpenLog:
    """A kernel log opened for reading without blocking."""

    fd: int
    is_device: bool
    """True for /dev/kmsg, which hands out the whole log anew to whoever opens it; False for a FIFO."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the log cannot be read, and what to do about it."""

    reason: str
    hint: str | None


def open_log(path: Path) -> OpenLog:
    """Open /dev/kmsg at its oldest record, or a FIFO that carries such records in packet mode.

    Raises UserError for a path that can never be a kernel log, and OSError where the log is there
    but refused, or /dev/kmsg itself is missing or something else, as container runtimes mask files with
    /dev/null: states that `refusal` explains.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        if path == DEFAULT_PATH:
            raise
        raise UserError(f"{path} does not exist", hint=f"the kernel log is {DEFAULT_PATH}") from None
    common = os.O_NONBLOCK | os.O_CLOEXEC
    if is_kernel_log(status):
        return OpenLog(os.open(path, os.O_RDONLY | common), is_device=True)
    if path == DEFAULT_PATH:
        raise NotTheLogError
    if stat.S_ISFIFO(status.st_mode):
        # Holding a writing end too, the reader never sees the end of file when a writer leaves.
        return OpenLog(os.open(path, os.O_RDWR | common), is_device=False)
    raise UserError(
        f"{path} is neither the kernel log device nor a FIFO",
        hint="to look through a saved log, pipe it into xidwatch decode",
    )


def is_kernel_log(status: os.stat_result) -> bool:
    """True for the kernel log device, whatever its path."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == _DEVICE


def refusal(error: OSError, path: Path, access: LogAccess) -> Refusal:
    """Why opening `path` ended in `error`, for this process with this `access`."""
    if error.errno == errno.ENOENT:
        return _missing(path, access, "does not exist")
    if isinstance(error, NotTheLogError):
        return _missing(path, access, "is not the kernel log device (char 1:11)")
    if error.errno not in (errno.EPERM, errno.EACCES):
        return Refusal(f"cannot read {path}: {(error.strerror or str(error)).lower()}", None)
    passes_file_checks = os.access(path, os.R_OK, effective_ids=True)
    if error.errno == errno.EACCES:
        return _file_permission(path, access, passes_file_checks)
    if not passes_file_checks:
        return _device_cgroup(path, access)
    return _driver_refused(path, access)


def _missing(path: Path, access: LogAccess, what: str) -> Refusal:
    match access.container:
        case None:
            hint = f"create it with: mknod -m 644 {path} c 1 11 (it needs a kernel with CONFIG_PRINTK)"
        case "kubernetes":
            hint = f"mount the host's {path} as a hostPath volume and run the pod privileged as user 0"
        case _:
            hint = f"start the container with --device {path} --cap-add SYSLOG"
    return Refusal(f"{path} {what}{_inside(access)}", hint)


def _file_permission(path: Path, access: LogAccess, passes_file_checks: bool) -> Refusal:
    if passes_file_checks:
        return Refusal(
            f"{path} may not be opened: its file system is mounted nodev, or a security module refuses it",
            "mount it without nodev, or look for a denial in the audit log",
        )
    try:
        status = path.stat()
        mode = f" (mode {stat.S_IMODE(status.st_mode):04o}, owner {status.st_uid})"
    except OSError:
        mode = ""
    return Refusal(
        f"the file permissions of {path} do not let user {access.uid} read it{mode}",
        f"run as root, or: chmod o+r {path}",
    )


def _device_cgroup(path: Path, access: LogAccess) -> Refusal:
    match access.container:
        case None:
            hint = f"allow it in the systemd unit: DeviceAllow={path} r"
        case "kubernetes":
            hint = "run the pod privileged as user 0: a hostPath volume brings no device rule"
        case _:
            hint = f"start the container with --device {path}: a bind mount brings no device rule"
    return Refusal(f"the device cgroup refuses {path} (char 1:11){_inside(access)}", hint)


def _driver_refused(path: Path, access: LogAccess) -> Refusal:
    if access.devkmsg == "off":
        return Refusal(
            f"the kernel keeps {path} closed: kernel.printk_devkmsg is off",
            "sysctl -w kernel.printk_devkmsg=on, or boot with printk.devkmsg=on if it was set off at boot",
        )
    if access.has(Capability.SYSLOG) or access.dmesg_restrict is False:
        return Refusal(
            f"opening {path} is refused although the kernel's own rules allow it",
            "look for a denial by a security module or seccomp in the audit log",
        )
    if access.user_namespace:
        return Refusal(
            f"a user namespace cannot read {path} while kernel.dmesg_restrict is 1",
            "run outside of the user namespace (a rootful container), or: sysctl -w kernel.dmesg_restrict=0",
        )
    return Refusal(f"{access.lacking(Capability.SYSLOG)}, and kernel.dmesg_restrict is 1", _grant(access))


def _grant(access: LogAccess) -> str:
    match access.container:
        case None:
            return (
                "run as root, or grant CAP_SYSLOG (systemd: AmbientCapabilities=CAP_SYSLOG), "
                "or: sysctl -w kernel.dmesg_restrict=0"
            )
        case "kubernetes":
            return "run the pod privileged as user 0: added capabilities do not reach a non-root user"
        case "podman" if not access.withheld(Capability.SYSLOG):
            return "start the container with --cap-add SYSLOG"
        case _:
            return "start the container as user 0 with --cap-add SYSLOG: Docker gives others none"


def _inside(access: LogAccess) -> str:
    return f" in this {access.container} container" if access.container else ""
