"""The node condition: when it says what, and how often it is written."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from daemon.event import Event, Item, Kind, Severity
from daemon.node_reports import condition as module
from daemon.node_reports.cluster import ApiServer
from daemon.node_reports.condition import TYPE, NodeCondition, Status, condition
from daemon.page import Page
from daemon.ring import Ring
from daemon.sinks.pace import Backoff
from daemon.stream import EventStream
from probes.errors import UserError
from tests.mcp_server.samples import xid
from tests.support.fake_api_server import NODE, FakeApiServer, Refusal
from tests.support.waiting import DEADLINE_S

NOW_US = 1_795_346_406_994_671  # 2026-11-22T11:20:06.994671Z
NOW = "2026-11-22T11:20:06Z"


def incident(state: str = "open", *, number: int = 1, severity: Severity = Severity.FATAL) -> Event:
    primary = {"id": "ev_1", "kind": "xid", "code": 79}
    detail = {"state": state, "primary": primary}
    return replace(
        xid(severity=severity), id=f"inc_{number}", kind=Kind.INCIDENT, detail=detail, time_us=NOW_US + number
    )


def test_a_fatal_incident_is_true_whatever_else_there_is() -> None:
    found = condition([incident(severity=Severity.WARNING), incident(number=2)], hears=False)
    assert (found.status, found.reason) == (Status.TRUE, "Xid79")
    assert "0000:91:00.0" in found.message
    several = condition([incident(number=1), incident(number=2)], hears=True)
    assert several.message.startswith("2 open incidents, the newest: ")


def test_a_node_that_nobody_hears_is_unknown_and_not_well() -> None:
    assert condition([], hears=False).status is Status.UNKNOWN


@pytest.mark.parametrize("severity", [Severity.CRITICAL, Severity.WARNING])
def test_what_is_not_fatal_leaves_the_node_usable(severity: Severity) -> None:
    assert condition([incident(severity=severity)], hears=True).status is Status.FALSE


class Scene:
    """A stream, and the condition that follows it."""

    def __init__(self, api: FakeApiServer) -> None:
        self.api = api
        self.hears = True
        self.stream = EventStream(Ring(64), first_cursor=1)
        self.server = ApiServer(api.cluster, agent="xidwatch/test")
        self.reports = NodeCondition(
            self.server,
            NODE,
            self.stream,
            hears=lambda: self.hears,
            wall_us=lambda: NOW_US,
            backoff=Backoff(random.Random(1)),
        )

    def publish(self, *events: Event) -> None:
        first = self.stream.newest + 1
        self.stream.publish([Item.of(at, event, stored=True) for at, event in enumerate(events, first)])

    def writes(self) -> list[str]:
        """The statuses that were sent, in order."""
        return [
            request.body["status"]["conditions"][0]["status"]
            for request in self.api.requests
            if request.method == "PATCH"
        ]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await asyncio.sleep(0.005)


@asynccontextmanager
async def running(scene: Scene) -> AsyncIterator[Scene]:
    task = asyncio.create_task(scene.reports.run())
    try:
        yield scene
    finally:
        scene.stream.close()
        async with asyncio.timeout(DEADLINE_S):
            await task
        await scene.server.close()


def test_it_follows_the_incident_from_the_fault_to_the_recovery(api: FakeApiServer) -> None:
    async def main() -> None:
        async with running(Scene(api)) as scene:
            await scene.until(lambda: scene.writes() == ["False"])
            scene.publish(xid(), incident())
            await scene.until(lambda: scene.writes() == ["False", "True"])
            scene.publish(incident("recovered"))
            await scene.until(lambda: scene.writes() == ["False", "True", "False"])
            await scene.until(lambda: scene.reports.health().delivered == 3)
            assert scene.reports.health().up

    asyncio.run(main())
    patch = next(request for request in api.requests if request.method == "PATCH")
    assert patch.path == f"/api/v1/nodes/{NODE}/status"
    assert patch.content_type == "application/strategic-merge-patch+json"
    assert patch.authorization == "Bearer first-token"
    assert patch.body == {
        "status": {
            "conditions": [
                {
                    "type": TYPE,
                    "status": "False",
                    "reason": "NoFatalError",
                    "message": "no fatal GPU fault is open on this node",
                    "lastHeartbeatTime": NOW,
                    "lastTransitionTime": NOW,
                }
            ]
        }
    }
    assert "Ready" in api.conditions


def test_an_incident_of_an_earlier_run_and_the_time_of_its_transition_outlive_a_restart(
    api: FakeApiServer,
) -> None:
    long_ago = "2026-11-20T00:00:00Z"
    api.conditions[TYPE] = {"type": TYPE, "status": "True", "lastTransitionTime": long_ago}

    async def main() -> None:
        scene = Scene(api)
        scene.publish(incident())
        async with running(scene):
            await scene.until(lambda: scene.writes() == ["True"])

    asyncio.run(main())
    assert api.conditions[TYPE]["lastTransitionTime"] == long_ago
    assert api.conditions[TYPE]["lastHeartbeatTime"] == NOW


def test_a_node_that_goes_deaf_becomes_unknown_and_false_again(api: FakeApiServer) -> None:
    probe = replace(xid(severity=Severity.WARNING), id="ev_probe", kind=Kind.PROBE, gpu=None)

    async def main() -> None:
        async with running(Scene(api)) as scene:
            await scene.until(lambda: scene.writes() == ["False"])
            scene.hears = False
            scene.publish(probe)
            await scene.until(lambda: scene.writes() == ["False", "Unknown"])
            scene.hears = True
            scene.publish(replace(probe, id="ev_up"))
            await scene.until(lambda: scene.writes() == ["False", "Unknown", "False"])

    asyncio.run(main())


def test_a_healthy_node_is_written_once_and_a_sick_one_shows_its_heartbeat(
    api: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_S", 0.01)

    async def main() -> None:
        async with running(Scene(api)) as scene:
            await scene.until(lambda: scene.writes() == ["False"])
            scene.publish(xid(31, severity=Severity.WARNING), incident(severity=Severity.WARNING))
            scene.publish(incident(number=2))
            await scene.until(lambda: scene.writes()[:4] == ["False", "True", "True", "True"])

    asyncio.run(main())


def test_a_refusal_is_told_and_tried_again_until_it_works(
    api: FakeApiServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.sinks.pace.FIRST_WAIT_S", 0.01)
    api.refuse = lambda request: Refusal(403, 'nodes "gpu-17" is forbidden')

    async def main() -> None:
        async with running(Scene(api)) as scene:
            await scene.until(lambda: scene.reports.health().failures >= 2)
            health = scene.reports.health()
            assert not health.up
            assert 'nodes "gpu-17" is forbidden' in (health.reason or "")
            assert health.hint is not None
            api.refuse = lambda request: None
            await scene.until(lambda: scene.writes() == ["False"])
            await scene.until(lambda: scene.reports.health().up)

    asyncio.run(main())
    told = [record for record in caplog.records if "cannot be written" in record.message]
    assert len(told) == 1


@pytest.mark.parametrize("status", [409, 500])
def test_a_write_that_fails_is_repeated_with_what_is_wanted_then(
    api: FakeApiServer, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr("daemon.sinks.pace.FIRST_WAIT_S", 0.01)
    refused: list[str] = []

    def refuse(request: object) -> Refusal | None:
        if getattr(request, "method", "") == "PATCH" and len(refused) < 2:
            refused.append("once more")
            return Refusal(status)
        return None

    api.refuse = refuse

    async def main() -> None:
        async with running(Scene(api)) as scene:
            await scene.until(lambda: TYPE in api.conditions)
            assert scene.reports.health().failures == 2

    asyncio.run(main())
    assert api.conditions[TYPE]["status"] == "False"


def test_a_fatal_incident_that_was_only_given_up_is_no_recovery(api: FakeApiServer) -> None:
    given_up = replace(
        incident("closed"), detail={"state": "closed", "recovered_by": {"how": "not_heard_again"}}
    )
    loaded = replace(xid(severity=Severity.INFO), id="ev_load", kind=Kind.DRIVER_LOADED, gpu=None)

    async def main() -> None:
        async with running(Scene(api)) as scene:
            scene.publish(incident())
            await scene.until(lambda: scene.writes()[-1:] == ["True"])
            scene.publish(given_up)
            await scene.until(lambda: scene.writes()[-1:] == ["Unknown"])
            scene.publish(loaded)
            await scene.until(lambda: scene.writes()[-1:] == ["False"])

    asyncio.run(main())


def test_a_journal_that_cannot_be_read_is_no_healthy_node(
    api: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_S", 0.01)
    readable: list[bool] = []
    page = EventStream.page

    async def unreadable(self: EventStream, *given: Any) -> Page:
        if not readable:
            raise UserError("the disk is gone")
        return await page(self, *given)

    monkeypatch.setattr(EventStream, "page", unreadable)

    async def main() -> None:
        scene = Scene(api)
        scene.publish(incident())
        async with running(scene):
            await scene.until(lambda: scene.writes()[:1] == ["Unknown"])
            readable.append(True)
            await scene.until(lambda: scene.writes()[-1:] == ["True"])

    asyncio.run(main())
