"""Resources, templates and completion, in every era."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import PromptReference, ResourceTemplateReference, TextResourceContents

from daemon.event import Gpu
from mcp_server.addresses import Address, Place, parse
from tests.mcp_server.incident_samples import memory_error
from tests.mcp_server.mcp_wire import Listener, RefusedError, ask_modern, old_session
from tests.mcp_server.samples import GPU_UUID, STATUS, xid
from tests.mcp_server.serving import Served
from tests.support.waiting import DEADLINE_S, wait_for

IDLE_GPU = Gpu("0000:17:00.0", uuid="GPU-0f000000-0000-0000-0000-00000000000f", name="NVIDIA H200")


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


def read(served: Served, era: str, uri: str) -> Any:
    result = with_client(served, era, lambda client: client.read_resource(uri))
    (content,) = result.contents
    assert isinstance(content, TextResourceContents)
    assert (content.uri, content.mime_type) == (uri, "application/json")
    return json.loads(content.text)


def complete(served: Served, era: str, template: str, name: str, value: str) -> Any:
    reference = ResourceTemplateReference(uri=template)
    argument = {"name": name, "value": value}
    return with_client(served, era, lambda client: client.complete(reference, argument)).completion


def test_the_resources_that_need_no_name_are_listed(served: Served, era: str) -> None:
    served.gpus = (IDLE_GPU, Gpu("0000:18:00.0"))
    listed = with_client(served, era, lambda client: client.list_resources()).resources
    assert [each.uri for each in listed] == [
        "xid://events",
        "xid://incidents",
        "node://status",
        "gpu://inventory",
        f"gpu://{IDLE_GPU.uuid}/events",
    ]
    assert all(each.mime_type == "application/json" and each.description and each.title for each in listed)


def test_the_templates_are_listed(served: Served, era: str) -> None:
    listed = with_client(served, era, lambda client: client.list_resource_templates()).resource_templates
    assert [each.uri_template for each in listed] == [
        "xid://events/{id}",
        "xid://incidents/{id}",
        "xid://catalog/{code}",
        "gpu://{uuid}/events",
        "gpu://{uuid}/health",
    ]


def test_the_events_are_a_page_as_on_every_other_way_out(served: Served, era: str) -> None:
    served.publish(xid(number=1), xid(number=2))
    assert read(served, era, "xid://events") == served.get("/events.json").json


def test_an_event_is_read_by_its_id(served: Served, era: str) -> None:
    served.publish(xid(number=1), xid(number=2))
    assert read(served, era, "xid://events/ev_79_1") == served.get("/events.json").json["events"][0]


def test_an_event_that_has_left_the_memory_is_read_from_the_journal(tmp_path: Path) -> None:
    with Served(state_dir=tmp_path) as served:
        served.publish(*(xid(number=number) for number in range(300)))
        wait_for(
            lambda: len(served.get("/events.json?since=0&limit=1000").json["events"]) == 300, "the commits"
        )
        assert read(served, "legacy", "xid://events/ev_79_3")["id"] == "ev_79_3"
        with old_session(served) as session, pytest.raises(RefusedError, match="Unknown resource"):
            session.ask("resources/read", uri="xid://events/ev_79_300")


@pytest.mark.parametrize("uuid", [GPU_UUID, GPU_UUID.lower()])
def test_the_events_of_a_gpu_are_read_by_its_uuid(served: Served, era: str, uuid: str) -> None:
    served.publish(xid(number=1), replace(xid(number=2), gpu=None))
    assert [event["id"] for event in read(served, era, f"gpu://{uuid}/events")["events"]] == ["ev_79_1"]


def test_a_known_gpu_without_events_is_an_empty_page(served: Served, era: str) -> None:
    served.gpus = (IDLE_GPU,)
    assert read(served, era, f"gpu://{IDLE_GPU.uuid}/events")["events"] == []


def test_a_code_is_explained_for_the_driver_of_this_node(served: Served, era: str) -> None:
    entry = read(served, era, "xid://catalog/79")
    assert (entry["kind"], entry["code"], entry["severity"]) == ("xid", 79, "fatal")
    assert read(served, era, "xid://catalog/20034")["kind"] == "sxid"


def test_the_status_is_the_daemon_s(served: Served, era: str) -> None:
    assert read(served, era, "node://status") == STATUS


UNKNOWN = [
    "xid://events/ev_none",
    "xid://events/",
    "xid://catalog/999",
    "xid://catalog/abc",
    "xid://catalog/99999999999999999999",
    "gpu://GPU-none/events",
    "xid://incidents/inc_none",
    "xid://incidents/ev_79_1",
    "xid://incidents/",
    "gpu://inventory/",
    "file:///etc/passwd",
    "",
    "xid://events\n",
]


@pytest.mark.parametrize("uri", UNKNOWN)
def test_an_unknown_resource_is_the_protocol_s_error(served: Served, uri: str) -> None:
    with old_session(served) as session, pytest.raises(RefusedError) as refused:
        session.ask("resources/read", uri=uri)
    assert refused.value.code == -32002
    if uri.isprintable() and uri:
        with pytest.raises(RefusedError) as refused:
            ask_modern(served, "resources/read", uri=uri)
        assert refused.value.code == -32602


@pytest.mark.parametrize(
    "method", ["resources/list", "resources/templates/list", "tools/list", "prompts/list"]
)
def test_a_list_cursor_that_was_never_given_out_is_refused(served: Served, method: str) -> None:
    with old_session(served) as session, pytest.raises(RefusedError) as refused:
        session.ask(method, cursor="MTA=")
    assert refused.value.code == -32602
    with pytest.raises(RefusedError) as refused:
        ask_modern(served, method, cursor="MTA=")
    assert refused.value.code == -32602


def test_codes_are_completed(served: Served, era: str) -> None:
    found = complete(served, era, "xid://catalog/{code}", "code", "7")
    assert {"7", "79"} <= set(found.values)
    assert all(value.startswith("7") for value in found.values)
    everything = complete(served, era, "xid://catalog/{code}", "code", "")
    assert (len(everything.values), everything.has_more) == (100, True)
    assert everything.total > 500


def test_event_ids_are_completed_newest_first(served: Served, era: str) -> None:
    served.publish(*(xid(number=number) for number in range(3)), xid(13))
    assert complete(served, era, "xid://events/{id}", "id", "ev_79").values == [
        "ev_79_2",
        "ev_79_1",
        "ev_79_0",
    ]


def test_the_incidents_are_a_page_without_other_events(served: Served, era: str) -> None:
    assert read(served, era, "xid://incidents")["events"] == []
    events = memory_error()
    served.publish(*events, xid())
    (incident,) = read(served, era, "xid://incidents")["events"]
    assert (incident["id"], incident["detail"]["primary"]["code"]) == (events[-1].id, 48)
    assert read(served, era, f"xid://incidents/{incident['id']}") == incident


def test_an_event_is_no_incident(served: Served) -> None:
    served.publish(xid(number=1))
    with old_session(served) as session, pytest.raises(RefusedError, match="Unknown resource"):
        session.ask("resources/read", uri="xid://incidents/ev_79_1")


def test_a_subscriber_is_told_of_its_incident_alone(served: Served) -> None:
    *faults, incident = memory_error()
    served.publish(*faults, incident)
    one, every = Address(Place.INCIDENT, incident.id), Address(Place.INCIDENTS)
    assert [one.is_concerned_by(event) for event in (incident, faults[0])] == [True, False]
    assert not one.is_concerned_by(replace(incident, id="inc_other"))
    assert [every.is_concerned_by(event) for event in (incident, faults[0])] == [True, False]
    listener = Listener(served, f"xid://incidents/{incident.id}")
    served.publish(xid(number=5), replace(incident, revision=99))
    uri, meta = listener.update()
    listener.close()
    assert uri == f"xid://incidents/{incident.id}"
    assert meta["xidwatch/event"]["revision"] == 99


def test_incident_ids_are_completed(served: Served, era: str) -> None:
    incident = memory_error()[-1]
    served.publish(incident, xid())
    assert complete(served, era, "xid://incidents/{id}", "id", "INC_").values == [incident.id]


def test_gpus_are_completed_known_or_seen_in_events(served: Served, era: str) -> None:
    served.gpus = (IDLE_GPU,)
    served.publish(xid(number=1), xid(number=2))
    assert complete(served, era, "gpu://{uuid}/events", "uuid", "gpu-").values == [IDLE_GPU.uuid, GPU_UUID]


def test_what_cannot_be_completed_is_refused(served: Served, era: str) -> None:
    references: list[tuple[ResourceTemplateReference | PromptReference, str]] = [
        (ResourceTemplateReference(uri="xid://catalog/{code}"), "id"),
        (ResourceTemplateReference(uri="xid://events"), "id"),
        (ResourceTemplateReference(uri="a:{b}"), "b"),
        (PromptReference(name="p"), "a"),
        (PromptReference(name="gpu-triage"), "code"),
    ]

    async def work(client: Client) -> None:
        for reference, name in references:
            with pytest.raises(MCPError, match="Nothing to complete") as refused:
                await client.complete(reference, {"name": name, "value": ""})
            assert refused.value.code == -32602

    with_client(served, era, work)


def test_a_uuid_has_no_case_and_no_prefix_of_its_own() -> None:
    assert parse("gpu://GPU-ABC/events") == parse("gpu://gpu-abc/events") == Address(Place.GPU_EVENTS, "abc")
