"""The daemon and its GPUs: the real worker and nvidia-ml-py over the fake library, seen by a client."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from daemon.gpu.process import sees_host_pids
from tests.mcp_server.serving import SseReader
from tests.support import fake_nvml
from tests.support.command import xidwatch
from tests.support.daemon import Daemon
from tests.support.fake_nvml import Scenario, pci, uuid
from tests.support.fault_lab import Happened, fault
from tests.support.kernel_log import FakeKernelLog
from tests.support.tool_calls import call
from tests.support.waiting import wait_for

GPU = 3


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_nvml.build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def fleet(tmp_path: Path, library: Path) -> Scenario:
    return Scenario(tmp_path, library)


@pytest.fixture
def daemon(tmp_path: Path, kernel_log: FakeKernelLog, fleet: Scenario) -> Iterator[Daemon]:
    """A running daemon with eight fake GPUs."""
    running = Daemon(tmp_path, kmsg=kernel_log.path, environ=fleet.environment())
    try:
        yield running.start()
    finally:
        running.stop()
    assert "Traceback" not in running.log.read_text()


def xid(code: int, rest: str, gpu: int = GPU) -> str:
    return f"NVRM: Xid (PCI:{pci(gpu)[:-2]}): {code}, {rest}"


def ask(daemon: Daemon, tool: str, **arguments: Any) -> dict[str, Any]:
    result = call(daemon.url, tool, **arguments)
    assert not result.is_error, result.content
    assert result.structured_content is not None
    content: dict[str, Any] = result.structured_content
    return content


def comm(pid: int) -> str:
    """The name that the kernel keeps of a process, which the driver prints."""
    return Path(f"/proc/{pid}/comm").read_text().strip()


def newest(daemon: Daemon, code: int) -> dict[str, Any]:
    """The newest event of this code; {} while there is none."""
    found = [event for event in daemon.events() if (event["kind"], event["code"]) == ("xid", code)]
    return found[-1] if found else {}


def test_a_critical_event_learns_which_gpu_it_is_about_and_how_that_is(
    daemon: Daemon, kernel_log: FakeKernelLog
) -> None:
    kernel_log.write(xid(48, "pid=446, name=train, DBE (double bit error)"))
    wait_for(lambda: newest(daemon, 48).get("telemetry"), "the readings to be part of the event")
    wait_for(lambda: newest(daemon, 48)["gpu"]["index"] is not None, "the GPU to be known")
    event = newest(daemon, 48)
    assert (event["gpu"]["index"], event["gpu"]["uuid"]) == (GPU, uuid(GPU))
    assert event["gpu"]["name"] == "NVIDIA H200"
    assert event["telemetry"]["readings"]["temperature_gpu_c"] == 36
    assert event["telemetry"]["readings"]["row_remap_pending"] is False
    kernel_log.write(xid(31, "pid=9, name=a, MMU Fault: ENGINE GRAPHICS"))
    wait_for(lambda: newest(daemon, 31), "the next event")
    assert newest(daemon, 31)["gpu"]["index"] == GPU  # known from the start now
    assert newest(daemon, 31)["telemetry"] is None


def test_two_critical_events_of_one_moment_both_say_how_the_gpu_was_or_why_not(
    daemon: Daemon, kernel_log: FakeKernelLog, fleet: Scenario
) -> None:
    fleet.takes(300_000, "nvmlDeviceGetTemperature", gpu=GPU)
    kernel_log.write(xid(48, "pid=446, name=train, DBE (double bit error)"))
    kernel_log.write(xid(95, "pid=446, name=train, Uncontained: FBHUB. RST: Yes, D-RST: No"))
    wait_for(lambda: newest(daemon, 48).get("telemetry"), "the telemetry of the first")
    wait_for(lambda: newest(daemon, 95).get("telemetry"), "the telemetry of the second")


def test_nvml_alone_is_no_source(tmp_path: Path) -> None:
    refused = xidwatch("serve", "--probes", "nvml", "--state-dir", str(tmp_path / "state"))
    assert refused.code == 2
    assert "second witness" in refused.err
    assert "--probes kmsg,nvml" in refused.err


def test_a_gpu_that_may_hang_is_not_touched_for_its_event(
    daemon: Daemon, kernel_log: FakeKernelLog, fleet: Scenario
) -> None:
    kernel_log.write(xid(79, "pid='<unknown>', name=<unknown>, GPU has fallen off the bus."))
    wait_for(lambda: newest(daemon, 79).get("telemetry"), "the event to say that nothing was read")
    assert "may hang" in newest(daemon, 79)["telemetry"]["unavailable"]
    assert [gpu for _, _, gpu in fleet.calls()] == []


@pytest.mark.skipif(not sees_host_pids(), reason="this machine's pids are not those of the host")
def test_a_process_that_lives_is_named(daemon: Daemon, kernel_log: FakeKernelLog) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()", "--secret"], stdin=subprocess.PIPE) as program:
        arguments = Path(f"/proc/{program.pid}/cmdline")
        # The kernel gives it its name some time after it has begun, and its arguments after that.
        wait_for(lambda: b"--secret" in arguments.read_bytes(), "the program to run")
        kernel_log.write(xid(31, f"pid={program.pid}, name={comm(program.pid)}, MMU Fault: ENGINE GRAPHICS"))
        wait_for(lambda: newest(daemon, 31), "the event")
        wait_for(lambda: newest(daemon, 31)["process"]["command_line"], "the process to be looked up")
        process = newest(daemon, 31)["process"]
        program.communicate(b"\n")
    assert process["command_line"].endswith("-c input() --secret")
    assert process["user"] == "root" if os.geteuid() == 0 else process["user"]
    assert process["started"].startswith("20")


@fault("A GPU hangs in NVML", promise=4, promised="a finding; hearing, telling and other GPUs go on")
def test_a_hung_gpu_is_a_finding_and_everything_else_goes_on(
    daemon: Daemon, kernel_log: FakeKernelLog, fleet: Scenario, happened: Happened
) -> None:
    ask(daemon, "get_gpu_inventory")
    fleet.hangs(gpu=GPU)
    with closing(_events(daemon)) as reader:
        asking = subprocess.Popen(
            [sys.executable, "-c", _ASK, daemon.url], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
        )
        answered = 0
        while asking.poll() is None:
            assert daemon.get("/healthz")[0] == 200
            kernel_log.write(xid(31, f"pid={1000 + answered}, name=a, MMU Fault: ENGINE GRAPHICS", gpu=1))
            answered += 1
            assert reader.frame()["data"]
        out, _ = asking.communicate()
    text = out.decode()
    assert "nvml_hung" in text
    assert text.count("'state': 'healthy'") >= 6
    assert answered > 3
    health = ask(daemon, "get_gpu_health")
    states = [gpu["state"] for gpu in health["gpus"]]
    assert states.count("unhealthy") == 1
    assert len(states) == 8
    happened("1 of 8 GPUs unhealthy, its call named; faults were told and /healthz answered meanwhile")


_ASK = """
import asyncio, sys
from mcp import Client
async def main():
    async with Client(sys.argv[1] + "/mcp", mode="legacy") as client:
        print((await client.call_tool("get_gpu_health", {})).structured_content)
