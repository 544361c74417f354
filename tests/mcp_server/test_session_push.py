"""What is pushed to sessions of the 2025 eras, over real HTTP."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import replace
from pathlib import Path

import pytest
from mcp import Client
from mcp_types import LoggingMessageNotificationParams

from daemon.event import Gpu, Kind, Severity
from mcp_server.services import Transport
from mcp_server.sessions import MOST_SUBSCRIPTIONS, Wishes
from tests.mcp_server.mcp_wire import OldSession, RefusedError, old_session
from tests.mcp_server.samples import GPU_UUID, revised, xid
from tests.mcp_server.serving import Served
from tests.support.waiting import DEADLINE_S, wait_for

MESSAGE, UPDATED = "notifications/message", "notifications/resources/updated"
WARNING = Severity.WARNING


def tasks(served: Served) -> int:
    """Tasks of the server's event loop, without the one that counts."""

    async def count() -> int:
        return len(asyncio.all_tasks()) - 1

    return asyncio.run_coroutine_threadsafe(count(), served.loop).result(DEADLINE_S)


def remembered() -> int:
    """Sessions of which anything is remembered."""
    gc.collect()
    return sum(isinstance(each, Wishes) for each in gc.get_objects())


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
def test_every_event_comes_as_a_log_message_with_the_event_as_data(served: Served, version: str) -> None:
    with old_session(served, version) as session:
        cursor = served.publish(xid())
        pushed = session.pushed()
        assert pushed["method"] == MESSAGE
        assert pushed["params"]["level"] == "critical"
        assert pushed["params"]["logger"] == "xidwatch"
        assert pushed["params"]["data"] == served.get("/events.json").json["events"][0]
        assert pushed["params"]["data"]["cursor"] == cursor


@pytest.mark.parametrize(
    ("severity", "level"),
    [("fatal", "critical"), ("critical", "error"), ("warning", "warning"), ("info", "info")],
)
def test_the_level_of_a_message_follows_the_severity(served: Served, severity: str, level: str) -> None:
    with old_session(served) as session:
        served.publish(xid(severity=Severity(severity)))
        assert session.pushed()["params"]["level"] == level


def test_what_came_before_the_session_is_not_pushed(served: Served) -> None:
    served.publish(xid(number=1))
    with old_session(served) as session:
        served.publish(xid(number=2))
        assert session.pushed()["params"]["data"]["id"] == "ev_79_2"


def test_two_sessions_have_levels_of_their_own(served: Served) -> None:
    with old_session(served) as calm, old_session(served) as curious:
        assert calm.ask("logging/setLevel", level="error") == {}
        served.publish(xid(13, severity=WARNING), xid(79))
        assert calm.pushed()["params"]["data"]["code"] == 79
        assert [curious.pushed()["params"]["data"]["code"] for _ in range(2)] == [13, 79]


def test_a_level_set_before_the_handshake_ends_counts(served: Served) -> None:
    session = OldSession(served, ready=False)
    session.ask("logging/setLevel", level="critical")
    session.get_ready()
    served.publish(xid(13, severity=WARNING), xid(79))
    assert session.pushed()["params"]["data"]["code"] == 79
    session.hang_up()


def test_an_unknown_level_is_refused(served: Served) -> None:
    with old_session(served) as session, pytest.raises(RefusedError) as refused:
        session.ask("logging/setLevel", level="shouting")
    assert refused.value.code == -32602


def test_a_subscriber_is_told_of_what_concerns_the_resource(served: Served) -> None:
    served.publish(first := xid(number=1))
    other = replace(xid(number=2), gpu=Gpu("0000:17:00.0", uuid="GPU-other"))
    with old_session(served) as session:
        session.ask("logging/setLevel", level="emergency")
        uris = [f"xid://events/{first.id}", f"gpu://{GPU_UUID}/events", "node://status"]
        for uri in uris:
            assert session.ask("resources/subscribe", uri=uri) == {}
        probe = replace(xid(number=3), kind=Kind.PROBE, gpu=None)
        served.publish(other, revised(first, count=2), probe)
        told = [session.pushed() for _ in range(3)]
    assert {each["method"] for each in told} == {UPDATED}
    assert [each["params"]["uri"] for each in told] == uris
    assert told[0]["params"]["_meta"]["xidwatch/event"]["count"] == 2
    assert told[2]["params"]["_meta"]["xidwatch/event"]["kind"] == "probe"


def test_a_uri_is_echoed_as_the_client_wrote_it(served: Served) -> None:
    served.publish(xid(number=1))
    lower = f"gpu://{GPU_UUID.lower()}/events"
    with old_session(served) as session:
        session.ask("resources/subscribe", uri=lower)
        served.publish(xid(number=2))
        session.pushed()
        assert session.pushed()["params"]["uri"] == lower


def test_a_resource_is_subscribed_by_one_spelling(served: Served) -> None:
    served.gpus = (Gpu(pci="0000:91:00.0", uuid=GPU_UUID),)
    with old_session(served) as session:
        session.ask("resources/subscribe", uri=f"gpu://{GPU_UUID}/events")
        session.ask("resources/subscribe", uri=f"gpu://{GPU_UUID}/events")
        with pytest.raises(RefusedError, match="has subscribed to this resource"):
            session.ask("resources/subscribe", uri=f"gpu://{GPU_UUID.lower()}/events")


