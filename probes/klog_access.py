"""The exact words for why syslog(2) does not show the kernel log."""

from __future__ import annotations

import errno

from probes.kernel import Capability, LogAccess
from probes.kmsg_access import Refusal


def refusal(error: OSError, access: LogAccess) -> Refusal:
    """Why syslog(2) ended in `error`, for this process with this `access`."""
    if error.errno == errno.ENOSYS:
        return Refusal("this kernel keeps no log (CONFIG_PRINTK), or seccomp hides it", None)
    if error.errno not in (errno.EPERM, errno.EACCES):
        return Refusal(f"syslog(2) fails: {(error.strerror or str(error)).lower()}", None)
    if access.user_namespace:
        return Refusal(
            "a user namespace cannot read the kernel log while kernel.dmesg_restrict is 1",
            "run outside of the user namespace, or: sysctl -w kernel.dmesg_restrict=0",
        )
    if access.has(Capability.SYSLOG) or access.dmesg_restrict is False:
        return Refusal(
            "syslog(2) is refused although the kernel's own rules allow it",
            "look for a denial by seccomp or a security module in the audit log",
        )
    lacking = access.lacking(Capability.SYSLOG)
    return Refusal(f"{lacking}, and kernel.dmesg_restrict is 1", _grant(access.container))


def _grant(container: str | None) -> str:
    match container:
        case None:
            return "run as root, or grant CAP_SYSLOG (systemd: AmbientCapabilities=CAP_SYSLOG)"
        case "kubernetes":
            return "run as user 0 with securityContext.capabilities.add: [SYSLOG]"
        case _:
            return "start the container as user 0 with --cap-add SYSLOG"
