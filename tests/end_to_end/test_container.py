"""The daemon in a real container that is granted as little as possible: what it hears, and what it says.

User 0, all capabilities dropped but the ones named, read-only root, no privileged flag, no new privileges,
a seccomp profile as engines have it, the state on a tmpfs, and /dev/kmsg closed.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from probes import kernel
from probes.bpf.availability import attach
from probes.bpf.unavailable import Unavailable
from probes.kernel import Capability
from tests.support import real_kernel_log
from tests.support.bpf import programs, programs_of
from tests.support.container import ContainedDaemon, Engine, sleeping
from tests.support.daemon import ROOT
from tests.support.kernel_log import FakeKernelLog
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slow

THREE = ("BPF", "PERFMON", "SYSLOG")
NO_DEVICE = "/dev/kmsg does not exist in this podman container"
DRILLS = ("--allow-drills", "--gpu", "off")
WITHOUT_AMBIENT = ("setpriv", "--ambient-caps=-all", "--inh-caps=-all")
"""Docker and Kubernetes start a user other than 0 with no capability at all; podman does not."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    real_kernel_log.skip_unless_usable()
    if isinstance(found := attach(), Unavailable):
        pytest.skip(f"eBPF cannot be had outside of a container either: {found.reason}")
    found.close()
    engine = Engine(tmp_path_factory.mktemp("podman"))
    try:
        yield engine
    finally:
        engine.close()


@pytest.fixture
def domain() -> str:
    """A PCI domain of this test, with a drill at device 10 in the log before the daemon starts."""
    domain = real_kernel_log.own_domain()
    write(domain, "10")
    return domain


def write(domain: str, bus: str) -> None:
    real_kernel_log.write(real_kernel_log.drill_line(f"{domain}:{bus}:00", 31, 4711))


def granted(*capabilities: str) -> list[str]:
    return [flag for name in capabilities for flag in ("--cap-add", name)]


def documented() -> list[str]:
    """The flags that docs/ebpf.md tells people to use."""
    found = re.search(r"\$ podman run (.+?) IMAGE ", (ROOT / "docs/ebpf.md").read_text(), re.DOTALL)
    assert found is not None
    return shlex.split(found[1].replace("\\\n", " "))


def seccomp(engine: Engine) -> list[str]:
    """With Docker's rule for CAP_BPF, where this engine is older than that."""
    return ["--security-opt", f"seccomp={engine.profile()}"]


@dataclass(frozen=True, slots=True)
class Readiness:
    """What `/readyz` answers."""

    status: int
    probes: dict[str, dict[str, Any]]

    @property
    def hear(self) -> set[str]:
        return {name for name, probe in self.probes.items() if probe["hears"]}


def readiness(daemon: ContainedDaemon) -> Readiness:
    status, body = daemon.get("/readyz")
    return Readiness(status, {probe["name"]: probe for probe in json.loads(body)["probes"]})


def event_at(daemon: ContainedDaemon, domain: str, bus: str) -> dict[str, Any]:
    """The event of the drill at this device; {} while there is none."""
    address = f"{domain}:{bus}:00.0"
    return next((each for each in daemon.events() if (each["gpu"] or {}).get("pci") == address), {})


def heard(event: dict[str, Any]) -> list[str]:
    """Who heard it, the first one first."""
    return [witness["probe"] for witness in event["witnesses"]]


def check_told_of_before(daemon: ContainedDaemon, domain: str) -> None:
    """Wait for the line from before the start. All drills of the machine draw on one allowance: where other
    tests have used it up, the line is part of an overflow."""

    def told() -> dict[str, Any]:
        overflows = (each for each in daemon.events() if each["kind"] == "overflow")
        return event_at(daemon, domain, "10") or next(overflows, {})

    event = wait_for(told, "the line from before the start")
    assert event["kind"] == "overflow" or heard(event) == ["klog"]


def write_live(daemon: ContainedDaemon, domain: str) -> str:
    """Write drills until one has an event of its own, and give back its bus."""
    buses = iter(range(0x11, 0x60))

    def written() -> str | None:
        bus = f"{next(buses):02x}"
        write(domain, bus)
        try:
            event = wait_for(partial(event_at, daemon, domain, bus), "the live line", deadline_s=3)
        except AssertionError:  # part of an overflow of many devices
            return None
        return bus if event["kind"] == "xid" else None

    return wait_for(written, "a live line with an event of its own", pause_s=1.0)


