"""Real Xids of a real GPU: from the faulting program to the event, and to a waiting MCP client.

Run on a machine with an NVIDIA GPU, as root: `make test ARGS=tests/hardware`. The faults are those
of an application: nothing is reset and no setting of the GPU is changed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from mcp import Client

from probes import procfs
from tests.hardware.cuda_fault import XID, Fault
from tests.support.daemon import ROOT, Daemon
from tests.support.waiting import wait_for


@dataclass(frozen=True, slots=True)
class Faulted:
    """A program that made its GPU fault."""

    pid: int
    pci: str


def make(which: Fault) -> Faulted:
    """Run the faulting program to its end."""
    program = subprocess.Popen(
        [sys.executable, "-m", "tests.hardware.cuda_fault", which],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out, err = program.communicate(timeout=120)
    assert program.returncode == 1, err
    assert "the kernel ended with CUDA error" in err, err
    domain, rest = out.strip().split(":", 1)
    return Faulted(program.pid, f"{domain[-4:]}:{rest}")


def event_of(daemon: Daemon, code: int, pid: int) -> dict[str, Any] | None:
    for event in daemon.events(f"since=0&limit=1000&code={code}"):
        if event["process"] is not None and event["process"]["pid"] == pid:
            return event
    return None


@pytest.mark.parametrize("which", list(Fault))
def test_a_real_fault_is_an_event_with_its_process_and_gpu(listening_daemon: Daemon, which: Fault) -> None:
    faulted = make(which)
    event = wait_for(
        lambda: event_of(listening_daemon, XID[which], faulted.pid), f"the Xid {XID[which]} of {faulted.pid}"
    )
    gpu = {gpu.pci: gpu for gpu in procfs.gpus()}[faulted.pci]
    assert event["gpu"]["pci"] == faulted.pci
    assert event["gpu"]["uuid"] == gpu.uuid
    assert event["gpu"]["name"] == gpu.model
    assert event["driver_version"] == procfs.driver_version()
    assert (event["origin"], event["drill"], event["count"]) == ("kernel", False, 1)
    assert (event["severity"], event["blame"]) == ("warning", "application")
    print(f"\n{which}: {event['lines']}")


def test_a_real_fault_ends_a_waiting_wait_for_xid(listening_daemon: Daemon) -> None:
    async def run() -> None:
        async with Client(f"{listening_daemon.url}/mcp") as client, anyio.create_task_group() as group:
            seen: set[int] = set()

            async def watch() -> None:
                # The cursor habit: an older event may wake the call too, as it is learned more about.
                since = json.loads(listening_daemon.get("/events.json?limit=1")[1])["newest_cursor"]
                while True:
                    asked = {"timeout_s": 90, "kind": "xid", "code": 31, "since": since}
                    answer = (await client.call_tool("wait_for_xid", asked)).structured_content
                    assert answer is not None
                    seen.update(event["process"]["pid"] for event in answer["events"])
                    since = answer["next_cursor"]

            group.start_soon(watch)
            started = time.monotonic()
            faulted = await anyio.to_thread.run_sync(make, Fault.MMU)
            with anyio.fail_after(30):
                while faulted.pid not in seen:
                    await anyio.sleep(0.01)
            group.cancel_scope.cancel()
            print(f"\nfault program started → answer: {time.monotonic() - started:.2f} s")

    anyio.run(run)


def test_nothing_that_the_kernel_printed_was_taken_for_a_forgery(listening_daemon: Daemon) -> None:
    faulted = make(Fault.TRAP)
    wait_for(lambda: event_of(listening_daemon, 43, faulted.pid), "the Xid 43")
    status, body = listening_daemon.get("/metrics")
    assert status == 200
    assert b"xidwatch_forged_lines_total 0.0" in body
    assert b"xidwatch_kernel_records_lost_total 0.0" in body
