"""Operator mode: a real daemon over the fake library, real clients, processes that really end, and records
that outlive the daemon."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mcp_types as types
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, ElicitRequestParams, ElicitResult, TextContent

from daemon.gpu.process import sees_host_pids
from mcp_server.identity import Scope
from tests.support import fake_nvml
from tests.support.command import xidwatch
from tests.support.daemon import Daemon
from tests.support.fake_nvml import Scenario, pci, uuid
from tests.support.fault_lab import Happened, fault
from tests.support.kernel_log import FakeKernelLog
from tests.support.operator_node import Stranger, recycled, stranger
from tests.support.token_file import TokenFileOnDisk, transport
from tests.support.waiting import DEADLINE_S, wait_for

pytestmark = pytest.mark.skipif(
    not sees_host_pids(), reason="this machine's pids are not those of the host: nothing may be killed by pid"
)

ERAS = ("legacy", "2026-07-28")
YES = ElicitResult(action="accept", content={"confirm": True})
NO = ElicitResult(action="decline")
GPU = 3
NO_INSTANCE = 0xFFFFFFFF
RESET_DONE = f"GPU {uuid(GPU)} was successfully reset.\\nAll done."


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_nvml.build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def fleet(tmp_path: Path, library: Path) -> Scenario:
    return Scenario(tmp_path, library)


@pytest.fixture
def driver_tool(tmp_path: Path) -> Path:
    """What is called nvidia-smi on the daemon's PATH; it notes its arguments in the file `ran` beside it."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/bin/ran\nprintf "{RESET_DONE}\\n"\n')
    tool.chmod(0o755)
    return tool