def checks(daemon: ContainedDaemon) -> dict[str, dict[str, str]]:
    """What `doctor` says in the daemon's container."""
    done = daemon.xidwatch("doctor", "--json")
    assert "Traceback" not in done.err
    return {check["name"]: check for check in json.loads(done.out)["checks"]}


CLOSED = {
    "not given": ((), NO_DEVICE, "--device /dev/kmsg"),
    "bind-mounted": (
        ("--volume", "/dev/kmsg:/dev/kmsg"),
        "the device cgroup refuses /dev/kmsg (char 1:11) in this podman container",
        "a bind mount brings no device rule",
    ),
}


@pytest.mark.kmsg
@pytest.mark.parametrize("closed", CLOSED)
def test_with_three_capabilities_it_hears_live_by_ebpf_and_what_was_before_by_syslog(
    engine: Engine, tmp_path: Path, domain: str, closed: str
) -> None:
    device, reason, hint = CLOSED[closed]
    flags = [*documented(), *seccomp(engine), *device]
    daemon = ContainedDaemon(engine, tmp_path, podman_flags=flags, flags=DRILLS)
    try:
        daemon.start()
        ready = readiness(daemon)
        assert (ready.status, ready.hear) == (200, {"bpf", "klog"})
        assert ready.probes["kmsg"]["reason"] == reason
        check_told_of_before(daemon, domain)
        live = partial(event_at, daemon, domain, write_live(daemon, domain))
        assert heard(live())[0] == "bpf"
        wait_for(lambda: heard(live()) == ["bpf", "klog"], "the log to confirm it")

        status = daemon.xidwatch("status")
        assert status.code == 0, status.err
        assert f"kmsg does not hear: {reason}" in status.out
        said = checks(daemon)
        assert (said["kmsg"]["verdict"], said["kmsg"]["finding"]) == ("fail", reason)
        assert hint in said["kmsg"]["hint"]
        assert [said[name]["verdict"] for name in ("ebpf", "klog", "tracker")] == ["ok"] * 3
        assert held(daemon) == {Capability.SYSLOG}

        own = programs_of(daemon.pid)
        assert len(own) >= 2  # an ear and the tracker
        daemon.kill()
        wait_for(lambda: not own & programs(), "the container's programs to be gone")
    finally:
        daemon.stop()
    assert "Traceback" not in daemon.log.read_text()


def held(daemon: ContainedDaemon) -> set[Capability]:
    """Those of the capabilities asked for that the daemon still has."""
    lines = Path(f"/proc/{daemon.pid}/status").read_text().splitlines()
    mask = next(int(line.split()[1], 16) for line in lines if line.startswith("CapPrm:"))
    assert mask & ~sum(1 << each for each in Capability) == 0
    return {each for each in Capability if mask >> each & 1}


@pytest.mark.kmsg
def test_with_syslog_alone_it_says_that_this_is_the_weaker_source(
    engine: Engine, tmp_path: Path, domain: str
) -> None:
    flags = [*granted("SYSLOG"), *seccomp(engine)]
    daemon = ContainedDaemon(engine, tmp_path, podman_flags=flags, flags=DRILLS)
    try:
        daemon.start()
        check_told_of_before(daemon, domain)
        assert heard(event_at(daemon, domain, write_live(daemon, domain))) == ["klog"]
        ready = readiness(daemon)
        assert (ready.status, ready.hear) == (200, {"klog"})
        assert "sees no sequence numbers" in ready.probes["klog"]["hint"]
        assert ready.probes["bpf"]["reason"].startswith("CAP_BPF and CAP_PERFMON are missing")
        assert "--cap-add BPF --cap-add PERFMON" in ready.probes["bpf"]["hint"]
        assert re.search(r"klog\s+hears.*sees no sequence numbers", daemon.xidwatch("status").out)
        assert "sees no sequence numbers" in checks(daemon)["klog"]["finding"]
    finally:
        daemon.stop()


def test_with_nothing_it_is_not_ready_and_names_the_flags(engine: Engine, tmp_path: Path) -> None:
    skip_unless_restricted()
    daemon = ContainedDaemon(engine, tmp_path, podman_flags=seccomp(engine), flags=DRILLS)
    try:
        daemon.start()
        ready = readiness(daemon)
        assert (ready.status, ready.hear) == (503, set())
        assert ready.probes["kmsg"]["reason"] == NO_DEVICE
        assert ready.probes["kmsg"]["hint"].endswith("--device /dev/kmsg --cap-add SYSLOG")
        assert ready.probes["bpf"]["cause"] in ("no_capability", "unprivileged_bpf")
        assert ready.probes["bpf"]["hint"].endswith("--cap-add BPF --cap-add PERFMON --cap-add SYSLOG")
        status = daemon.xidwatch("status")
        assert status.code == 1
        assert "does not hear" in status.out
        said = checks(daemon)
        assert [said[name]["verdict"] for name in ("kmsg", "ebpf", "klog")] == ["fail"] * 3
        assert said["klog"]["hint"].endswith("--cap-add SYSLOG")
    finally:
        assert daemon.stop() == 0


