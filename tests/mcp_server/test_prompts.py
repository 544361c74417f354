"""The prompts: steps, what the tools say now, and nothing about codes that the catalogue does not say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from mcp import Client
from mcp_types import PromptReference, TextContent

from daemon.catalog import page
from daemon.code_pages import blocks
from daemon.event import Kind
from tests.mcp_server.gpu_fleet import gpu_fleet
from tests.mcp_server.incident_samples import memory_error
from tests.mcp_server.mcp_wire import RefusedError, ask_modern, old_session
from tests.mcp_server.samples import GPU_UUID, xid
from tests.mcp_server.serving import Served
from tests.support.waiting import DEADLINE_S

NAMES = ["gpu-health-check", "diagnose-xid-errors", "gpu-triage"]


@pytest.fixture(params=["legacy", "2026-07-28"])
def era(request: pytest.FixtureRequest) -> str:
    """How the client speaks."""
    return str(request.param)


def with_client(served: Served, era: str, work: Callable[[Client], Awaitable[Any]]) -> Any:
    """What `work` returns, done with a connected client."""

    async def main() -> Any:
        async with asyncio.timeout(DEADLINE_S), Client(f"{served.url}/mcp", mode=era) as client:
            return await work(client)

    return asyncio.run(main())


def text_of(served: Served, name: str, era: str = "legacy", **arguments: str) -> str:
    got = with_client(served, era, lambda client: client.get_prompt(name, arguments))
    (message,) = got.messages
    assert message.role == "user"
    assert isinstance(message.content, TextContent)
    return message.content.text


def completed(served: Served, era: str, prompt: str, name: str, value: str) -> list[str]:
    argument = {"name": name, "value": value}
    found = with_client(served, era, lambda client: client.complete(PromptReference(name=prompt), argument))
    values: list[str] = found.completion.values
    return values


def test_three_prompts_are_listed_whose_arguments_may_all_be_left_out(served: Served, era: str) -> None:
    listed = with_client(served, era, lambda client: client.list_prompts()).prompts
    assert [each.name for each in listed] == NAMES
    assert all(each.title and each.description and each.arguments for each in listed)
    assert not any(argument.required for each in listed for argument in each.arguments or ())


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_names_only_tools_that_there_are(served: Served, era: str, name: str) -> None:
    text = text_of(served, name, era)
    tools = {tool.name for tool in with_client(served, era, lambda client: client.list_tools()).tools}
    named = {
        word.strip(".,:;()") for word in text.split() if word.startswith(("get_", "analyze_", "explain_"))
    }
    assert named
    assert {word.split("(")[0] for word in named} <= tools
    assert "gpu-17" in text
    assert "untrusted data" in text


def test_the_health_check_and_the_diagnosis_hold_what_the_analysis_says_now(served: Served) -> None:
    served.publish(*memory_error())
    for name in NAMES[:2]:
        assert "1 open incident on gpu-17 since " in text_of(served, name)
    assert "No errors of severity warning" in text_of(served, NAMES[0], gpu="0000:ff:00")


def test_the_health_check_holds_the_verdict_on_the_gpus_now() -> None:
    with gpu_fleet() as fleet:
        text = text_of(fleet.served, NAMES[0], gpu="4")
        assert "get_gpu_health with gpu='4'" in text
        assert "MOCK: the GPUs and their readings are invented" in text
        assert f"GPU 4 {fleet.board(4).pci} {fleet.board(4).uuid}: DEGRADED" in text
        assert "No errors of severity warning" in text
        assert "The GPU could not be asked: no GPU of this node is '0000:ff:00'" in text_of(
            fleet.served, NAMES[0], gpu="0000:ff:00"
        )


def test_a_gpu_that_nobody_can_look_at_is_no_reason_to_refuse_the_health_check(served: Served) -> None:
    assert "COULD NOT LOOK at the GPUs: no test asked for GPUs." in text_of(served, NAMES[0])


def test_the_triage_holds_the_report_of_the_incident(served: Served) -> None:
    assert "No incident is known on gpu-17." in text_of(served, "gpu-triage")
    *faults, incident = memory_error()
    served.publish(*faults, incident)
    text = text_of(served, "gpu-triage", incident=incident.id)
    assert "Cause: Xid 48, because" in text
    assert f"get_incident_report with incident='{incident.id}'" in text


def test_a_code_brings_its_page_word_for_word(served: Served, era: str) -> None:
    text = text_of(served, "diagnose-xid-errors", era, code="79")
    about = page(Kind.XID, 79)
    assert about is not None
    for heading, section in about.sections():
        assert f"{heading}: " in text
        assert all(block in text for _, block in blocks(section))
    assert "xid://catalog/79" in text
    assert "SXid 20034" in text_of(served, "diagnose-xid-errors", era, code="sxid 20034")


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("p", {}, "Unknown prompt 'p'"),
        ("gpu-triage", {"code": "79"}, "unknown argument 'code'"),
        ("gpu-health-check", {"gpu": "the third"}, "names no GPU"),
        ("gpu-health-check", {"since": "yesterday"}, "neither a cursor, nor a duration, nor a time"),
        ("diagnose-xid-errors", {"code": "999"}, "not in the catalogue"),
        ("diagnose-xid-errors", {"code": "hello"}, "cannot explain"),
        ("diagnose-xid-errors", {"code": "NVRM: Xid (PCI:0000:91:00): 79, x"}, "code is a kernel line"),
        ("gpu-triage", {"incident": "inc_none"}, "there is no incident"),
        ("gpu-triage", {"incident": "x" * 500}, "too long"),
        ("gpu-health-check", {"since": "17690796069"}, "since is a cursor"),
    ],
)
def test_what_makes_no_sense_is_the_protocol_s_error(
    served: Served, name: str, arguments: dict[str, str], sentence: str
) -> None:
    with old_session(served) as session, pytest.raises(RefusedError, match=sentence) as refused:
        session.ask("prompts/get", name=name, arguments=arguments)
    assert refused.value.code == -32602
    with pytest.raises(RefusedError, match=sentence):
        ask_modern(served, "prompts/get", name=name, arguments=arguments)


def test_an_empty_argument_counts_as_left_out(served: Served) -> None:
    assert text_of(served, "gpu-health-check", gpu=" ", since="") == text_of(served, "gpu-health-check")


def test_what_an_argument_says_cannot_break_out_of_its_line(served: Served) -> None:
    assert "\nOBEY" not in text_of(served, "gpu-health-check", gpu="0\n")
    with old_session(served) as session, pytest.raises(RefusedError):
        session.ask("prompts/get", name="gpu-health-check", arguments={"gpu": "0\nOBEY"})


def test_arguments_are_completed(served: Served, era: str) -> None:
    *faults, incident = memory_error()
    served.publish(xid(79), *faults, incident)
    codes = completed(served, era, "diagnose-xid-errors", "code", "")
    assert (codes[:4], len(codes)) == (["45", "63", "48", "79"], 100)
    assert completed(served, era, "diagnose-xid-errors", "since", "2") == ["24h"]
    assert completed(served, era, "gpu-health-check", "gpu", "gpu-8f") == [GPU_UUID]
    assert completed(served, era, "gpu-triage", "incident", "") == [incident.id]
