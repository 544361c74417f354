"""`subscriptions/listen` of 2026-07-28, over real HTTP, frame by frame."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from mcp import Client

from daemon.event import Gpu
from daemon.page import Marks
from mcp_server import listen
from mcp_server.services import Transport
from tests.mcp_server.mcp_wire import SUBSCRIPTION_ID, Listener, RefusedError
from tests.mcp_server.samples import GPU_UUID, revised, xid
from tests.mcp_server.serving import Served
from tests.support.waiting import DEADLINE_S, wait_for

EVENTS = "xid://events"


def test_the_acknowledgement_names_what_exists_and_can_change(served: Served) -> None:
    newest = served.publish(xid())
    listener = Listener(
        served,
        EVENTS,
        "xid://events/ev_79_1",
        "xid://events/ev_none",
        "xid://catalog/79",
        "node://status",
        "x:y",
    )
    assert listener.acknowledged["notifications"] == {
        "resourceSubscriptions": [EVENTS, "xid://events/ev_79_1", "node://status"]
    }
    assert listener.acknowledged["_meta"] == {SUBSCRIPTION_ID: listener.id, "xidwatch/cursor": newest}
    listener.close()


def test_an_event_comes_with_the_update(served: Served) -> None:
    served.publish(xid(number=1))
    listener = Listener(served, EVENTS)
    served.publish(xid(number=2))
    uri, meta = listener.update()
    assert uri == EVENTS
    assert meta["xidwatch/event"] == served.get("/events.json").json["events"][-1]
    listener.close()


def test_every_resource_that_an_event_concerns_is_named(served: Served) -> None:
    first = xid(number=1)
    served.publish(first)
    other = replace(xid(number=2), gpu=None)
    uris = [EVENTS, f"gpu://{GPU_UUID}/events", f"xid://events/{first.id}"]
    listener = Listener(served, *uris)
    served.publish(other, revised(first, count=2))
    updates = [listener.update() for _ in range(4)]
    assert [(uri, meta["xidwatch/event"]["id"]) for uri, meta in updates] == [
        (EVENTS, other.id),
        *((uri, first.id) for uri in uris),
    ]
    listener.close()


def test_a_replay_loses_and_doubles_nothing_while_events_come(tmp_path: Path) -> None:
    with Served(state_dir=tmp_path) as served:
        for number in range(300):
            served.publish(xid(number=number))
        wait_for(
            lambda: len(served.get("/events.json?since=0&limit=1000").json["events"]) == 300, "the commits"
        )
        since = served.get("/events.json?since=0&limit=50").json["next_cursor"]

        def publish_on() -> None:
            for number in range(300, 600):
                served.publish(xid(number=number))

        publishing = threading.Thread(target=publish_on)
        publishing.start()
        listener = Listener(served, EVENTS, since=since)
        ids = [event["id"] for event in listener.events(550)]
        publishing.join()
        assert ids == [f"ev_79_{number}" for number in range(50, 600)]
        listener.close()


def test_a_replay_of_one_gpu_has_only_its_events(served: Served) -> None:
    mine = xid(number=1)
    served.publish(mine, *(replace(xid(number=number), gpu=None) for number in range(2, 200)))
    listener = Listener(served, f"gpu://{GPU_UUID}/events", since=0)
    assert [event["id"] for event in listener.events(1)] == [mine.id]
    served.publish(xid(number=200))
    assert [event["id"] for event in listener.events(1)] == ["ev_79_200"]
    listener.close()


def test_what_retention_deleted_is_told_for_every_resource(served: Served) -> None:
    served.publish(*(xid(number=number) for number in range(3)))
    served.stream.journal_reaches(Marks(0, 0, 1_000))
    uris = [EVENTS, f"gpu://{GPU_UUID}/events"]
    listener = Listener(served, *uris, since=500)
    told = [listener.update() for _ in range(2)]
    assert [uri for uri, _ in told] == uris
    assert [meta["xidwatch/missed"] for _, meta in told] == [{"first": 501, "last": 1_000}] * 2
    assert listener.update()[1]["xidwatch/event"]["id"] == "ev_79_0"
    listener.close()


@pytest.mark.parametrize("since", [10**15, -1, "1000", 1.5, True, [1]])
def test_a_cursor_that_makes_no_sense_is_refused(served: Served, since: object) -> None:
    served.publish(xid())
    with pytest.raises(RefusedError) as refused:
        Listener(served, EVENTS, since=since)
    assert refused.value.code == -32602


def test_too_many_resources_are_refused(served: Served) -> None:
    with pytest.raises(RefusedError, match="256 resources at most"):
        Listener(served, *(f"xid://events/ev_{number}" for number in range(257)))


def test_the_streams_of_one_client_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "MOST_STREAMS", 1)
    monkeypatch.setattr(listen, "STREAMS_ALWAYS", 1)
    with Served() as small:
        only = Listener(small, EVENTS)
        with pytest.raises(RefusedError, match="Too many listen streams"):
            Listener(small, EVENTS)
        only.close()
        wait_for(lambda: small.services.clients.counts()[Transport.MCP] == 0, "the stream to end")
        Listener(small, EVENTS).close()


def test_a_resource_is_listened_to_by_its_first_spelling(served: Served) -> None:
    served.gpus = (Gpu(pci="0000:91:00.0", uuid=GPU_UUID),)
    first = f"gpu://{GPU_UUID}/events"
    listener = Listener(served, first, f"gpu://{GPU_UUID.lower()}/events")
    assert listener.acknowledged["notifications"] == {"resourceSubscriptions": [first]}
    listener.close()


def test_a_stream_about_nothing_stays_open_and_silent(served: Served) -> None:
    listener = Listener(served)
    assert listener.acknowledged["notifications"] == {}
    served.publish(xid())
    served.stop()
    assert listener.next()["result"]["_meta"][SUBSCRIPTION_ID] == listener.id
    listener.close()


def test_the_end_of_the_daemon_ends_a_stream_with_its_result(served: Served) -> None:
    listener = Listener(served, EVENTS)
    served.publish(xid())
    listener.events(1)
    served.stop()
    last = listener.next()
    assert (last["id"], last["result"]["_meta"][SUBSCRIPTION_ID]) == (listener.id, listener.id)
    assert listener.next() == {}
    assert served.failure is None
    listener.close()


def test_a_client_that_leaves_leaves_nothing_behind(served: Served) -> None:
    async def count() -> int:
        return len(asyncio.all_tasks()) - 1

    def tasks() -> int:
        return asyncio.run_coroutine_threadsafe(count(), served.loop).result(DEADLINE_S)

    served.get("/healthz")
    before = tasks()
    listeners = [Listener(served, EVENTS) for _ in range(3)]
    for listener in listeners:
        listener.close()
    wait_for(lambda: tasks() == before, "the tasks of the streams to end")
    assert served.services.clients.counts()[Transport.MCP] == 0


def test_a_client_that_does_not_read_holds_up_nobody(served: Served) -> None:
    big = ("x" * 1000,) * 8
    deaf, healthy = Listener(served, EVENTS), Listener(served, EVENTS)
    for number in range(800):
        served.publish(replace(xid(number=number), lines=big))
    wanted = [f"ev_79_{number}" for number in range(800)]
    assert [event["id"] for event in healthy.events(800)] == wanted
    assert [event["id"] for event in deaf.events(800)] == wanted
    healthy.close()
    deaf.close()


def test_the_sdk_s_client_is_woken(served: Served) -> None:
    async def main() -> list[object]:
        async with asyncio.timeout(DEADLINE_S), Client(f"{served.url}/mcp", mode="2026-07-28") as client:
            async with client.listen(resource_subscriptions=[EVENTS]) as subscription:
                await asyncio.to_thread(served.publish, xid())
                async for event in subscription:
                    return [event]
            return []

    (event,) = asyncio.run(main())
    assert getattr(event, "uri", None) == EVENTS