def test_unsubscribing_stops_the_updates(served: Served) -> None:
    with old_session(served) as session:
        session.ask("resources/subscribe", uri="xid://events")
        served.publish(xid(number=1))
        assert [session.pushed()["method"] for _ in range(2)] == [MESSAGE, UPDATED]
        session.ask("resources/unsubscribe", uri="xid://events")
        served.publish(xid(number=2), xid(number=3))
        assert [session.pushed()["method"] for _ in range(2)] == [MESSAGE, MESSAGE]


def test_one_session_s_subscription_is_not_another_s(served: Served) -> None:
    with old_session(served) as one, old_session(served) as other:
        one.ask("resources/subscribe", uri="xid://events")
        served.publish(xid(number=1), xid(number=2))
        assert [one.pushed()["method"] for _ in range(4)] == [MESSAGE, UPDATED] * 2
        assert [other.pushed()["method"] for _ in range(2)] == [MESSAGE, MESSAGE]


@pytest.mark.parametrize(
    "uri",
    [
        "xid://events/ev_unknown",
        "gpu://GPU-unknown/events",
        "xid://incidents/inc_unknown",
        "file:///etc/passwd",
        "",
    ],
)
def test_what_does_not_exist_cannot_be_subscribed_to(served: Served, uri: str) -> None:
    with old_session(served) as session, pytest.raises(RefusedError) as refused:
        session.ask("resources/subscribe", uri=uri)
    assert (refused.value.code, refused.value.message[:16]) == (-32002, "Unknown resource")


def test_what_never_changes_cannot_be_subscribed_to(served: Served) -> None:
    with old_session(served) as session, pytest.raises(RefusedError, match="never changes"):
        session.ask("resources/subscribe", uri="xid://catalog/79")


def test_a_session_has_a_bounded_number_of_subscriptions(served: Served) -> None:
    served.publish(*(xid(number=number) for number in range(MOST_SUBSCRIPTIONS + 1)))
    with old_session(served) as session:
        for number in range(MOST_SUBSCRIPTIONS):
            session.ask("resources/subscribe", uri=f"xid://events/ev_79_{number}")
        session.ask("resources/subscribe", uri="xid://events/ev_79_0")
        with pytest.raises(RefusedError, match="256 resources at most"):
            session.ask("resources/subscribe", uri=f"xid://events/ev_79_{MOST_SUBSCRIPTIONS}")


def test_a_second_handshake_and_a_second_notification_change_nothing(served: Served) -> None:
    with old_session(served) as session:
        hello = {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "x", "version": "1"},
        }
        with pytest.raises(RefusedError, match="already been initialized"):
            session.ask("initialize", **hello)
        session.notify("notifications/initialized")
        session.ask("ping")
        served.publish(xid(number=1), xid(number=2))
        assert [session.pushed()["params"]["data"]["id"] for _ in range(2)] == ["ev_79_1", "ev_79_2"]


def test_a_client_that_does_not_read_holds_up_nobody(served: Served) -> None:
    big = tuple(f"NVRM: {'x' * 1000} {number}" for number in range(8))
    with old_session(served) as deaf, old_session(served) as healthy:
        before = served.publish(xid(number=0))
        for number in range(1, 800):
            served.publish(replace(xid(number=number), lines=big))
        heard = [healthy.pushed()["params"]["data"]["cursor"] for _ in range(800)]
        assert heard == [*range(before, before + 800)]
        assert deaf.pushed()["params"]["data"]["cursor"] == before


def test_a_session_that_ends_leaves_nothing_behind(served: Served) -> None:
    served.get("/healthz")
    before = tasks(served)
    sessions = [OldSession(served) for _ in range(3)]
    for session in sessions:
        session.ask("resources/subscribe", uri="xid://events")
        session.end()
    wait_for(lambda: tasks(served) == before, "the tasks of the sessions to end")
    wait_for(lambda: served.services.clients.counts()[Transport.MCP] == 0, "the clients to be gone")
    wait_for(lambda: remembered() == 0, "what the sessions asked for to be forgotten")


def test_the_end_of_the_daemon_ends_every_push(served: Served) -> None:
    with old_session(served) as session:
        served.stop()
        assert session.pushed() == {}
    assert served.failure is None


def test_a_session_far_behind_is_served_from_the_journal(tmp_path: Path) -> None:
    with Served(state_dir=tmp_path) as served, old_session(served) as session:
        big = ("x" * 1000,) * 8
        for number in range(600):
            served.publish(replace(xid(number=number), lines=big))
        ids = [session.pushed()["params"]["data"]["id"] for _ in range(600)]
    assert ids == [f"ev_79_{number}" for number in range(600)]


def test_the_sdk_s_client_hears_what_is_pushed(served: Served) -> None:
    heard: list[LoggingMessageNotificationParams] = []

    async def on_message(params: LoggingMessageNotificationParams) -> None:
        heard.append(params)

    async def main() -> None:
        client = Client(f"{served.url}/mcp", mode="legacy", logging_callback=on_message)
        async with asyncio.timeout(DEADLINE_S), client:
            number = 0
            while not heard:  # the client's GET stream opens after its handshake
                number += 1
                await asyncio.to_thread(served.publish, xid(number=number))
                await asyncio.sleep(0.01)

    asyncio.run(main())
    assert heard[0].data["code"] == 79