asyncio.run(main())
"""


def _events(daemon: Daemon) -> _Reader:
    connection = socket.create_connection(("127.0.0.1", daemon.port), timeout=30)
    connection.sendall(f"GET /events HTTP/1.1\r\nHost: 127.0.0.1:{daemon.port}\r\n\r\n".encode())
    return _Reader(connection)


class _Reader(SseReader):
    def __init__(self, connection: Any) -> None:
        super().__init__(connection)
        self._connection = connection

    def close(self) -> None:
        self._lines.close()
        self._connection.close()


@fault("A GPU vanishes from NVML's count", promise=4, promised="it is missed, also after kill -9")
def test_a_lost_gpu_is_missed_over_a_restart_until_the_driver_is_back(
    daemon: Daemon, kernel_log: FakeKernelLog, fleet: Scenario, happened: Happened
) -> None:
    assert ask(daemon, "get_gpu_health")["state"] == "healthy"
    kernel_log.write(xid(79, "pid='<unknown>', name=<unknown>, GPU has fallen off the bus."))
    wait_for(lambda: newest(daemon, 79), "the event")
    fleet.present([gpu for gpu in range(8) if gpu != GPU])

    def lost() -> dict[str, Any]:
        gpus: list[dict[str, Any]] = ask(daemon, "get_gpu_health")["gpus"]
        assert len(gpus) == 8
        return next(gpu for gpu in gpus if gpu["pci"] == pci(GPU))

    assert lost()["state"] == "unhealthy"
    assert lost()["lost"]["since"] == newest(daemon, 79)["time"]
    assert newest(daemon, 79)["id"] in [event["id"] for event in lost()["lost"]["last_events"]]
    daemon.kill()
    daemon.start()
    assert lost()["state"] == "unhealthy"
    assert ask(daemon, "describe_gpu_node")["state"] == "unhealthy"
    fleet.present(range(8))
    fleet.reloads(2)
    kernel_log.write("NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build")
    wait_for(lambda: lost()["state"] == "healthy", "the GPU to be found again")
    happened("unhealthy since its Xid 79 before and after a kill, healthy again with the driver")


@pytest.fixture
def witnessed(tmp_path: Path, kernel_log: FakeKernelLog, fleet: Scenario) -> Iterator[Daemon]:
    """A daemon that listens to NVML's events too."""
    running = Daemon(
        tmp_path, kmsg=kernel_log.path, flags=["--probes", "kmsg,nvml"], environ=fleet.environment()
    )
    try:
        yield running.start()
    finally:
        assert running.stop() == 0
    assert "Traceback" not in running.log.read_text()


