"""What a container withholds from the daemon, for `xidwatch doctor`: user, processes, network, disk, name.

Only what the kernel log's own checks do not say; outside of a container there is nothing to say. Everything
is read from /proc and /sys; what cannot be read is not guessed, and has no line.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from daemon.config import Config
from probes.health import Check, Verdict
from probes.kernel import Capability, LogAccess

_ROOT = Path("/")
_WANTED = (Capability.SYSLOG, Capability.BPF, Capability.PERFMON)
_CONTAINER_ID = re.compile(r"[0-9a-f]{12}|[0-9a-f]{64}")
_WITHOUT_NAME = re.compile(
    r"/volumes/[0-9a-f]{64}/_data(/|$)"  # Docker, Podman
    r"|/containers/[0-9a-f]{64}/volumes/"  # containerd, for the image's own VOLUME
    r"|/kubernetes\.io~empty-dir/"
)
_IN_MEMORY = ("tmpfs", "ramfs")


def checks(config: Config, access: LogAccess, root: Path = _ROOT) -> Iterator[Check]:
    """The lines of a daemon with these settings in a container; none outside. `root` holds /proc and /sys."""
    if access.container is None:
        return
    yield _user(access)
    if _CONTAINER_ID.fullmatch(config.node_name):
        yield Check(
            "node_name",
            Verdict.WARN,
            f"this node is called {config.node_name}, which is the id of the container",
            "name it with --node-name or XIDWATCH_NODE_NAME, or start the container with --network host",
        )
    if (lost := _lost_with_it(config.state_dir, root)) is not None:
        yield Check(
            "kept",
            Verdict.WARN,
            f"what is in {config.state_dir} is lost with this container: it is {lost}",
            "Kubernetes: mount a hostPath volume there"
            if access.container == "kubernetes"
            else f"give it a volume with a name: --volume xidwatch:{config.state_dir}",
        )
    if _own_network(root) and _is_loopback(config.listen.host):
        yield Check(
            "network",
            Verdict.WARN,
            f"{config.listen} can be reached from within this container's network only",
            "clients outside use `xidwatch stdio` in the container, or: start it with --network host",
        )
    if not _sees_the_node(root):
        yield Check(
            "processes",
            Verdict.OFF,
            "the node's processes are not to be seen: who uses a GPU stays a mere pid",
            "to see them: --pid host (Kubernetes: hostPID: true)",
        )


def _user(access: LogAccess) -> Check:
    """Whether this user can have capabilities at all, and which of the three it has."""
    name = "container"
    held = [f"CAP_{each.name}" for each in _WANTED if access.has(each)]
    finding = f"{access.container}, user {access.uid}, with {' and '.join(held) or 'no capability of use'}"
    if any(map(access.withheld, _WANTED)) or (access.uid != 0 and not held):
        return Check(
            name,
            Verdict.WARN,
            f"{finding}: Docker and Kubernetes give a user other than 0 none, whatever is added",
            "run it as user 0 with all capabilities dropped but SYSLOG, BPF and PERFMON",
        )
    return Check(name, Verdict.OK, finding)


@dataclass(frozen=True, slots=True)
class _Mount:
    """A line of /proc/self/mountinfo, proc(5)."""

    source: str
    """The directory of its file system that is mounted."""
    place: Path
    kind: str
    """File system: `overlay`, `tmpfs`, `ext4` …"""


def _lost_with_it(path: Path, root: Path) -> str | None:
    """On what this directory lies, where the container's end takes it along; None where it stays."""
    mount = _mount_of(path, root)
    if mount is None:
        return None
    if mount.kind in _IN_MEMORY:
        return f"a {mount.kind}"
    if mount.place == _ROOT:
        return "the container's own layer"
    return "a volume of this container alone" if _WITHOUT_NAME.search(mount.source) else None


def _mount_of(path: Path, root: Path) -> _Mount | None:
    try:
        lines = (root / "proc/self/mountinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    found: _Mount | None = None
    for line in lines:
        before, _, behind = line.partition(" - ")
        fields, kind = before.split(" "), behind.partition(" ")[0]
        if len(fields) < 5 or not path.is_relative_to(fields[4]):
            continue
        mount = _Mount(fields[3], Path(fields[4]), kind)
        if found is None or mount.place.is_relative_to(found.place):  # a later mount covers an earlier one
            found = mount
    return found


def _own_network(root: Path) -> bool:
    """Whether every interface but the loopback is one end of a pair whose other end is elsewhere: so engines
    connect a network namespace."""
    try:
        interfaces = [each for each in (root / "sys/class/net").iterdir() if each.name != "lo"]
        return all(_number(each / "iflink") != _number(each / "ifindex") for each in interfaces)
    except (OSError, ValueError):
        return False


def _number(path: Path) -> int:
    return int(path.read_text("utf-8"))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _sees_the_node(root: Path) -> bool:
    """Whether the pids here are the node's: there number 2 is the parent of the kernel's threads."""
    try:
        return (root / "proc/2/comm").read_text("utf-8", "replace").strip() == "kthreadd"
    except OSError:
        return False
