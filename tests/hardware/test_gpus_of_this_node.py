"""The GPU tools on a machine with a GPU, asked as an assistant asks them.

Run as root: `make test ARGS=tests/hardware`. The faults are those of an application.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from daemon.gpu.process import sees_host_pids
from probes import procfs
from tests.hardware.cuda_context import cuda_context
from tests.hardware.cuda_fault import XID, Fault
from tests.hardware.test_real_faults import event_of, make
from tests.support.daemon import Daemon
from tests.support.tool_calls import call
from tests.support.waiting import wait_for


def ask(daemon: Daemon, tool: str, **arguments: Any) -> tuple[dict[str, Any], str]:
    result = call(daemon.url, tool, "auto", **arguments)
    assert not result.is_error, result.content
    assert result.structured_content is not None
    return result.structured_content, getattr(result.content[0], "text", "")


def test_every_gpu_of_the_driver_is_named_and_judged(listening_daemon: Daemon) -> None:
    known = {gpu.pci: gpu for gpu in procfs.gpus()}
    inventory, _ = ask(listening_daemon, "get_gpu_inventory")
    assert {gpu["pci"]: gpu["uuid"] for gpu in inventory["gpus"]} == {p: g.uuid for p, g in known.items()}
    health, text = ask(listening_daemon, "get_gpu_health", detail="full")
    print(f"\n{text}")
    assert [gpu["pci"] for gpu in health["gpus"]] == sorted(known)
    for gpu in health["gpus"]:
        assert gpu["state"] in {"healthy", "degraded", "unhealthy"}  # and not unknown: all was read
    node, text = ask(listening_daemon, "describe_gpu_node")
    print(text)
    assert node["driver"]["version"] == procfs.driver_version()
    ask(listening_daemon, "get_nvlink_topology")


def test_a_program_on_the_gpu_is_found(listening_daemon: Daemon) -> None:
    with cuda_context(64) as pid:

        def users() -> list[dict[str, Any]]:
            found, _ = ask(listening_daemon, "get_gpu_processes", detail="full")
            return [process for gpu in found["gpus"] for process in gpu["processes"] or ()]

        [process] = wait_for(users, "the program to be listed")
        if sees_host_pids():
            assert process["pid"] == pid
            assert "cuda_context" in process["facts"]["command_line"]
    print(f"\n{process}")


def test_an_event_learns_the_index_of_its_gpu(listening_daemon: Daemon) -> None:
    faulted = make(Fault.MMU)
    code = XID[Fault.MMU]
    wait_for(lambda: event_of(listening_daemon, code, faulted.pid), "the event")

    def index() -> bool:
        event = event_of(listening_daemon, code, faulted.pid)
        return event is not None and event["gpu"]["index"] is not None

    wait_for(index, "the GPU's index")
    event = event_of(listening_daemon, code, faulted.pid)
    assert event is not None
    assert event["gpu"]["name"]
    print(f"\n{event['gpu']} {event['process']} (this pid namespace is the host's: {sees_host_pids()})")


def test_the_worker_ends_with_the_daemon(listening_daemon: Daemon) -> None:
    ask(listening_daemon, "get_gpu_inventory")
    daemon = listening_daemon.pid
    [worker] = Path(f"/proc/{daemon}/task/{daemon}/children").read_text().split()
    status = Path(f"/proc/{worker}/status").read_text().splitlines()
    print(f"\nworker: {next(line for line in status if line.startswith('VmRSS'))}")
    listening_daemon.stop()
    wait_for(lambda: not Path(f"/proc/{worker}").exists(), "the worker to end")