def test_a_user_who_is_not_0_is_told_that_the_container_has_what_the_user_does_not_get(
    engine: Engine, tmp_path: Path
) -> None:
    skip_unless_restricted()
    flags = [*granted(*THREE), *seccomp(engine), "--user", "1000"]
    daemon = ContainedDaemon(engine, tmp_path, podman_flags=flags, inside=WITHOUT_AMBIENT, flags=DRILLS)
    try:
        daemon.start()
        ready = readiness(daemon)
        assert (ready.status, ready.hear) == (503, set())
        said = checks(daemon)
        for name, capabilities in (("ebpf", "CAP_BPF and CAP_PERFMON"), ("klog", "CAP_SYSLOG")):
            assert said[name]["verdict"] == "fail"
            assert f"{capabilities} " in said[name]["finding"]
            assert "user 1000 does not get" in said[name]["finding"]
            assert "as user 0" in said[name]["hint"]
    finally:
        daemon.stop()


@pytest.mark.kmsg
def test_podman_gives_them_to_another_user_too(engine: Engine, tmp_path: Path, domain: str) -> None:
    flags = [*granted(*THREE), *seccomp(engine), "--user", "1000"]
    daemon = ContainedDaemon(engine, tmp_path, podman_flags=flags, flags=DRILLS)
    try:
        daemon.start()
        check_told_of_before(daemon, domain)
        assert heard(event_at(daemon, domain, write_live(daemon, domain)))[0] == "bpf"
        assert held(daemon) == {Capability.SYSLOG}
    finally:
        daemon.stop()


def test_the_engines_own_seccomp_profile_lets_it_hear_or_is_named(engine: Engine, tmp_path: Path) -> None:
    daemon = ContainedDaemon(engine, tmp_path, podman_flags=granted(*THREE), flags=DRILLS)
    try:
        daemon.start()
        ready = readiness(daemon)
        assert ready.status == 200
        if engine.own_profile_lets_bpf_through():
            assert ready.hear == {"bpf", "klog"}
        else:
            assert ready.hear == {"klog"}
            assert ready.probes["bpf"]["cause"] == "seccomp"
            assert "--security-opt seccomp=" in ready.probes["bpf"]["hint"]
    finally:
        daemon.stop()


def test_from_its_container_it_names_the_container_of_a_process_that_a_fault_killed(
    engine: Engine, tmp_path: Path
) -> None:
    log_directory = tmp_path / "log"
    log_directory.mkdir()
    flags = [*granted(*THREE), *seccomp(engine), "--volume", f"{log_directory}:{log_directory}"]
    with FakeKernelLog(log_directory / "kmsg") as log:
        daemon = ContainedDaemon(
            engine,
            tmp_path / "daemon",
            podman_flags=flags,
            kmsg=log.path,
            flags=("--ebpf", "required", "--gpu", "off"),
        )
        daemon.log.parent.mkdir()
        try:
            daemon.start()
            with sleeping(engine) as other:
                log.write(f"NVRM: Xid (PCI:0000:91:00): 31, pid={other.pid}, name=sleep, MMU Fault")
                wait_for(lambda: tracker(daemon)["counters"].get("waiting"), "the tracker to watch it")
            process = wait_for(lambda: ended(daemon), "the end of the process")
        finally:
            daemon.stop()
    assert process["pid"] == other.pid
    assert process["container_id"] == other.container_id
    assert process["exit_signal"] == 9
    assert process["exited_after_us"] > 0


def tracker(daemon: ContainedDaemon) -> dict[str, Any]:
    """The tracker's part of the daemon's state."""
    found: dict[str, Any] = json.loads(daemon.xidwatch("status", "--json").out)["tracker"]
    return found


def ended(daemon: ContainedDaemon) -> dict[str, Any] | None:
    """The process of the only fault, once it is known how it ended."""
    process: dict[str, Any] = daemon.events()[-1]["process"]
    return process if process["exited_after_us"] is not None else None


def skip_unless_restricted() -> None:
    """Where anyone may read the log, a container that is granted nothing still hears."""
    if kernel.log_access().dmesg_restrict is False:
        pytest.skip("kernel.dmesg_restrict is 0: the log is open to everyone")
