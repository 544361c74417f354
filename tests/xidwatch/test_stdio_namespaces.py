"""The relay as `kubectl exec -i POD -- xidwatch stdio` runs it: the daemon has a mount and network namespace
of its own, where its socket lies, and the host is outside, behind a pipe."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import ROOT, clean_environment
from tests.support.kernel_log import FakeKernelLog
from tests.support.relay import Relay
from tests.support.waiting import wait_for

FELL_OFF = "NVRM: Xid (PCI:0000:91:00): 79, pid=446, name=python3, GPU has fallen off the bus."
POD_SCRIPT = """
mount -t tmpfs none "$1" && ip link set lo up && shift && exec "$@"
"""


def _why_not() -> str | None:
    for tool in ("unshare", "nsenter", "mount", "ip"):
        if shutil.which(tool) is None:
            return f"no {tool} on this machine"
    probe = "mount -t tmpfs none /mnt && ip link set lo up"
    tried = subprocess.run(
        ["unshare", "--mount", "--net", "sh", "-c", probe], capture_output=True, text=True, check=False
    )
    return None if tried.returncode == 0 else f"namespaces are not permitted: {tried.stderr.strip()}"


class Pod:
    """A daemon in namespaces of its own; its socket is on a file system that only it sees."""

    def __init__(self, run: Path, kmsg: Path, log: Path) -> None:
        self.socket = run / "s"
        self._run = run
        serve = [sys.executable, "-m", "xidwatch", "serve", "--listen", "127.0.0.1:8080"]
        flags = ["--socket", str(self.socket), "--state-dir", str(run / "state"), "--kmsg", str(kmsg)]
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "--net", "sh", "-c", POD_SCRIPT, "pod", str(run), *serve, *flags],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=ROOT,
                env=clean_environment(),
            )

    def is_up(self) -> bool:
        """Whether the daemon serves its socket, inside."""
        assert self.process.poll() is None, self.log.read_text()
        return Path(f"/proc/{self.process.pid}/root{self.socket}").exists()

    def relay(self) -> Relay:
        """A relay started inside, as kubelet does."""
        enter = ["nsenter", "--target", str(self.process.pid), "--mount", "--net", f"--wd={ROOT}"]
        return Relay("--socket", str(self.socket), prefix=enter)


@pytest.fixture
def pod(tmp_path: Path, kernel_log: FakeKernelLog) -> Iterator[Pod]:
    """A running one."""
    if os.geteuid() != 0:
        pytest.skip("namespaces need root")
    if (reason := _why_not()) is not None:
        pytest.skip(reason)
    run = tmp_path / "run"
    run.mkdir()
    running = Pod(run, kernel_log.path, tmp_path / "log")
    try:
        wait_for(running.is_up, "the daemon in its namespaces")
        yield running
    finally:
        running.process.terminate()
        assert running.process.wait(30) == 0


def test_a_host_outside_is_served_through_a_pipe(pod: Pod, kernel_log: FakeKernelLog) -> None:
    assert not pod.socket.exists()  # nothing of it is to be seen out here
    with pod.relay() as host:
        host.shake_hands()
        host.call(1, "wait_for_xid", since=0)
        kernel_log.write(FELL_OFF)
        assert host.answer_to(1)["result"]["structuredContent"]["events"][0]["code"] == 79
        host.hang_up()
        assert host.end()[0] == 0


def test_ten_hosts_at_once_lose_nothing(pod: Pod, kernel_log: FakeKernelLog) -> None:
    def watch(_: int) -> list[int]:
        seen: list[int] = []
        cursor: Any = 0
        with pod.relay() as host:
            host.shake_hands()
            while len(seen) < 20:
                host.call(len(seen) + 1000, "wait_for_xid", since=cursor, kind="xid")
                page = host.answer_to(len(seen) + 1000)["result"]["structuredContent"]
                seen += [event["kmsg_seq"] for event in page["events"]]
                cursor = page["next_cursor"]
        return seen

    with ThreadPoolExecutor(10) as hosts:
        watching = [hosts.submit(watch, number) for number in range(10)]
        wrote = [kernel_log.write(FELL_OFF.replace("0000:91", f"0000:{bus:02x}")) for bus in range(20)]
        assert all(sorted(set(each.result())) == wrote for each in watching)