def nvml(daemon: Daemon) -> dict[str, Any]:
    """What `status` says of NVML's event set."""
    status = json.loads(xidwatch("status", "--json", "--socket", str(daemon.socket)).out)
    [probe] = [probe for probe in status["probes"] if probe["name"] == "nvml"]
    assert isinstance(probe, dict)
    return probe


def hears_nvml(daemon: Daemon) -> bool:
    return nvml(daemon)["hears"] is True


def test_nvml_is_a_second_witness_and_lets_go_of_the_driver_when_told_to(
    witnessed: Daemon, kernel_log: FakeKernelLog, fleet: Scenario
) -> None:
    wait_for(lambda: hears_nvml(witnessed), "NVML's events to be heard")
    kernel_log.write(xid(31, "pid=446, name=train, MMU Fault: ENGINE GRAPHICS"))
    fleet.event(1, GPU, 31)

    def witnesses() -> list[str]:
        return [witness["probe"] for witness in newest(witnessed, 31).get("witnesses", ())]

    wait_for(lambda: witnesses() == ["kmsg", "nvml"], "both witnesses")
    assert [event["code"] for event in witnessed.events("since=0&kind=xid")] == [31]
    let_go = xidwatch("release-driver", "--socket", str(witnessed.socket))
    assert let_go.code == 0, let_go.err
    assert nvml(witnessed)["state"] == "released"
    [said] = witnessed.events("since=0&kind=probe")
    assert (said["name"], said["severity"]) == ("SECOND_WITNESS_RELEASED", "info")
    assert (
        said["summary"]
        == "A second witness let go of the driver on request; kernel messages are heard as before"
    )
    assert "nothing is lost" in said["action_text"]
    kernel_log.write("NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build")
    wait_for(lambda: hears_nvml(witnessed), "NVML's events to be heard again")
    assert [event["name"] for event in witnessed.events("since=0&kind=probe")][1:] == ["SECOND_WITNESS_UP"]


def test_a_gpu_that_may_hang_is_not_listened_to_after_a_restart_and_is_named(
    witnessed: Daemon, kernel_log: FakeKernelLog, fleet: Scenario
) -> None:
    ask(witnessed, "get_gpu_inventory")
    kernel_log.write(
        xid(119, "pid=446, name=train, Timeout after 45s of waiting for RPC response from GPU3 GSP!")
    )
    wait_for(lambda: newest(witnessed, 119), "the event")
    assert witnessed.stop() == 0
    fleet.log.unlink()
    witnessed.start()
    wait_for(lambda: hears_nvml(witnessed), "NVML's events to be heard")
    why = "left alone since Xid 119: a call on it may hang"
    assert nvml(witnessed)["reason"] == f"1 of 8 GPUs is not heard: {pci(GPU)} ({why})"
    assert str(GPU) not in {gpu for _, _, gpu in fleet.calls()}


def test_a_gpu_that_comes_with_a_driver_is_heard_and_one_that_cannot_be_is_named(
    tmp_path: Path, kernel_log: FakeKernelLog, fleet: Scenario
) -> None:
    fleet.present(range(7))
    fleet.answers("nvmlDeviceGetSupportedEventTypes", 0, gpu=2)
    running = Daemon(
        tmp_path, kmsg=kernel_log.path, flags=["--probes", "kmsg,nvml"], environ=fleet.environment()
    )
    try:
        running.start()
        wait_for(lambda: hears_nvml(running), "NVML's events to be heard")
        ask(running, "get_gpu_inventory")
        fleet.present(range(8))
        kernel_log.write("NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build")
        wait_for(lambda: nvml(running)["counters"]["gpus"] == 7, "the eighth GPU to be heard")
        assert nvml(running)["state"] == "degraded"
        why = "nvmlDeviceGetSupportedEventTypes: this GPU has no Xid events"
        said = f"1 of 8 GPUs is not heard: {pci(2)} ({why})"
        assert nvml(running)["reason"] == said
        assert f"nvml hears in part: {said}" in xidwatch("status", "--socket", str(running.socket)).out
        fleet.event(1, 7, 31)
        wait_for(lambda: newest(running, 31), "the event of the eighth GPU")
        assert newest(running, 31)["gpu"]["pci"] == pci(7)
    finally:
        running.stop()


