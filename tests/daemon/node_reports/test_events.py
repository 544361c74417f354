"""Node Events: what the API server is sent, and what becomes of its answers."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.event import Event, Item, Kind, Severity
from daemon.node_reports.cluster import ApiServer, Cluster, in_cluster
from daemon.node_reports.events import TOLD, NodeEvents, event_name
from daemon.node_reports.wording import message, reason
from daemon.sinks.batch import Batch
from daemon.sinks.outcome import Fate, Outcome
from daemon.sinks.pace import Pace
from probes.errors import UserError
from tests.mcp_server.samples import GPU_UUID, revised, xid
from tests.support.certificates import Authority
from tests.support.fake_api_server import EVENTS, NODE, FakeApiServer, Refusal
from tests.support.waiting import DEADLINE_S

TIME_US = 1_795_346_406_994_671  # 2026-11-22T11:20:06.994671Z
FAULT = replace(xid(), id="ev_0123456789abcdef", time_us=TIME_US, last_time_us=TIME_US)


def send(api: FakeApiServer, *events: Event, timeout_s: float = 10.0) -> Outcome:
    """Each event in a delivery of its own; the outcome of the last."""

    async def main() -> Outcome:
        outlet = NodeEvents(ApiServer(api.cluster, agent="xidwatch/test", timeout_s=timeout_s), NODE)
        try:
            for event in events:
                outcome = await outlet.send(
                    Batch("node-events", NODE, TIME_US, [Item.of(1, event, stored=True)])
                )
            return outcome
        finally:
            await outlet.close()

    return asyncio.run(main())


def test_a_fault_becomes_an_event_of_the_node_as_kubectl_describe_looks_for_it(api: FakeApiServer) -> None:
    assert send(api, FAULT).is_delivered
    (request,) = api.requests
    assert (request.method, request.path) == ("POST", EVENTS)
    assert request.content_type == "application/json"
    assert request.authorization == "Bearer first-token"
    assert request.body == {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "gpu-17.0123456789abcdef", "namespace": "default"},
        "involvedObject": {"apiVersion": "v1", "kind": "Node", "name": NODE, "uid": NODE},
        "reason": "Xid79",
        "type": "Warning",
        "source": {"component": "xidwatch", "host": NODE},
        "reportingComponent": "xidwatch",
        "reportingInstance": NODE,
        "firstTimestamp": "2026-11-22T11:20:06Z",
        "lastTimestamp": "2026-11-22T11:20:06Z",
        "count": 1,
        "message": f"GPU no longer answers on PCIe on 0000:91:00.0 ({GPU_UUID}). "
        "Drain the node and reboot it. xidwatch event ev_0123456789abcdef",
    }


def test_repeats_change_the_one_event_that_there_is(api: FakeApiServer) -> None:
    again = replace(revised(FAULT, count=41), last_time_us=TIME_US + 5_000_000)
    assert send(api, FAULT, again).is_delivered
    assert [request.method for request in api.requests] == ["POST", "PATCH"]
    assert api.requests[1].content_type == "application/merge-patch+json"
    (event,) = api.events.values()
    assert (event["count"], event["lastTimestamp"]) == (41, "2026-11-22T11:20:11Z")
    assert event["firstTimestamp"] == "2026-11-22T11:20:06Z"


def test_an_event_that_is_told_again_after_a_restart_is_not_doubled(api: FakeApiServer) -> None:
    assert send(api, FAULT).is_delivered
    assert send(api, FAULT).is_delivered
    assert [request.method for request in api.requests] == ["POST", "POST", "PATCH"]
    assert len(api.events) == 1


def test_an_event_that_the_server_has_forgotten_is_made_anew(api: FakeApiServer) -> None:
    assert send(api, revised(FAULT, count=2)).is_delivered
    assert [request.method for request in api.requests] == ["PATCH", "POST"]
    assert next(iter(api.events.values()))["count"] == 2


def test_the_token_is_read_anew_when_kubelet_replaces_it(api: FakeApiServer) -> None:
    assert send(api, FAULT).is_delivered
    api.set_token("second-token")
    assert send(api, replace(FAULT, id="ev_ff")).is_delivered
    assert api.requests[-1].authorization == "Bearer second-token"


@pytest.mark.parametrize(
    ("status", "fate"),
    [
        (403, Fate.CLOSED),
        (401, Fate.CLOSED),
        (500, Fate.CLOSED),
        (429, Fate.AWAY),
        (503, Fate.AWAY),
        (422, Fate.REFUSED),
    ],
)
def test_a_refusal_is_told_with_the_servers_reason(api: FakeApiServer, status: int, fate: Fate) -> None:
    why = 'events is forbidden: User "system:serviceaccount:gpu:xidwatch" cannot create resource'
    api.refusals.append(Refusal(status, f"{why}\n\x1b[31m", {"retry-after": "7"}))
    outcome = send(api, FAULT)
    assert outcome.fate is fate
    assert outcome.said.startswith(str(status))
    assert why in outcome.said
    assert outcome.said.isprintable()
    assert outcome.retry_after_s == 7


def test_a_server_that_does_not_answer_is_given_up_after_the_deadline(api: FakeApiServer) -> None:
    api.answers.clear()
    outcome = send(api, FAULT, timeout_s=0.2)
    assert (outcome.fate, outcome.said) == (Fate.AWAY, "no answer within 0.2 s")


def test_a_server_that_is_not_there_is_away(api: FakeApiServer) -> None:
    cluster = replace(api.cluster, url="https://127.0.0.1:9")

    async def main() -> Outcome:
        outlet = NodeEvents(ApiServer(cluster, agent="xidwatch/test"), NODE)
        return await outlet.send(Batch("node-events", NODE, TIME_US, [Item.of(1, FAULT, stored=True)]))

    outcome = asyncio.run(main())
    assert outcome.fate is Fate.AWAY
    assert outcome.said


def test_a_server_with_another_certificate_never_sees_the_token(api: FakeApiServer) -> None:
    (api.folder / "ca.crt").write_bytes(Authority().pem)
    assert send(api, FAULT).fate is Fate.AWAY
    assert api.requests == []


def test_a_storm_of_faults_is_told_at_a_pace_that_spares_the_server(api: FakeApiServer) -> None:
    async def main() -> None:
        server = ApiServer(api.cluster, agent="xidwatch/test")
        outlet = NodeEvents(server, NODE, Pace(1))
        faults = [replace(FAULT, id=f"ev_{number}") for number in range(5)]
        items = [Item.of(at, fault, stored=True) for at, fault in enumerate(faults)]
        sending = asyncio.create_task(outlet.send(Batch("node-events", NODE, TIME_US, items)))
        async with asyncio.timeout(DEADLINE_S):
            while not api.events:
                await asyncio.sleep(0.005)
        await server.request("GET", "/somewhere")  # a whole request later
        assert len(api.events) == 1
        assert not sending.done()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await outlet.close()

    asyncio.run(main())


def test_only_what_is_critical_or_worse_is_told_and_no_drill_incident_or_error_of_a_program() -> None:
    nowhere = Cluster("https://127.0.0.1:9", Path("/none"), Path("/none"))
    memory = NodeEvents(ApiServer(nowhere, agent="xidwatch/test"), NODE).memory
    told = [FAULT, xid(48, severity=Severity.CRITICAL), replace(FAULT, kind=Kind.GAP, id="ev_gap")]
    untold = [
        xid(31, severity=Severity.WARNING),
        replace(FAULT, id="ev_drill", drill=True),
        replace(FAULT, id="inc_1", kind=Kind.INCIDENT),
        replace(FAULT, id="ev_op", kind=Kind.OPERATOR),
    ]
    items = [Item.of(at, event, stored=True) for at, event in enumerate([*told, *untold])]
    assert [item.event for item in memory.select(items, TOLD)] == told


def test_names_and_reasons_fit_kubernetes() -> None:
    assert len(event_name(FAULT, "n" * 253)) <= 253
    assert reason(replace(FAULT, kind=Kind.SXID, code=20034)) == "SXid20034"
    assert reason(replace(FAULT, kind=Kind.NVRM, code=None, name="RM_INIT_ADAPTER_FAILED")) == (
        "RmInitAdapterFailed"
    )
    assert reason(replace(FAULT, kind=Kind.GPU_LOST, code=None, name=None)) == "GpuLost"
    assert len(message(replace(FAULT, action_text="long " * 500))) <= 1024


def test_a_process_outside_a_cluster_says_so(api: FakeApiServer) -> None:
    with pytest.raises(UserError, match="does not run in a Kubernetes pod") as outside:
        in_cluster({}, api.folder)
    assert outside.value.hint is not None
    (api.folder / "token").unlink()
    with pytest.raises(UserError, match="no service account token") as without:
        in_cluster(api.environ, api.folder)
    assert "automountServiceAccountToken" in (without.value.hint or "")


def test_an_ipv6_service_is_addressed_in_brackets(api: FakeApiServer) -> None:
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    assert in_cluster(environ, api.folder).url == "https://[fd00::1]:443"
