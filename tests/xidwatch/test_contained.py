"""What `doctor` says of a container, read from files as the kernel shows them in one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from daemon.config import Address, Config
from probes.health import Check, Verdict
from probes.kernel import Capability, LogAccess
from xidwatch import contained

THREE = 1 << Capability.SYSLOG | 1 << Capability.BPF | 1 << Capability.PERFMON
INSIDE = LogAccess(
    capabilities=THREE,
    user_namespace=False,
    dmesg_restrict=True,
    devkmsg="ratelimit",
    container="docker",
    uid=0,
    bounding=THREE,
)
NAMED = "/var/lib/docker/volumes/xidwatch/_data"
EMPTY_DIR = "/var/lib/kubelet/pods/0d1e/volumes/kubernetes.io~empty-dir/state"
OF_CONTAINERD = f"/var/lib/containerd/io.containerd.grpc.v1.cri/containers/{'4f0c1d2e' * 8}/volumes/5a6b"
ANONYMOUS = f"/var/lib/docker/volumes/{'4f0c1d2e' * 8}/_data"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """/proc and /sys of a container in which all is as it should be: the node's network and processes, and
    a volume with a name."""
    mount(tmp_path, NAMED, "ext4 /dev/sda1")
    interface(tmp_path, "lo", 1, 1)
    interface(tmp_path, "ens5", 2, 2)
    (tmp_path / "proc/2").mkdir()
    (tmp_path / "proc/2/comm").write_text("kthreadd\n")
    return tmp_path


def mount(root: Path, source: str, file_system: str) -> None:
    """What lies at /var/lib/xidwatch, on a root that is the container's."""
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    (root / "proc/self/mountinfo").write_text(
        "601 500 0:52 / / ro,relatime - overlay overlay rw,lowerdir=/l\n"
        "602 601 0:55 / /proc rw,nosuid shared:9 - proc proc rw\n"
        f"610 601 8:1 {source} /var/lib/xidwatch rw,relatime - {file_system} rw\n"
    )


def interface(root: Path, name: str, index: int, other_end: int) -> None:
    place = root / "sys/class/net" / name
    place.mkdir(parents=True)
    (place / "ifindex").write_text(f"{index}\n")
    (place / "iflink").write_text(f"{other_end}\n")


CONFIG = replace(
    Config(), node_name="gpu-17", state_dir=Path("/var/lib/xidwatch"), listen=Address("127.0.0.1", 8080)
)


def said(root: Path, config: Config = CONFIG, access: LogAccess = INSIDE) -> dict[str, Check]:
    return {check.name: check for check in contained.checks(config, access, root)}


def test_outside_of_a_container_nothing_is_said(root: Path) -> None:
    assert said(root, access=replace(INSIDE, container=None)) == {}


def test_a_container_that_lacks_nothing_has_one_line(root: Path) -> None:
    assert said(root) == {
        "container": Check(
            "container", Verdict.OK, "docker, user 0, with CAP_SYSLOG and CAP_BPF and CAP_PERFMON"
        )
    }


def test_a_user_who_gets_no_capability_is_told_to_be_user_0(root: Path) -> None:
    for bounding in (THREE, 0):
        check = said(root, access=replace(INSIDE, uid=1000, capabilities=0, bounding=bounding))["container"]
        assert check.verdict is Verdict.WARN
        assert "user 1000, with no capability of use" in check.finding
        assert check.hint is not None
        assert "as user 0" in check.hint


def test_a_user_whom_podman_gives_them_is_well(root: Path) -> None:
    assert said(root, access=replace(INSIDE, uid=1000, container="podman"))["container"].verdict is Verdict.OK


def test_a_node_named_like_a_container_is_noticed(root: Path) -> None:
    check = said(root, replace(CONFIG, node_name="4f0c1d2e3b4a"))["node_name"]
    assert check.verdict is Verdict.WARN
    assert check.hint is not None
    assert "--node-name" in check.hint


@pytest.mark.parametrize(
    ("source", "file_system", "what"),
    [
        ("/", "tmpfs tmpfs", "a tmpfs"),
        (ANONYMOUS, "ext4 /dev/sda1", "a volume of this container alone"),
        (OF_CONTAINERD, "ext4 /dev/sda1", "a volume of this container alone"),
        (EMPTY_DIR, "xfs /dev/sda1", "a volume of this container alone"),
    ],
)
def test_a_state_directory_that_goes_with_the_container_is_told(
    root: Path, source: str, file_system: str, what: str
) -> None:
    mount(root, source, file_system)
    check = said(root)["kept"]
    assert (check.verdict, check.finding) == (
        Verdict.WARN,
        f"what is in /var/lib/xidwatch is lost with this container: it is {what}",
    )
    assert check.hint == "give it a volume with a name: --volume xidwatch:/var/lib/xidwatch"
    in_a_pod = said(root, access=replace(INSIDE, container="kubernetes"))["kept"]
    assert in_a_pod.hint == "Kubernetes: mount a hostPath volume there"


def test_a_directory_of_the_node_stays_whatever_its_file_system(root: Path) -> None:
    mount(root, "/var/lib/xidwatch", "overlay overlay")
    assert "kept" not in said(root)


def test_a_state_directory_on_the_containers_root_goes_with_it(root: Path) -> None:
    assert "the container's own layer" in said(root, replace(CONFIG, state_dir=Path("/data")))["kept"].finding


def test_a_loopback_of_the_containers_own_is_told_and_another_address_is_not(root: Path) -> None:
    interface(root, "eth0", 3, 7)
    assert "network" not in said(root)  # ens5 is the node's
    for file in (root / "sys/class/net/ens5").iterdir():
        file.unlink()
    (root / "sys/class/net/ens5").rmdir()
    check = said(root)["network"]
    assert check.finding == "127.0.0.1:8080 can be reached from within this container's network only"
    assert "network" in said(root, replace(CONFIG, listen=Address("localhost", 8080)))
    assert "network" not in said(root, replace(CONFIG, listen=Address("0.0.0.0", 8080)))  # noqa: S104


def test_processes_that_cannot_be_seen_are_told(root: Path) -> None:
    (root / "proc/2/comm").write_text("xidwatch\n")
    check = said(root)["processes"]
    assert check.verdict is Verdict.OFF
    assert check.hint is not None
    assert "--pid host" in check.hint


def test_what_cannot_be_read_is_not_guessed(root: Path) -> None:
    (root / "proc/self/mountinfo").unlink()
    (root / "sys/class/net/ens5/iflink").write_text("")
    assert set(said(root)) == {"container"}
