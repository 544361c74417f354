"""The condition `GPUFatalError` in the status of the node: for schedulers, and for whoever drains nodes.

* `True` while an incident with a fatal fault is open; the reason names its code (`Xid79`). It goes back
  only when the incident has ended: the driver said so, it was loaded anew, or a reboot stayed quiet.
* `Unknown` while nobody can say that nothing is wrong: no live source of kernel messages hears, the
  journal could not be read, or a fatal incident was closed without a sign of recovery (nothing was heard of
  it for long). Such a one ends when its GPU recovers from a later one, or the driver is loaded.
* `False` otherwise.

It is written when it changes. While it is not `False` it is written again every five minutes, so that
its heartbeat shows that it is still meant; a healthy node costs one write at start and none after. What
the server holds is read first: a restart does not look like a transition.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from daemon.event import Event, Kind, Severity
from daemon.filter import EventFilter
from daemon.node_reports.cluster import STRATEGIC_PATCH, ApiServer
from daemon.node_reports.wording import MOST_CHARS, message, reason, timestamp
from daemon.open_incidents import OpenIncidents
from daemon.outlet import OutletHealth
from daemon.page import MAX_LIMIT
from daemon.sinks.outcome import Outcome
from daemon.sinks.pace import Backoff
from daemon.stream import EventStream
from daemon.text import clean
from probes.errors import UserError

TYPE: Final = "GPUFatalError"
NAME: Final = "node-condition"
HEARTBEAT_S: Final = 300.0
"""As often as the node problem detector writes its conditions."""
_NEWS: Final = EventFilter(kinds=frozenset({Kind.INCIDENT, Kind.PROBE, Kind.DRIVER_LOADED}))

_log = logging.getLogger(__name__)


class Status(StrEnum):
    """Of a condition, as Kubernetes spells it."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class Condition:
    """What the node's status is to say."""

    status: Status
    reason: str
    message: str


def condition(
    incidents: Iterable[Event], given_up: Iterable[Event] = (), *, hears: bool, unread: str | None = None
) -> Condition:
    """The condition for these open incidents. `given_up`: those that were closed without a sign of
    recovery. `hears`: a live source of kernel messages does. `unread`: why incidents may be missing."""
    fatal = [event for event in incidents if event.severity is Severity.FATAL]
    if fatal:
        newest = max(fatal, key=lambda event: event.time_us)
        others = f"{len(fatal)} open incidents, the newest: " if len(fatal) > 1 else ""
        return Condition(Status.TRUE, reason(newest), f"{others}{message(newest)}")
    if not hears:
        why = "xidwatch hears no kernel messages on this node: nobody can say that its GPUs are well"
        return Condition(Status.UNKNOWN, "NotHearing", why)
    if unread is not None:
        why = f"the incidents of this node cannot be read: {clean(unread, 512)}"
        return Condition(Status.UNKNOWN, "JournalUnreadable", why)
    if unproved := [event for event in given_up if event.severity is Severity.FATAL]:
        why = "nothing was heard of it for long, and nothing says that the GPU recovered"
        return Condition(Status.UNKNOWN, "RecoveryUnknown", f"{why}: {message(unproved[-1])}"[:MOST_CHARS])
    return Condition(Status.FALSE, "NoFatalError", "no fatal GPU fault is open on this node")


