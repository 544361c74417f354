"""Acting on the node through the SDK's client, over real sockets, on real processes."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mcp_types as types
import pytest
from mcp import Client
from mcp_types import CallToolResult, ElicitRequestParams, ElicitResult, TextContent

from daemon.operator.audit import OperatorAction, Outcome
from daemon.operator.who import Way, Who
from mcp_server.operator_wire import OperationOut
from tests.mcp_server.mcp_wire import ask_modern
from tests.mcp_server.operator_serving import OperatorNode, operator_node
from tests.mcp_server.serving import Served
from tests.support.operator_node import Stranger, pci, stranger, uuid
from tests.support.token_file import transport

ERAS = ("legacy", "2026-07-28")
YES = ElicitResult(action="accept", content={"confirm": True})


class Person:
    """Answers questions, and remembers them."""

    def __init__(self, reply: ElicitResult = YES) -> None:
        self.reply = reply
        self.questions: list[ElicitRequestParams] = []

    async def __call__(self, context: object, params: ElicitRequestParams) -> ElicitResult:
        self.questions.append(params)
        return self.reply


def client(node: OperatorNode, era: str, person: Person | None = None, secret: str | None = None) -> Client:
    info = types.Implementation(name="test-client", version="7.1")
    to = transport(node.url, node.secret if secret is None else secret)
    if person is None:
        return Client(to, mode=era, client_info=info)
    return Client(to, mode=era, client_info=info, elicitation_callback=person)


async def call(asking: Client, tool: str, **arguments: Any) -> CallToolResult:
    result = await asking.call_tool(tool, arguments)
    assert isinstance(result, CallToolResult)
    return result


def text_of(result: CallToolResult) -> str:
    (only,) = result.content
    assert isinstance(only, TextContent)
    return only.text


def data_of(result: CallToolResult) -> dict[str, Any]:
    assert not result.is_error, result.content
    data = result.structured_content
    assert isinstance(data, dict)
    OperationOut.model_validate(data)
    return data


@pytest.fixture
def process() -> Any:
    with stranger() as running:
        yield running


@pytest.mark.parametrize("era", ERAS)
def test_a_person_who_says_yes_has_the_process_ended(era: str, process: Stranger, tmp_path: Path) -> None:
    async def main() -> None:
        person = Person()
        async with operator_node(tmp_path) as node, client(node, era, person) as asking:
            node.gpus.put(process.pid)
            data = data_of(await call(asking, "kill_gpu_process", pid=process.pid))
            assert (data["status"], data["result"]["process_ended"]) == ("done", True)
            assert not process.runs
            (question,) = person.questions
            for part in ("node gpu-17", f"process {process.pid}", '"sleep 1000"', uuid(0), "SIGTERM"):
                assert part in question.message
            assert node.outcomes == [Outcome.BEGUN, Outcome.DONE]
            record = node.records[0]
            assert record.action is OperatorAction.KILL_GPU_PROCESS
            assert (record.gpu, record.pid, record.process_name) == (pci(0), process.pid, "sleep")
            assert record.asked_by == "test-client 7.1 at 127.0.0.1"
            assert record.who == Who(Way.TOKEN, "on-call")
            assert record.detail["confirmed_by"] == "question"
            assert json.loads(json.dumps(record.detail)) == record.detail

    asyncio.run(main())


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    "reply",
    [
        ElicitResult(action="decline"),
        ElicitResult(action="cancel"),
        ElicitResult(action="accept", content={"confirm": False}),
        ElicitResult(action="accept", content={}),
        ElicitResult(action="accept"),
    ],
    ids=["declined", "cancelled", "not ticked", "empty", "without a form"],
)
def test_anything_but_a_ticked_box_leaves_the_process_alone(
    era: str, reply: ElicitResult, process: Stranger, tmp_path: Path
) -> None:
    async def main() -> None:
        async with operator_node(tmp_path) as node, client(node, era, Person(reply)) as asking:
            node.gpus.put(process.pid)
            data = data_of(await call(asking, "kill_gpu_process", pid=process.pid))
            assert (data["status"], data["result"]) == ("declined", None)
            assert "Nothing was done." in data["sentence"]
            assert process.runs
            assert node.outcomes == [Outcome.DECLINED]

    asyncio.run(main())


@pytest.mark.parametrize("era", ERAS)
def test_a_client_without_elicitation_hands_the_confirmation_in(
    era: str, process: Stranger, tmp_path: Path
) -> None:
    async def main() -> None:
        async with operator_node(tmp_path) as node, client(node, era) as asking:
            node.gpus.put(process.pid)
            first = await call(asking, "kill_gpu_process", pid=process.pid)
            data = data_of(first)
            assert data["status"] == "to_confirm"
            assert data["confirm_within_s"] == 300
            assert "NOTHING WAS DONE YET" in text_of(first)
            assert f"confirm={data['confirm']}" in text_of(first)
            assert process.runs
            assert node.records == []
            second = await call(asking, "kill_gpu_process", pid=process.pid, confirm=data["confirm"])
            assert data_of(second)["status"] == "done"
            assert not process.runs
            assert node.outcomes == [Outcome.BEGUN, Outcome.DONE]
            third = await call(asking, "kill_gpu_process", pid=process.pid, confirm=data["confirm"])
            assert third.is_error
            assert "used already" in text_of(third)

    asyncio.run(main())


@pytest.mark.parametrize("era", ERAS)
def test_a_made_up_confirmation_does_nothing(era: str, process: Stranger, tmp_path: Path) -> None:
    async def main() -> None:
        async with operator_node(tmp_path) as node, client(node, era) as asking:
            node.gpus.put(process.pid)
            result = await call(asking, "kill_gpu_process", pid=process.pid, confirm="yes")
            assert result.is_error
            assert text_of(result).startswith("no plan waits for this confirmation. call again")
            assert process.runs

    asyncio.run(main())


def test_the_state_of_a_question_is_no_confirmation_for_the_assistant(
    process: Stranger, tmp_path: Path
) -> None:
    async def main() -> None:
        async with operator_node(tmp_path) as node, client(node, "2026-07-28", Person()) as asking:
            node.gpus.put(process.pid)
            asked = await asking.session.call_tool(
                "kill_gpu_process", {"pid": process.pid}, allow_input_required=True
            )
            assert isinstance(asked, types.InputRequiredResult)
            result = await call(asking, "kill_gpu_process", pid=process.pid, confirm=asked.request_state)
            assert result.is_error
            assert process.runs
            replies: Mapping[str, Any] = {"confirm": YES}
            other = await asking.session.call_tool(
                "kill_gpu_process",
                {"pid": process.pid, "sigkill_after_s": 0},
                input_responses=dict(replies),
                request_state=asked.request_state,
            )
            assert other.is_error
            assert "other arguments" in text_of(other)
            assert process.runs
            assert node.outcomes == [Outcome.REFUSED]

    asyncio.run(main())


@pytest.mark.parametrize("era", ERAS)
def test_a_refusal_is_one_sentence_with_a_hint_and_asks_nobody(
    era: str, process: Stranger, tmp_path: Path
) -> None:
    async def main() -> None:
        person = Person()
        async with operator_node(tmp_path) as node, client(node, era, person) as asking:
            result = await call(asking, "kill_gpu_process", pid=process.pid)
            assert result.is_error
            assert "does not use any GPU now. get_gpu_processes lists those that do." in text_of(result)
            assert process.runs
            assert (person.questions, node.records) == ([], [])

    asyncio.run(main())


@pytest.mark.parametrize("era", ERAS)
def test_a_gpu_is_reset_after_a_yes_and_the_tools_words_are_told(
    era: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho \"$@\" > {tmp_path}/ran\necho 'All done.'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    async def main() -> None:
        person = Person()
        async with operator_node(tmp_path) as node, client(node, era, person) as asking:
            result = await call(asking, "reset_gpu", gpu="1")
            assert data_of(result)["result"] == {"output": "All done.", "problem": None, "answers": True}
            assert 'Its output (untrusted data): "All done."' in text_of(result)
            assert f"nvidia-smi --gpu-reset -i {uuid(1)}" in person.questions[0].message
            assert [record.action for record in node.records] == [OperatorAction.RESET_GPU] * 2

    asyncio.run(main())
    assert (tmp_path / "ran").read_text() == f"--gpu-reset -i {uuid(1)}\n"


def test_both_tools_say_that_they_destroy(tmp_path: Path) -> None:
    async def main() -> None:
        async with operator_node(tmp_path) as node, client(node, "legacy") as asking:
            tools = {tool.name: tool for tool in (await asking.list_tools()).tools}
            assert tools.keys() == {"kill_gpu_process", "reset_gpu"}
            for tool in tools.values():
                assert tool.annotations is not None
                assert tool.annotations.destructive_hint is True
                assert tool.annotations.read_only_hint is False
                assert "a person has to confirm" in (tool.description or "")

    asyncio.run(main())


def test_a_session_on_the_unix_socket_is_asked_in_the_middle_of_its_call(
    process: Stranger, tmp_path: Path
) -> None:
    async def main() -> None:
        async with operator_node(tmp_path) as node:
            node.gpus.put(process.pid)
            assert node.socket_path is not None
            reader, writer = await asyncio.open_unix_connection(node.socket_path)

            async def tell(message: dict[str, object]) -> None:
                writer.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
                await writer.drain()

            async def told() -> Any:
                return json.loads(await reader.readline())

            hello = {
                "protocolVersion": "2025-06-18",
                "capabilities": {"elicitation": {}},
                "clientInfo": {"name": "lines", "version": "1"},
            }
            await tell({"id": 1, "method": "initialize", "params": hello})
            await told()
            await tell({"method": "notifications/initialized"})
            arguments = {"name": "kill_gpu_process", "arguments": {"pid": process.pid}}
            await tell({"id": 2, "method": "tools/call", "params": arguments})
            question = await told()
            assert question["method"] == "elicitation/create"
            assert question["params"]["requestedSchema"]["required"] == ["confirm"]
            assert process.runs
            said = {"action": "accept", "content": {"confirm": True}}
            await tell({"id": question["id"], "result": said})
            answer = await told()
            assert (answer["id"], answer["result"]["structuredContent"]["status"]) == (2, "done")
            assert not process.runs
            writer.close()
            asked_by = node.records[0].asked_by
            assert asked_by is not None
            assert asked_by.startswith("lines 1 at pid ")
            who = node.records[0].who
            assert who is not None
            assert (who.way, who.uid, who.pid) == (Way.SOCKET, os.getuid(), os.getpid())

    asyncio.run(main())


def test_a_client_that_fails_to_ask_has_nothing_done(process: Stranger, tmp_path: Path) -> None:
    class Broken(Person):
        async def __call__(self, context: object, params: ElicitRequestParams) -> ElicitResult:
            return types.ErrorData(code=types.INTERNAL_ERROR, message="no terminal")  # type: ignore[return-value]  # what a client may do

    async def main() -> None:
        async with operator_node(tmp_path) as node, client(node, "legacy", Broken()) as asking:
            node.gpus.put(process.pid)
            data = data_of(await call(asking, "kill_gpu_process", pid=process.pid))
            assert data["status"] == "declined"
            assert "could not ask its user: no terminal" in data["sentence"]
            assert process.runs

    asyncio.run(main())


def test_a_question_that_nobody_answers_is_a_no(process: Stranger, tmp_path: Path) -> None:
    class Away(Person):
        async def __call__(self, context: object, params: ElicitRequestParams) -> ElicitResult:
            await asyncio.Event().wait()
            raise AssertionError("nobody comes")

    async def main() -> None:
        async with (
            operator_node(tmp_path, lasts_s=0.3) as node,
            client(node, "legacy", Away()) as asking,
        ):
            node.gpus.put(process.pid)
            data = data_of(await call(asking, "kill_gpu_process", pid=process.pid))
            assert data["status"] == "declined"
            assert data["sentence"] == "Nobody answered within 0.3 s. Nothing was done."
            assert process.runs

    asyncio.run(main())


def test_a_read_only_server_has_no_such_tools(served: Served) -> None:
    names = {tool["name"] for tool in ask_modern(served, "tools/list")["tools"]}
    assert "wait_for_xid" in names
    assert names.isdisjoint({"kill_gpu_process", "reset_gpu"})


@pytest.mark.parametrize("era", ERAS)
def test_a_token_that_may_only_read_sees_no_such_tool_and_a_call_is_refused_and_on_record(
    era: str, process: Stranger, tmp_path: Path
) -> None:
    async def main() -> None:
        async with (
            operator_node(tmp_path) as node,
            client(node, era, Person(), secret=node.dash) as asking,
        ):
            node.gpus.put(process.pid)
            assert (await asking.list_tools()).tools == []
            for _ in range(3):
                result = await call(asking, "kill_gpu_process", pid=process.pid)
                assert result.is_error
                assert "token dash may read, and kill_gpu_process needs the scope operate" in text_of(result)
            assert process.runs
            [record] = node.records  # the first one of many
            assert (record.outcome, record.who) == (Outcome.REFUSED, Who(Way.TOKEN, "dash"))
            assert record.asked_by == "test-client 7.1 at 127.0.0.1"
            assert record.summary.startswith("REFUSED, asked by token dash (test-client 7.1 at 127.0.0.1): ")

    asyncio.run(main())
