from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from probes.kernel import Capability, LogAccess
from probes.kmsg_access import NotTheLogError, refusal

REPOSITORY = Path(__file__).parents[2]
NODE = LogAccess(
    capabilities=0,
    user_namespace=False,
    dmesg_restrict=True,
    devkmsg="ratelimit",
    container=None,
    uid=65534,
)
SYSLOG = 1 << Capability.SYSLOG

EXPLAIN = """
import os, sys
from pathlib import Path
from probes.kernel import log_access
from probes.kmsg_access import open_log, refusal

cgroup, user = sys.argv[1], int(sys.argv[2])
if cgroup:
    Path(cgroup, "cgroup.procs").write_text(str(os.getpid()))
if user:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
try:
    open_log(Path("/dev/kmsg"))
except OSError as error:
    print(refusal(error, Path("/dev/kmsg"), log_access()).reason)
else:
    print("opened")
"""


def explain(cgroup: Path | None = None, user: int = 0) -> str:
    """What a process of its own, in this device cgroup and of this user, says of /dev/kmsg."""
    if os.geteuid() != 0:
        pytest.skip("only root can give up its rights")
    if not Path("/dev/kmsg").exists():
        pytest.skip("there is no /dev/kmsg")
    return subprocess.run(
        [sys.executable, "-c", EXPLAIN, str(cgroup or ""), str(user)],
        check=True,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    ).stdout.strip()


@pytest.fixture
def closed_to_kmsg() -> Iterator[Path]:
    """A device cgroup (v1) that refuses char 1:11, as a container runtime sets one up."""
    cgroup = Path(f"/sys/fs/cgroup/devices/xidwatch-test-{os.getpid()}")
    try:
        cgroup.mkdir()
        (cgroup / "devices.deny").write_text("c 1:11 rwm")
    except OSError as error:
        pytest.skip(f"no device cgroup can be made: {error}")
    yield cgroup
    cgroup.rmdir()


def test_a_user_without_rights_is_told_of_the_capability_and_the_sysctl() -> None:
    if Path("/proc/sys/kernel/dmesg_restrict").read_text().strip() != "1":
        pytest.skip("kernel.dmesg_restrict is 0: anyone may read the log here")
    said = explain(user=65534)
    assert said.startswith("CAP_SYSLOG is ")
    assert "kernel.dmesg_restrict is 1" in said


def test_a_device_cgroup_is_told_from_a_missing_capability(closed_to_kmsg: Path) -> None:
    assert explain(closed_to_kmsg).startswith("the device cgroup refuses /dev/kmsg (char 1:11)")
    assert explain(closed_to_kmsg, user=65534).startswith("the device cgroup refuses")


@pytest.mark.parametrize(
    ("access", "reason", "hint"),
    [
        (NODE, "CAP_SYSLOG is missing, and kernel.dmesg_restrict is 1", "AmbientCapabilities=CAP_SYSLOG"),
        ({"container": "docker"}, "in this docker container", "as user 0 with --cap-add SYSLOG"),
        ({"container": "kubernetes"}, "in this kubernetes container", "privileged as user 0"),
        ({"container": "podman"}, "in this podman container", "with --cap-add SYSLOG"),
        (
            {"container": "podman", "bounding": SYSLOG, "uid": 1000},
            "CAP_SYSLOG is granted to this podman container, but user 1000 does not get it",
            "as user 0",
        ),
        ({"devkmsg": "off", "capabilities": SYSLOG}, "kernel.printk_devkmsg is off", "printk.devkmsg=on"),
        ({"capabilities": SYSLOG, "user_namespace": True}, "a user namespace", "rootful"),
        ({"capabilities": SYSLOG}, "although the kernel's own rules allow it", "audit log"),
        ({"dmesg_restrict": False}, "although the kernel's own rules allow it", "audit log"),
    ],
)
def test_an_eperm_of_the_driver_names_its_cause(
    tmp_path: Path, access: LogAccess | dict[str, object], reason: str, hint: str
) -> None:
    facts = access if isinstance(access, LogAccess) else with_facts(**access)
    why = refusal(OSError(errno.EPERM, "Operation not permitted"), tmp_path, facts)
    assert reason in why.reason
    assert hint in (why.hint or "")


@pytest.mark.parametrize(
    ("container", "hint"),
    [(None, "mknod -m 644"), ("docker", "--device"), ("kubernetes", "hostPath")],
)
def test_a_missing_device_is_explained_where_it_is_missing(container: str | None, hint: str) -> None:
    error = FileNotFoundError(errno.ENOENT, "No such file or directory")
    why = refusal(error, Path("/dev/kmsg"), with_facts(container=container))
    assert why.reason.startswith("/dev/kmsg does not exist")
    assert hint in (why.hint or "")


def test_something_else_in_the_place_of_the_device_is_explained_as_a_missing_one() -> None:
    why = refusal(NotTheLogError(), Path("/dev/kmsg"), with_facts(container="docker"))
    assert why.reason == "/dev/kmsg is not the kernel log device (char 1:11) in this docker container"
    assert "--device" in (why.hint or "")


def test_file_permissions_are_named_with_mode_and_owner(tmp_path: Path) -> None:
    path = tmp_path / "kmsg"
    path.touch(0o600)
    script = (
        "import os, sys; from pathlib import Path; from probes.kernel import log_access;"
        "from probes.kmsg_access import refusal; os.setgroups([]); os.setresuid(65534, 65534, 65534);"
        "print(refusal(PermissionError(13, 'x'), Path(sys.argv[1]), log_access()).reason)"
    )
    if os.geteuid() != 0:
        pytest.skip("only root can give up its rights")
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)
    said = subprocess.run(
        [sys.executable, "-c", script, path], check=True, cwd=REPOSITORY, capture_output=True, text=True
    ).stdout
    assert (
        said.strip() == f"the file permissions of {path} do not let user 65534 read it (mode 0600, owner 0)"
    )


def test_any_other_error_is_said_in_the_systems_words(tmp_path: Path) -> None:
    why = refusal(OSError(errno.EIO, "Input/output error"), Path("/dev/kmsg"), NODE)
    assert (why.reason, why.hint) == ("cannot read /dev/kmsg: input/output error", None)


def with_facts(**facts: object) -> LogAccess:
    values = {name: getattr(NODE, name) for name in NODE.__dataclass_fields__} | facts
    return LogAccess(**values)
