"""`gpu://inventory` and `gpu://{uuid}/health`: read, subscribed to, completed; a sick GPU is not touched."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from mcp import Client
from mcp_types import PromptReference, ResourceTemplateReference, TextResourceContents

from daemon.event import Kind
from mcp_server.addresses import Address, Place, parse
from tests.mcp_server.gpu_fleet import QUIET, Fleet, gpu_fleet
from tests.mcp_server.mcp_wire import Listener, RefusedError, ask_modern, old_session
from tests.mcp_server.samples import GPU_UUID, xid
from tests.mcp_server.serving import Served
from tests.support.waiting import DEADLINE_S

ERAS = ["legacy", "2026-07-28"]


@pytest.fixture
def three() -> Iterator[Fleet]:
    """Three healthy GPUs."""
    with gpu_fleet(QUIET) as fleet:
        yield fleet


def with_client(served: Served, era: str, work: Callable[[Client], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with asyncio.timeout(DEADLINE_S), Client(f"{served.url}/mcp", mode=era) as client:
            return await work(client)

    return asyncio.run(main())


def read(served: Served, uri: str, era: str = "legacy") -> Any:
    result = with_client(served, era, lambda client: client.read_resource(uri))
    (content,) = result.contents
    assert isinstance(content, TextResourceContents)
    assert content.mime_type == "application/json"
    return json.loads(content.text)


def health_uri(fleet: Fleet, index: int) -> str:
    return f"gpu://{fleet.board(index).uuid}/health"


@pytest.mark.parametrize("era", ERAS)
def test_the_inventory_is_that_of_the_tool(three: Fleet, era: str) -> None:
    data = read(three.served, "gpu://inventory", era)
    assert (data["mock"], data["device_count"]) == (True, 3)
    assert [gpu["uuid"] for gpu in data["gpus"]] == [three.board(index).uuid for index in range(3)]


@pytest.mark.parametrize("era", ERAS)
def test_the_health_of_a_gpu_is_read_by_its_uuid_in_any_case(three: Fleet, era: str) -> None:
    for uri in (health_uri(three, 1), f"gpu://{three.board(1).uuid.lower()}/health"):
        data = read(three.served, uri, era)
        assert (data["mock"], data["index"], data["state"]) == (True, 1, "healthy")
        assert data["readings"]["recovery_action"] == "none"


def test_a_uuid_of_no_gpu_and_a_beginning_of_one_are_unknown_resources(three: Fleet) -> None:
    for key in ("GPU-ffffffff", three.board(1).uuid[:12], three.board(1).mig_uuid(1)):
        with old_session(three.served) as session, pytest.raises(RefusedError, match="Unknown resource"):
            session.ask("resources/read", uri=f"gpu://{key}/health")
        with pytest.raises(RefusedError, match="Unknown resource"):
            ask_modern(three.served, "resources/read", uri=f"gpu://{key}/health")


def test_where_nobody_can_look_a_gpu_is_not_called_unknown(served: Served) -> None:
    with old_session(served) as session, pytest.raises(RefusedError) as refused:
        session.ask("resources/read", uri=f"gpu://{GPU_UUID}/health")
    assert refused.value.message.startswith("COULD NOT LOOK at the GPUs: no test asked for GPUs.")
    assert read(served, "gpu://inventory")["source"]["state"] == "off"


def test_reading_the_health_of_a_sick_gpu_does_not_touch_it(three: Fleet) -> None:
    read(three.served, "gpu://inventory")
    three.heard(1, 119)
    data = read(three.served, health_uri(three, 1))
    assert data["no_answer"]["trouble"] == "not_asked"
    assert data["state"] == "unhealthy"


def test_every_gpu_that_is_known_is_listed(three: Fleet) -> None:
    def uris() -> list[str]:
        listed = with_client(three.served, "legacy", lambda client: client.list_resources()).resources
        return [each.uri for each in listed]

    assert "gpu://inventory" in uris()
    assert health_uri(three, 0) not in uris()
    read(three.served, "gpu://inventory")
    assert [uri for uri in uris() if uri.endswith("/health")] == [health_uri(three, i) for i in range(3)]


@pytest.mark.parametrize("era", ERAS)
def test_gpus_that_are_expected_are_completed(three: Fleet, era: str) -> None:
    read(three.served, "gpu://inventory")
    asked: list[tuple[ResourceTemplateReference | PromptReference, str]] = [
        (ResourceTemplateReference(uri="gpu://{uuid}/health"), "uuid"),
        (PromptReference(name="gpu-health-check"), "gpu"),
    ]

    async def complete(client: Client) -> list[list[str]]:
        completed = [await client.complete(ref, {"name": name, "value": "gpu-A1"}) for ref, name in asked]
        return [each.completion.values for each in completed]

    assert with_client(three.served, era, complete) == [[three.board(1).uuid]] * 2


def test_a_subscriber_is_told_of_its_gpu_alone(three: Fleet) -> None:
    read(three.served, "gpu://inventory")
    listener = Listener(three.served, health_uri(three, 1))
    three.heard(0, 13)
    event = three.heard(1, 48, number=2)
    uri, meta = listener.update()
    listener.close()
    assert (uri, meta["xidwatch/event"]["id"]) == (health_uri(three, 1), event.id)


def test_what_changes_each_resource() -> None:
    inventory, health = Address(Place.INVENTORY), parse(f"gpu://{GPU_UUID}/health")
    assert health is not None
    fell_off, page_fault = xid(79), xid(31)
    loaded = replace(xid(), kind=Kind.DRIVER_LOADED, code=None, gpu=None)
    elsewhere = replace(xid(48), gpu=None)
    drill = replace(fell_off, drill=True)
    events = (fell_off, page_fault, loaded, elsewhere, drill)
    assert [inventory.is_concerned_by(event) for event in events] == [True, False, True, False, False]
    assert [health.is_concerned_by(event) for event in events] == [True, True, True, False, True]
    for address in (inventory, health):
        let_through = [event for event in events if address.is_concerned_by(event)]
        assert all(address.filter().matches(event) for event in let_through)