class NodeCondition:
    """Keeps the condition. Belongs to the event loop."""

    def __init__(
        self,
        server: ApiServer,
        node: str,
        stream: EventStream,
        *,
        hears: Callable[[], bool],
        wall_us: Callable[[], int],
        backoff: Backoff | None = None,
    ) -> None:
        self._server = server
        self._path = f"/api/v1/nodes/{node}"
        self._stream = stream
        self._hears = hears
        self._wall_us = wall_us
        self._backoff = backoff or Backoff()
        self._incidents = OpenIncidents()
        self._written: Condition | None = None
        self._status: str | None = None
        self._since = ""
        self._next_s: float | None = 0.0
        """When to write although nothing changed, on the loop's clock; None: not at all."""
        self._unread: str | None = None
        self._trouble: str | None = None
        self._delivered = 0
        self._failures = 0

    def health(self) -> OutletHealth:
        """How it is doing."""
        hint = "see docs/observability.md for the rights that its service account needs"
        return OutletHealth(
            NAME,
            up=self._trouble is None,
            reason=self._trouble,
            hint=None if self._trouble is None else hint,
            delivered=self._delivered,
            failures=self._failures,
        )

    async def run(self) -> None:
        """Keep it until the stream closes."""
        cursor = await self._learn()
        while not self._stream.closed:
            await self._write_if_due()
            try:
                async with asyncio.timeout_at(self._next_s):
                    await self._stream.wait_beyond(cursor)
            except TimeoutError:
                if self._unread is not None:
                    cursor = await self._learn()
                continue
            cursor = await self._take(cursor)

    async def _learn(self) -> int:
        """Take what was kept, and return up to where. It is tried again with the heartbeat."""
        cursor = self._stream.newest
        try:
            await self._incidents.learn(self._stream)
        except UserError as error:
            self._could_not_read(error)
        else:
            self._unread = None
        return cursor

    def _could_not_read(self, error: UserError) -> None:
        if self._unread is None and not self._stream.closed:
            _log.warning("the node condition is unknown: %s", error.message)
        self._unread = error.message

    async def _take(self, cursor: int) -> int:
        try:
            page = await self._stream.page(cursor, MAX_LIMIT, _NEWS)
        except UserError as error:
            self._could_not_read(error)
            return self._stream.newest
        self._incidents.take(item.event for item in page.items)
        return page.next_cursor

    async def _write_if_due(self) -> None:
        now_s = asyncio.get_running_loop().time()
        wanted = condition(
            self._incidents, self._incidents.given_up, hears=self._hears(), unread=self._unread
        )
        is_due = self._next_s is not None and now_s >= self._next_s
        # After a failure only time helps: a storm of incidents must not become one of requests.
        if not is_due and (wanted == self._written or self._trouble is not None):
            return
        outcome = await self._write(wanted)
        now_s = asyncio.get_running_loop().time()
        if outcome.is_delivered:
            self._told(wanted, now_s)
        else:
            self._failed(outcome, now_s)

    def _told(self, wanted: Condition, now_s: float) -> None:
        if self._trouble is not None:
            _log.info("the node condition is written again")
        self._written, self._trouble = wanted, None
        self._delivered += 1
        self._backoff.reset()
        self._next_s = None if wanted.status is Status.FALSE else now_s + HEARTBEAT_S

    def _failed(self, outcome: Outcome, now_s: float) -> None:
        trouble = f"the condition of the node cannot be written: {outcome.said}"
        if trouble != self._trouble:
            _log.warning("%s", trouble)
        self._trouble = trouble
        self._failures += 1
        self._next_s = now_s + self._backoff.next_wait_s(outcome.retry_after_s)

    async def _write(self, wanted: Condition) -> Outcome:
        now = timestamp(self._wall_us())
        if self._status is None:
            answer = await self._server.request("GET", self._path)
            if not answer.outcome.is_delivered:
                return answer.outcome
            self._status, self._since = _held(answer.body) or ("", now)
        since = self._since if wanted.status == self._status else now
        entry = {
            "type": TYPE,
            "status": wanted.status.value,
            "reason": wanted.reason,
            "message": wanted.message,
            "lastHeartbeatTime": now,
            "lastTransitionTime": since,
        }
        body = {"status": {"conditions": [entry]}}
        outcome = (await self._server.request("PATCH", f"{self._path}/status", body, STRATEGIC_PATCH)).outcome
        if outcome.is_delivered:
            self._status, self._since = wanted.status.value, since
        return outcome


def _held(node: Mapping[str, Any]) -> tuple[str, str] | None:
    """Status and last transition of the condition in a Node object; None where it has none."""
    status = node.get("status")
    conditions = status.get("conditions") if isinstance(status, dict) else None
    for entry in conditions if isinstance(conditions, list) else ():
        if isinstance(entry, dict) and entry.get("type") == TYPE:
            return str(entry.get("status")), str(entry.get("lastTransitionTime"))
    return None
