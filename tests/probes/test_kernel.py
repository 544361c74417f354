from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from probes import kernel


def test_the_boot_id_is_this_boots() -> None:
    assert kernel.boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_the_size_of_the_kernel_log_is_a_power_of_two() -> None:
    try:
        size = kernel.klogctl(kernel.SyslogAction.SIZE_BUFFER)
    except PermissionError:
        pytest.skip("klogctl is refused here")
    assert size >= 4096
    assert size & (size - 1) == 0


def test_klogctl_raises_what_the_kernel_answers() -> None:
    with pytest.raises(OSError, match="Invalid argument") as raised:
        kernel.klogctl(kernel.SyslogAction.READ_ALL)
    assert raised.value.errno in (errno.EINVAL, errno.EPERM)


def test_capabilities_count_only_outside_of_a_user_namespace() -> None:
    mask = 1 << kernel.Capability.SYSLOG
    outside = kernel.LogAccess(mask, False, True, "on", None, 0)
    assert outside.has(kernel.Capability.SYSLOG)
    assert not outside.has(kernel.Capability.BPF)
    assert not kernel.LogAccess(mask, True, True, "on", None, 0).has(kernel.Capability.SYSLOG)
    assert not kernel.LogAccess(None, False, True, "on", None, 0).has(kernel.Capability.SYSLOG)


@pytest.mark.parametrize(
    ("uid", "container", "said"),
    [
        (0, "docker", "CAP_PERFMON and CAP_BPF are missing in this docker container"),
        (1000, None, "CAP_PERFMON and CAP_BPF are missing"),
        (
            1000,
            "docker",
            "CAP_PERFMON and CAP_BPF are granted to this docker container, but user 1000 does not get them",
        ),
    ],
)
def test_a_container_that_gives_them_to_user_0_only_is_told_from_one_that_has_none(
    uid: int, container: str | None, said: str
) -> None:
    both = kernel.Capability.PERFMON, kernel.Capability.BPF
    bounding = sum(1 << each for each in both)
    access = kernel.LogAccess(0, False, True, "on", container, uid, bounding)
    assert access.lacking(*both) == said
    syslog = access.lacking(kernel.Capability.SYSLOG)
    assert syslog.startswith("CAP_SYSLOG is missing")


def test_what_this_process_may_do_is_read_from_proc() -> None:
    access = kernel.log_access()
    assert access.uid == os.geteuid()
    assert access.devkmsg in {"on", "off", "ratelimit"}
    assert access.capabilities is not None
    assert access.bounding is not None


@pytest.mark.parametrize(
    ("environ", "mark", "name"),
    [
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, ".dockerenv", "kubernetes"),
        ({"container": "lxc"}, None, "lxc"),
        ({}, "run/.containerenv", "podman"),
        ({}, ".dockerenv", "docker"),
        ({}, None, None),
    ],
)
def test_a_container_is_known_by_its_marks(
    tmp_path: Path, environ: dict[str, str], mark: str | None, name: str | None
) -> None:
    if mark:
        (tmp_path / mark).parent.mkdir(exist_ok=True)
        (tmp_path / mark).touch()
    assert kernel.container(environ, tmp_path) == name


def test_the_clocks_go_forward() -> None:
    clock = kernel.SystemClock()
    assert clock.monotonic_us() <= clock.monotonic_us()
    assert clock.wall_us() > 1_700_000_000_000_000
