"""What Kubernetes is told of its node: a whole daemon in a mount namespace that looks like a pod's."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.node_reports.cluster import SERVICE_ACCOUNT
from daemon.node_reports.condition import TYPE
from tests.support.daemon import Daemon
from tests.support.fake_api_server import NODE, FakeApiServer, Refusal
from tests.support.kernel_log import FakeKernelLog
from tests.support.metrics import metric
from tests.support.waiting import wait_for

FELL_OFF = "NVRM: Xid (PCI:0000:91:00): 79, pid=446, name=python3, GPU has fallen off the bus."
RELOADED = "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  580.159.04  Mon Oct 27 00:00:00 UTC 2026"
AS_IN_A_POD = (
    'mount -t tmpfs pod /run && mkdir -p {account} && mount --bind {folder} {account} && shift && exec "$@"'
)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FakeApiServer]:
    probe = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "pod", "/run"], capture_output=True, check=False
    )
    if os.geteuid() != 0 or probe.returncode != 0:
        pytest.skip(f"no mount namespace of one's own: {probe.stderr.decode().strip() or 'not root'}")
    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    with FakeApiServer(folder) as server:
        yield server


@pytest.fixture
def daemon(tmp_path: Path, kernel_log: FakeKernelLog, api: FakeApiServer) -> Iterator[Daemon]:
    script = AS_IN_A_POD.format(account=SERVICE_ACCOUNT.resolve(), folder=api.folder)
    running = Daemon(
        tmp_path,
        kmsg=kernel_log.path,
        flags=("--gpu", "off", "--node-name", NODE, "--node-reports", "events,conditions"),
        wrapper=("unshare", "--mount", "sh", "-ec", script, "pod", "--"),
        environ=api.environ,
    )
    try:
        yield running.start()
    finally:
        running.stop()
    assert "Traceback" not in running.log.read_text()


def status(api: FakeApiServer) -> str | None:
    """What the node's condition says."""
    return api.conditions.get(TYPE, {}).get("status")


def test_a_fault_is_an_event_and_a_condition_until_the_gpu_has_recovered(
    daemon: Daemon, kernel_log: FakeKernelLog, api: FakeApiServer
) -> None:
    wait_for(lambda: status(api) == "False", "the condition of a node that is well")
    kernel_log.write(FELL_OFF)
    wait_for(lambda: status(api) == "True", "the condition")
    assert api.conditions[TYPE]["reason"] == "Xid79"
    wait_for(lambda: api.events, "the event")
    (event,) = api.events.values()
    assert (event["reason"], event["involvedObject"]["name"]) == ("Xid79", NODE)
    daemon.kill()
    since = api.conditions[TYPE]["lastTransitionTime"]
    api.conditions[TYPE]["lastHeartbeatTime"] = "before the restart"
    daemon.start()
    wait_for(lambda: api.conditions[TYPE]["lastHeartbeatTime"] != "before the restart", "the condition again")
    assert (status(api), api.conditions[TYPE]["lastTransitionTime"]) == ("True", since)
    kernel_log.time_us += 60_000_000
    kernel_log.write(RELOADED)
    wait_for(lambda: status(api) == "False", "the condition of a node that is well again")
    assert len(api.events) == 1


def test_missing_rights_are_said_and_do_not_stop_the_daemon(
    daemon: Daemon, kernel_log: FakeKernelLog, api: FakeApiServer
) -> None:
    wait_for(lambda: status(api) == "False", "the condition of a node that is well")
    api.refuse = lambda request: Refusal(403, "events is forbidden")
    kernel_log.write(FELL_OFF)
    wait_for(lambda: metric(daemon, 'xidwatch_outlet_up{outlet="node-events"}') == 0, "the metric")
    wait_for(lambda: metric(daemon, 'xidwatch_outlet_up{outlet="node-condition"}') == 0, "the metric")
    assert "403 Forbidden: events is forbidden" in daemon.log.read_text()
    assert [event["code"] for event in daemon.events() if event["kind"] == "xid"] == [79]