def test_after_a_gpu_has_gone_and_come_back_no_answer_names_two_by_one_index(
    daemon: Daemon, fleet: Scenario
) -> None:
    ask(daemon, "get_gpu_inventory")

    def numbered(present: list[int]) -> None:
        """The GPUs as NVML numbers them when it is initialised anew."""
        fleet.present(present)
        assert xidwatch("release-driver", "--socket", str(daemon.socket)).code == 0
        for tool in ("get_gpu_health", "get_gpu_processes", "get_nvlink_topology"):
            indices = {gpu["pci"]: gpu["index"] for gpu in ask(daemon, tool)["gpus"]}
            assert indices == {pci(gpu): None for gpu in range(8)} | {
                pci(gpu): index for index, gpu in enumerate(present)
            }

    rest = [gpu for gpu in range(8) if gpu != GPU]
    numbered(rest)
    assert f"GPU {pci(GPU)} {uuid(GPU)} (was index {GPU})" in text_of(daemon, "get_gpu_health")
    assert [gpu["pci"] for gpu in ask(daemon, "get_gpu_health", gpu=[str(GPU)])["gpus"]] == [pci(GPU + 1)]
    numbered([*range(8)])


def test_events_and_their_analysis_are_asked_for_by_the_index_of_now(
    daemon: Daemon, kernel_log: FakeKernelLog, fleet: Scenario
) -> None:
    ask(daemon, "get_gpu_inventory")
    kernel_log.write(xid(31, "pid=446, name=train, MMU Fault: ENGINE GRAPHICS"))
    kernel_log.write(xid(43, "pid=447, name=other, Ch 00000010", gpu=GPU + 1))
    wait_for(lambda: newest(daemon, 31) and newest(daemon, 43), "both events")
    fleet.present([gpu for gpu in range(8) if gpu != GPU])
    assert xidwatch("release-driver", "--socket", str(daemon.socket)).code == 0
    ask(daemon, "get_gpu_inventory")
    assert {event["code"] for event in daemon.events(f"since=0&gpu={GPU}") if event["kind"] == "xid"} == {43}
    said = text_of(daemon, "get_xid_events", gpu=[str(GPU)])
    assert said.startswith(f"Index {GPU} is GPU {pci(GPU + 1)} now; its events name the index of their time.")
    analysis = text_of(daemon, "analyze_xid_errors", gpu=[str(GPU)])
    assert ("Xid 43" in analysis, "Xid 31" in analysis) == (True, False)
    unknown = text_of(daemon, "get_xid_events", gpu=["7"])
    assert "No matching event" in unknown


def text_of(daemon: Daemon, tool: str, **arguments: Any) -> str:
    content = call(daemon.url, tool, **arguments).content
    return "\n".join(getattr(part, "text", "") for part in content)


def test_an_event_does_not_take_up_a_driver_that_was_released(
    daemon: Daemon, kernel_log: FakeKernelLog, fleet: Scenario
) -> None:
    ask(daemon, "get_gpu_health")
    assert xidwatch("release-driver", "--socket", str(daemon.socket)).code == 0
    calls = len(fleet.calls())
    kernel_log.write(xid(48, "pid=446, name=train, DBE (double bit error)"))
    wait_for(lambda: newest(daemon, 48).get("telemetry"), "the event to say that nothing was read")
    assert "the driver was released at 20" in newest(daemon, 48)["telemetry"]["unavailable"]
    assert len(fleet.calls()) == calls
    assert ask(daemon, "get_gpu_health")["gpus"][GPU]["index"] == GPU
    kernel_log.write(xid(95, "pid=446, name=train, Uncontained: FBHUB. RST: Yes, D-RST: No"))
    wait_for(lambda: newest(daemon, 95).get("telemetry"), "the readings")
    assert "readings" in newest(daemon, 95)["telemetry"]


def test_a_gpu_that_hangs_at_its_first_call_is_named_by_what_is_known_of_it(
    daemon: Daemon, fleet: Scenario
) -> None:
    fleet.hangs(gpu=GPU)
    health = ask(daemon, "get_gpu_health")
    known = {pci(gpu) for gpu in range(8)}
    assert [gpu["pci"] for gpu in health["gpus"] if gpu["pci"] not in known] == [f"at NVML index {GPU}"]
    assert f"#{GPU}" not in json.dumps(health)
    assert f"GPU at NVML index {GPU}" in text_of(daemon, "get_gpu_health")


def test_many_processes_on_one_gpu_cost_no_other_its_readings(
    daemon: Daemon, kernel_log: FakeKernelLog, fleet: Scenario
) -> None:
    ask(daemon, "get_gpu_inventory")
    for pid in range(9000, 9060):
        kernel_log.write(xid(31, f"pid={pid}, name=a, MMU Fault: ENGINE GRAPHICS", gpu=1))
    kernel_log.write(xid(48, "pid=446, name=train, DBE (double bit error)"))
    wait_for(lambda: newest(daemon, 48).get("telemetry"), "the telemetry")
    assert "readings" in newest(daemon, 48)["telemetry"]
