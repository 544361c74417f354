"""Which container a cgroup names."""

from __future__ import annotations

import pytest

from daemon.gpu.container import Container, container_of

ID = "4f" * 32
OUTER = "a0" * 32


@pytest.mark.parametrize(
    "path",
    [
        f"/docker/{ID}",
        f"/system.slice/docker-{ID}.scope",
        f"/kubepods.slice/kubepods-pod1b2c.slice/cri-containerd-{ID}.scope",
        f"/kubepods/burstable/pod8e4f1c9a-0b1c-4d7e-9d5e-1f2a3b4c5d6e/{ID}",
        f"/kubepods.slice/kubepods-besteffort.slice/crio-{ID}.scope/container",
        f"/machine.slice/libpod-{ID}.scope/container",
        f"/../../machine.slice/libpod-{ID}.scope",
        f"/docker/{OUTER}/kubelet/kubepods/pod1/cri-containerd-{ID}.scope",
    ],
)
def test_every_runtime_names_the_cgroup_after_the_container(path: str) -> None:
    assert container_of(f"0::{path}\n") == Container(True, ID)


def test_version_1_hierarchies_are_read_until_one_names_it() -> None:
    assert container_of(f"12:pids:/\n5:memory:/docker/{ID}\n0::/\n") == Container(True, ID)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/user.slice/user-1000.slice/session-3.scope",
        "/system.slice/slurmstepd.scope/job_42/step_0",
        f"/machine.slice/libpod-conmon-{ID}.scope",
        f"/kubepods.slice/crio-conmon-{ID}.scope",
        "/docker/4f4f4f4f",
    ],
)
def test_a_process_of_the_host_is_in_no_container(path: str) -> None:
    assert container_of(f"0::{path}\n", has_host_cgroups=True) == Container(False, None)


def test_a_pid_namespace_without_a_named_container_is_unknown() -> None:
    found = container_of("0::/lxc.payload.web\n", has_own_pids=True, has_host_cgroups=True)
    assert found.inside is None
    assert found.unknown is not None


def test_a_hidden_part_of_the_hierarchy_is_unknown_and_not_no_container() -> None:
    found = container_of("0::/\n", has_host_cgroups=False)
    assert found.inside is None
    assert "namespace" in (found.unknown or "")


def test_an_unreadable_cgroup_is_unknown() -> None:
    assert container_of("").unknown is not None
