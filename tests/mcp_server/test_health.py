"""/healthz, /readyz, /version."""

from __future__ import annotations

from dataclasses import replace

from probes.health import ProbeHealth
from tests.mcp_server.serving import HEARING, Served

DEAF = ProbeHealth(
    "kmsg", hears=False, live=True, reason="no permission", hint="grant CAP_SYSLOG", cause="refused"
)


def test_it_is_ready_while_one_live_source_hears_and_says_which_do_not(served: Served) -> None:
    served.health = (DEAF, replace(HEARING, name="bpf"))
    reply = served.get("/readyz")
    assert (reply.status, reply.json["ready"]) == (200, True)
    assert reply.json["probes"][0] == {
        "name": "kmsg",
        "hears": False,
        "live": True,
        "state": "down",
        "cause": "refused",
        "reason": "no permission",
        "hint": "grant CAP_SYSLOG",
    }


def test_it_is_not_ready_when_no_live_source_hears_and_still_alive(served: Served) -> None:
    served.health = (DEAF, ProbeHealth("replay", hears=True, live=False))
    assert served.get("/readyz").status == 503
    assert served.get("/healthz").status == 200


def test_it_is_not_ready_without_any_source(served: Served) -> None:
    served.health = ()
    assert (served.get("/readyz").status, served.get("/readyz").json["probes"]) == (503, [])


def test_version_says_what_it_is_and_speaks(served: Served) -> None:
    version = served.get("/version").json
    assert (version["name"], version["version"], version["event_schema"]) == ("xidwatch", "0.0.test", 1)
    assert {"2025-11-25", "2026-07-28"} <= set(version["mcp_protocols"])
