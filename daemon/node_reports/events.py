"""An Event of the node for each fault: what `kubectl describe node` and `kubectl get events` show.

One object a fault, whose name follows from the fault's id. So a fault that is told again, because it
was repeated, because more was learned, or because the daemon was restarted in between, changes that
object (`count`, `lastTimestamp`, `message`) and never makes a second one. Only what is critical or
worse is told, and no drill.

The pace is kept here and not by the delivery, which would gather what waits and hand it over at once.
While one fault waits for its turn the stream goes on being compacted behind it.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from daemon.event import Event, Kind, Severity
from daemon.filter import EventFilter
from daemon.node_reports.cluster import MERGE_PATCH, ApiServer
from daemon.node_reports.wording import message, reason, timestamp
from daemon.sinks.batch import Batch
from daemon.sinks.news import Memory, News, Updates
from daemon.sinks.outcome import Fate, Outcome
from daemon.sinks.pace import Pace

NAME: Final = "node-events"
NAMESPACE: Final = "default"
"""Where the API server wants Events of objects that have no namespace."""
TOLD: Final = EventFilter(
    min_severity=Severity.CRITICAL,
    kinds=frozenset({Kind.XID, Kind.SXID, Kind.GPU_LOST, Kind.NVRM, Kind.GAP, Kind.OVERFLOW}),
)
FAULTS_A_MINUTE: Final = 30
"""Five at once, then one every two seconds: a thousand nodes with a storm each stay below what an API server
grants to one flow."""
_PATH: Final = f"/api/v1/namespaces/{NAMESPACE}/events"
_NODE_CHARS: Final = 220
"""Of the node's name in that of an Event, which may have 253."""


class NodeEvents:
    """An outlet of the sinks. Belongs to the event loop."""

    takes_many = False

    def __init__(self, server: ApiServer, node: str, pace: Pace | None = None) -> None:
        """`node`: the name of the node in the cluster."""
        self._server = server
        self._pace = pace or Pace(FAULTS_A_MINUTE)
        self._node = node
        self._memory = News(TOLD, Updates.ALL, drills=False)

    @property
    def memory(self) -> Memory:
        """Every revision is told: it changes the object."""
        return self._memory

    async def send(self, batch: Batch) -> Outcome:
        """Make or change the Event of each fault, when its turn has come."""
        outcome = Outcome(Fate.DELIVERED, "nothing to send")
        for item in batch.items:
            await asyncio.sleep(self._pace.wait_s(time.monotonic()))
            self._pace.take(time.monotonic())
            outcome = await self._put(item.event)
            if not outcome.is_delivered:
                break
        return outcome

    async def close(self) -> None:
        """Close the connection."""
        await self._server.close()

    async def _put(self, event: Event) -> Outcome:
        """Change the object where there is one: after the first revision there mostly is."""
        name = event_name(event, self._node)
        if event.revision > 1 or event.count > 1:
            changed = await self._server.request("PATCH", f"{_PATH}/{name}", changes(event), MERGE_PATCH)
            if changed.status != 404:  # the API server keeps Events for an hour
                return changed.outcome
        made = await self._server.request("POST", _PATH, node_event(event, self._node))
        if made.status != 409:
            return made.outcome
        return (await self._server.request("PATCH", f"{_PATH}/{name}", changes(event), MERGE_PATCH)).outcome


def event_name(event: Event, node: str) -> str:
    """The name of its object: the same for every revision, and in every run."""
    return f"{node[:_NODE_CHARS].rstrip('.-')}.{event.id.removeprefix('ev_')}"


def node_event(event: Event, node: str) -> dict[str, Any]:
    """The whole object, of core/v1. The node's name stands for its uid, as in kubelet's own Events: `kubectl
    describe node` looks for that."""
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": event_name(event, node), "namespace": NAMESPACE},
        "involvedObject": {"apiVersion": "v1", "kind": "Node", "name": node, "uid": node},
        "reason": reason(event),
        "type": "Warning",
        "source": {"component": "xidwatch", "host": node},
        "reportingComponent": "xidwatch",
        "reportingInstance": node,
        "firstTimestamp": timestamp(event.time_us),
        **changes(event),
    }


def changes(event: Event) -> dict[str, Any]:
    """What a later revision may change."""
    return {
        "message": message(event),
        "count": event.count,
        "lastTimestamp": timestamp(event.last_time_us),
    }