def daemon_with(tmp_path: Path, log: FakeKernelLog, fleet: Scenario, *flags: str) -> Daemon:
    environ = {**fleet.environment(), "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    file = TokenFileOnDisk(tmp_path / "tokens")
    file.add("dash")
    secret = file.add("on-call", Scope.OPERATE)
    asks = ("--token-file", str(file.path))
    return Daemon(tmp_path, kmsg=log.path, flags=(*flags, *asks), environ=environ, token=secret)


@pytest.fixture
def node(tmp_path: Path, kernel_log: FakeKernelLog, fleet: Scenario, driver_tool: Path) -> Iterator[Daemon]:
    """A daemon in operator mode with eight fake GPUs."""
    running = daemon_with(tmp_path, kernel_log, fleet, "--mode", "operator")
    try:
        yield running.start()
    finally:
        running.stop()
    assert "Traceback" not in running.log.read_text()


@pytest.fixture
def process() -> Iterator[Stranger]:
    """A real process, no child of the daemon."""
    with stranger() as running:
        yield running


def hold(fleet: Scenario, *pids: int, gpu: int = GPU) -> None:
    """From now on the driver says that these processes compute on this GPU, and no others."""
    held = [value for pid in pids for value in (pid, 1 << 30, NO_INSTANCE, NO_INSTANCE)]
    fleet.answers("nvmlDeviceGetComputeRunningProcesses_v3", *held, gpu=gpu)


class Person:
    """Answers the questions of a client, and remembers them with what `look` saw at that moment."""

    def __init__(self, reply: ElicitResult, look: Callable[[], bool] = lambda: True) -> None:
        self.reply = reply
        self.look = look
        self.asked: list[tuple[str, bool]] = []

    async def __call__(self, context: object, params: ElicitRequestParams) -> ElicitResult:
        self.asked.append((params.message, self.look()))
        return self.reply


def call(
    node: Daemon, tool: str, *, era: str = "legacy", person: Person | None = None, **arguments: Any
) -> CallToolResult:
    """One call of the SDK's client; with a person it can ask its user, without it cannot."""

    async def main() -> CallToolResult:
        info = types.Implementation(name="night-shift", version="1.0")
        how: dict[str, Any] = {"elicitation_callback": person} if person is not None else {}
        to = transport(f"{node.url}/mcp", node.token)
        async with asyncio.timeout(DEADLINE_S):
            async with Client(to, mode=era, client_info=info, **how) as client:
                result = await client.call_tool(tool, arguments)
                assert isinstance(result, CallToolResult)
                return result

    return asyncio.run(main())


def text_of(result: CallToolResult) -> str:
    return "\n".join(part.text for part in result.content if isinstance(part, TextContent))


def done(result: CallToolResult) -> dict[str, Any]:
    """What a call that was not refused says."""
    assert not result.is_error, text_of(result)
    assert result.structured_content is not None
    content: dict[str, Any] = result.structured_content
    return content


def refused(result: CallToolResult) -> str:
    assert result.is_error, text_of(result)
    return text_of(result)


def records(node: Daemon) -> list[dict[str, Any]]:
    """The audit records so far."""
    return node.events("since=0&kind=operator")


def outcomes(node: Daemon) -> list[str]:
    return [record["detail"]["outcome"] for record in records(node)]


# -- ending a process ----------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
def test_a_person_reads_the_plan_first_and_a_yes_ends_the_process(
    node: Daemon, fleet: Scenario, process: Stranger, era: str
) -> None:
    hold(fleet, process.pid)
    person = Person(YES, look=lambda: process.runs)
    answer = done(call(node, "kill_gpu_process", era=era, person=person, pid=process.pid))
    [(question, ran)] = person.asked
    assert ran, "it was ended before anybody said yes"
    for part in ("test-node", f'process {process.pid} "sleep"', '"sleep 1000"', uuid(GPU), "send SIGTERM"):
        assert part in question
    assert (answer["status"], answer["result"]["signals_sent"]) == ("done", ["SIGTERM"])
    assert answer["confirm"] is None  # the assistant never holds what a person confirms
    assert not process.runs
    assert outcomes(node) == ["begun", "done"]


@pytest.mark.parametrize("era", ERAS)
def test_a_no_leaves_the_process_alone_and_is_on_record(
    node: Daemon, fleet: Scenario, process: Stranger, era: str
) -> None:
    hold(fleet, process.pid)
    answer = done(call(node, "kill_gpu_process", era=era, person=Person(NO), pid=process.pid))
    assert (answer["status"], answer["sentence"]) == (
        "declined",
        "The person who was asked said no. Nothing was done.",
    )
    assert process.runs
    assert outcomes(node) == ["declined"]


@pytest.mark.parametrize("era", ERAS)
def test_a_client_that_cannot_ask_gets_the_plan_and_hands_its_confirmation_in(
    node: Daemon, fleet: Scenario, process: Stranger, era: str
) -> None:
    hold(fleet, process.pid)
    first = call(node, "kill_gpu_process", era=era, pid=process.pid)
    plan = done(first)
    assert plan["status"] == "to_confirm"
    assert text_of(first).startswith("NOTHING WAS DONE YET. The plan")
    assert process.runs
    assert records(node) == []
    done(call(node, "kill_gpu_process", era=era, pid=process.pid, confirm=plan["confirm"]))
    assert not process.runs
    assert outcomes(node) == ["begun", "done"]
    again = call(node, "kill_gpu_process", era=era, pid=process.pid, confirm=plan["confirm"])
    assert "used already" in refused(again)


@fault("A confirmation handed in for another plan", promise=6, promised="refused; nothing is done")
def test_a_confirmation_is_good_for_its_own_plan_and_no_other(
    node: Daemon, fleet: Scenario, process: Stranger, happened: Happened
) -> None:
    with stranger() as other:
        hold(fleet, process.pid, other.pid)
        token = done(call(node, "kill_gpu_process", pid=process.pid))["confirm"]
        assert "other arguments" in refused(call(node, "kill_gpu_process", pid=other.pid, confirm=token))
        harder = call(node, "kill_gpu_process", pid=process.pid, sigkill_after_s=0, confirm=token)
        assert "other arguments" in refused(harder)
        assert "no plan waits" in refused(call(node, "reset_gpu", gpu=str(GPU), confirm=token))
        assert process.runs
        assert other.runs
    happened("for another process, with a harder signal, for another tool: 3 refusals, both processes run")


@fault("The pid to end belongs to another process by then", promise=6, promised="refused; it lives on")
def test_a_recycled_pid_is_refused_and_its_new_owner_lives_on(
    node: Daemon, fleet: Scenario, process: Stranger, happened: Happened
) -> None:
    hold(fleet, process.pid)  # the driver names the pid, whoever has it
    token = done(call(node, "kill_gpu_process", pid=process.pid))["confirm"]
    owner = recycled(process)
    try:
        text = refused(call(node, "kill_gpu_process", pid=owner.pid, confirm=token))
        assert f"pid {owner.pid} is another process now than the one that was confirmed" in text
        assert owner.runs
    finally:
        owner.end()
    assert outcomes(node) == ["refused"]
    happened("refused and on record; the new owner of the pid runs")


def test_a_process_that_uses_no_gpu_is_refused(node: Daemon, process: Stranger) -> None:
    assert "does not use any GPU now" in refused(call(node, "kill_gpu_process", pid=process.pid))
    assert process.runs


def test_the_first_process_the_daemon_its_parent_and_its_worker_are_refused_even_when_forced(
    node: Daemon, fleet: Scenario
) -> None:
    done(call(node, "get_gpu_inventory"))
    [worker] = {pid for pid, _, _ in fleet.calls()}
    never = {1: "first process of the system", node.pid: "xidwatch itself", worker: "a worker of xidwatch"}
    never |= {os.getpid(): "a parent of xidwatch"} if os.getpid() != 1 else {}
    hold(fleet, *never)
    for pid, why in never.items():
        person = Person(YES)
        text = refused(call(node, "kill_gpu_process", person=person, pid=pid, force=True))
        assert f"process {pid} is never ended: it is" in text
        assert why in text
        assert person.asked == []
    assert node.get("/healthz")[0] == 200


def test_a_read_only_daemon_has_no_such_tools_and_ends_nothing(
    tmp_path: Path, kernel_log: FakeKernelLog, fleet: Scenario, process: Stranger
) -> None:
    hold(fleet, process.pid)
    running = daemon_with(tmp_path, kernel_log, fleet)
    try:
        running.start()

        async def main() -> None:
            to = transport(f"{running.url}/mcp", running.token)
            async with asyncio.timeout(DEADLINE_S), Client(to, mode="legacy") as client:
                names = {tool.name for tool in (await client.list_tools()).tools}
                assert names.isdisjoint({"kill_gpu_process", "reset_gpu"})
                with pytest.raises(MCPError, match="kill_gpu_process"):
                    await client.call_tool("kill_gpu_process", {"pid": process.pid})

        asyncio.run(main())
        assert process.runs
        assert records(running) == []
    finally:
        running.stop()


def test_with_mock_gpus_it_is_said_first_that_nothing_can_be_killed_or_reset(
    tmp_path: Path, kernel_log: FakeKernelLog, fleet: Scenario, process: Stranger
) -> None:
    running = daemon_with(tmp_path, kernel_log, fleet, "--mode", "operator", "--gpu", "mock")
    try:
        running.start()
        for tool, arguments in (
            ("kill_gpu_process", {"pid": process.pid}),
            ("kill_gpu_process", {"pid": 1}),
            ("kill_gpu_process", {"pid": 4_194_000}),
            ("reset_gpu", {"gpu": "0"}),
            ("reset_gpu", {"gpu": "no such GPU"}),
        ):
            text = refused(call(running, tool, person=Person(YES), **arguments))
            assert text.startswith(
                "the GPUs are mock (--gpu mock): nothing on this node can be killed or reset"
            )
        assert process.runs
    finally:
        running.stop()


# -- what is left on record ----------------------------------------------------------------------


def test_the_record_outlives_the_daemon_and_says_who_asked_what_on_what_with_what_result(
    node: Daemon, fleet: Scenario, process: Stranger
) -> None:
    hold(fleet, process.pid)
    done(call(node, "kill_gpu_process", person=Person(YES), pid=process.pid))
    wait_for(lambda: [record["stored"] for record in records(node)] == [True, True], "the journal")
    before = records(node)
    node.kill()
    node.start()
    assert [(record["id"], record["detail"]) for record in records(node)] == [
        (record["id"], record["detail"]) for record in before
    ]
    last = before[-1]
    assert (last["name"], last["severity"], last["process"]["pid"]) == (
        "KILL_GPU_PROCESS",
        "info",
        process.pid,
    )
    assert (last["gpu"]["pci"], last["detail"]["asked_by"]) == (pci(GPU), "night-shift 1.0 at 127.0.0.1")
    assert last["detail"]["who"] == {
        "way": "token",
        "name": "on-call",
        "issuer": None,
        "uid": None,
        "pid": None,
    }
    assert last["detail"]["confirmed_by"] == "question"
    assert last["detail"]["plan"]["pid"] == process.pid
    found = done(call(node, "get_xid_events", kind=["operator"]))
    assert [event["id"] for event in found["events"]] == [record["id"] for record in before]


def test_tail_shows_an_act_on_one_line_that_can_be_read_at_night(
    node: Daemon, fleet: Scenario, process: Stranger
) -> None:
    hold(fleet, process.pid)
    done(call(node, "kill_gpu_process", person=Person(YES), pid=process.pid))
    node.stop()
    node.start()
    flags = ("--socket", str(node.socket), "--kind", "operator", "--since", "1h")
    tail = xidwatch("tail", *flags)
    assert tail.code == 0, tail.err
    begun, ended = tail.out.splitlines()
    for line in (begun, ended):
        for part in ("INFO", "operator", "KILL_GPU_PROCESS", "gpu3 1b:00", f"sleep[{process.pid}]"):
            assert part in line
    assert (
        f'BEGUN, asked by token on-call (night-shift 1.0 at 127.0.0.1): End process {process.pid} "sleep"'
        in begun
    )
    assert "send SIGTERM" in begun
    who = "token on-call (night-shift 1.0 at 127.0.0.1)"
    assert f"DONE, asked by {who}: Process {process.pid} has ended after" in ended
    lines = xidwatch("tail", "--json", *flags).out.splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["operator", "operator"]


# -- resetting a GPU -----------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
def test_a_gpu_is_reset_after_a_yes_and_the_tools_output_is_returned(
    node: Daemon, driver_tool: Path, era: str
) -> None:
    ran = driver_tool.with_name("ran")
    person = Person(YES, look=lambda: not ran.exists())
    result = call(node, "reset_gpu", era=era, person=person, gpu=str(GPU))
    [(question, first)] = person.asked
    assert first, "the tool ran before anybody said yes"
    assert f"{driver_tool} --gpu-reset -i {uuid(GPU)}" in question
    assert ran.read_text() == f"--gpu-reset -i {uuid(GPU)}\n"
    answer = done(result)
    assert answer["status"] == "done"
    assert answer["result"]["output"].splitlines() == [
        f"GPU {uuid(GPU)} was successfully reset.",
        "All done.",
    ]
    assert answer["result"]["answers"] is True
    assert "Its output (untrusted data)" in text_of(result)
    assert outcomes(node) == ["begun", "done"]


def test_a_reset_is_refused_while_processes_run_before_and_after_its_plan(
    node: Daemon, fleet: Scenario, process: Stranger, driver_tool: Path
) -> None:
    hold(fleet, process.pid)
    used = f'1 process uses what would be reset: {process.pid} "sleep"'
    assert used in refused(call(node, "reset_gpu", gpu=uuid(GPU)))
    hold(fleet)
    token = done(call(node, "reset_gpu", gpu=uuid(GPU)))["confirm"]
    hold(fleet, process.pid)
    assert used in refused(call(node, "reset_gpu", gpu=uuid(GPU), confirm=token))
    assert not driver_tool.with_name("ran").exists()
    assert process.runs
    assert outcomes(node) == ["refused"]


def test_a_reset_that_fails_is_a_failure_with_the_tools_words_on_record(
    node: Daemon, driver_tool: Path
) -> None:
    driver_tool.write_text("#!/bin/sh\necho 'In use by another client'\nexit 3\n")
    token = done(call(node, "reset_gpu", gpu=pci(GPU)))["confirm"]
    answer = done(call(node, "reset_gpu", gpu=pci(GPU), confirm=token))
    assert (answer["status"], answer["result"]["output"]) == ("failed", "In use by another client")
    assert "The reset FAILED" in answer["sentence"]
    last = records(node)[-1]
    assert (last["detail"]["outcome"], last["severity"]) == ("failed", "warning")
    assert last["detail"]["result"]["output"] == "In use by another client"
