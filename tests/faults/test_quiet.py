"""Promise 7: with everything on that can run and nobody asking, the daemon wakes at most once a second.

Wake-ups are counted by the kernel: a thread that wakes is switched away from again. The log is a FIFO into
which nothing is written, so whatever wakes the daemon is its own doing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.mcp_server.speaking import Exchange, Session, call
from tests.support import fake_nvml
from tests.support.daemon import Daemon
from tests.support.fake_nvml import Scenario
from tests.support.fault_lab import Happened, fault, rounds
from tests.support.kernel_log import FakeKernelLog
from tests.support.receiver import Receiver
from tests.support.waiting import wait_for

MOST_A_SECOND: Final = 1
"""DESIGN's budget for an idle daemon without clients; here it has some, which do not ask."""
SETTLED_S: Final = 6.0
"""The resume point is written 5 s after the last record, and what a client left is cleared a moment later."""
SINK: Final = '[[sink]]\nname = "pager"\ntype = "webhook"\nurl = "{url}/hook"\n'


def wake_ups(pid: int) -> int:
    """How often threads of this process went to sleep so far; each began with a wake-up."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                total += int(line.split()[1])
    return total


@pytest.fixture
def daemon(
    tmp_path: Path, kernel_log: FakeKernelLog, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    """With a GPU worker, NVML's events, a sink, drills and the socket; eBPF would hear the real log."""
    fleet = Scenario(tmp_path, fake_nvml.build(tmp_path_factory.mktemp("nvml")))
    sinks = tmp_path / "sinks.toml"
    with Receiver() as receiver:
        sinks.write_text(SINK.format(url=receiver.url))
        flags = ["--probes", "kmsg,nvml", "--on-event", str(sinks), "--allow-drills"]
        running = Daemon(tmp_path, kmsg=kernel_log.path, flags=flags, environ=fleet.environment())
        try:
            yield running.start()
            assert running.stop() == 0
        finally:
            running.kill()


@pytest.mark.slow
@fault("Nothing happens at all", promise=7, promised=f"at most {MOST_A_SECOND} wake-up a second")
def test_with_everything_on_and_clients_that_only_listen_it_sleeps(
    daemon: Daemon, kernel_log: FakeKernelLog, happened: Happened
) -> None:
    window_s = rounds(short=10, long=120)
    with ExitStack() as stack:
        session = Session(daemon.port)
        with session.post(call(1, "get_gpu_health")) as exchange:
            assert any("result" in message for message in exchange.messages())
        kernel_log.write("NVRM: Xid (PCI:0000:18:00): 31, pid=7, name=x, MMU Fault")
        wait_for(lambda: daemon.events("code=31"), "the event")
        streams = [session.listen(), Exchange(daemon.port, "GET", "/events").head()]
        for stream in streams:
            stack.callback(stream.close)
        time.sleep(SETTLED_S)
        before = wake_ups(daemon.pid)
        time.sleep(window_s)  # the window that is measured
        woke = wake_ups(daemon.pid) - before
    assert woke <= MOST_A_SECOND * window_s
    happened(
        f"GPU worker, NVML's events, a sink and {len(streams)} streams open: {woke} wake-ups in {window_s} s"
    )
