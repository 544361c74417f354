"""What the process tells others by itself, beside the sinks of `--on-event`: Kubernetes and OpenTelemetry.

Events leave through deliveries of the sinks: each with a cursor of its own in `STATE_DIR/outlets`, its
pace and its retries. A place that cannot be reported to, because there is no cluster, is said and is
no reason not to start; a package that is missing is the user's to install.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Final

from daemon.config import Config
from daemon.filter import EVERYTHING, EventFilter
from daemon.node_reports.kinds import NodeReport
from daemon.otlp.target import OtlpTarget, target
from daemon.outlet import OutletHealth
from daemon.sinks.batch import Node
from daemon.thread import DiskThread
from probes.errors import UserError
from probes.health import Check, Verdict
from xidwatch.alarms import unreachable
from xidwatch.version import VERSION

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from starlette.types import ASGIApp

    from daemon.node_reports.cluster import Cluster
    from daemon.sinks.courier import Courier
    from daemon.sinks.delivery import Delivery
    from daemon.stream import EventStream
    from probes.kernel import Clock

FOLDER: Final = "outlets"
DELIVERIES_A_MINUTE: Final = 120
"""An export carries many events; Kubernetes has a slower pace of its own."""
_UNTRACED: Final = (r"/(healthz|readyz|metrics|events|sse)(\?|$)",)
CLOSE_S: Final = 2.0
"""How long the end of the process waits for the cursors to be saved."""

_NAMES: Final = {NodeReport.EVENTS: "node-events", NodeReport.CONDITIONS: "node-condition"}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the settings ask for, found to be possible here."""

    otlp: OtlpTarget | None = None
    reports: frozenset[NodeReport] = frozenset()
    cluster: Cluster | None = None
    """Where reports go; None where there is nowhere."""
    no_cluster: UserError | None = None
    """Why there is nowhere, although reports were asked for."""


def configured(config: Config, environ: Mapping[str, str] = os.environ) -> Asked:
    """What these settings ask for. Raises UserError for a part that is not installed."""
    otlp = None
    if config.otlp_endpoint is not None:
        otlp = target(config.otlp_endpoint, node=config.node_name, version=VERSION, environ=environ)
    if not config.node_reports:
        return Asked(otlp)
    from daemon.node_reports.cluster import in_cluster

    try:
        return Asked(otlp, config.node_reports, in_cluster(environ))
    except UserError as error:
        log.warning("Kubernetes is told nothing of this node: %s (%s)", error.message, error.hint)
        return Asked(otlp, config.node_reports, no_cluster=error)


def checks(config: Config, environ: Mapping[str, str] = os.environ) -> Sequence[Check]:
    """Whether the receivers of `--otlp-endpoint` and `--node-reports` can be reached; nothing is sent."""
    return [_check_otlp(config, environ), _check_reports(config, environ)]


def _check_otlp(config: Config, environ: Mapping[str, str]) -> Check:
    name = "otlp"
    if config.otlp_endpoint is None:
        return Check(name, Verdict.OFF, "no endpoint: nothing is told to OpenTelemetry")
    try:
        where = target(config.otlp_endpoint, node=config.node_name, version=VERSION, environ=environ)
    except UserError as error:
        return Check(name, Verdict.FAIL, error.message, error.hint)
    if why := unreachable(where.endpoint):
        hint = "logs wait in the journal until it is back; OTLP over HTTP mostly listens on port 4318"
        return Check(name, Verdict.WARN, f"{where.shown}: {why}", hint)
    return Check(name, Verdict.OK, f"{where.shown} can be reached")


def _check_reports(config: Config, environ: Mapping[str, str]) -> Check:
    name, reports = "node_reports", ", ".join(sorted(config.node_reports))
    if not reports:
        return Check(name, Verdict.OFF, "Kubernetes is told nothing of this node")
    from daemon.node_reports.cluster import in_cluster

    try:
        cluster = in_cluster(environ)
    except UserError as error:
        return Check(name, Verdict.WARN, f"{reports}: {error.message}", error.hint)
    if why := unreachable(cluster.url):
        hint = "see whether a NetworkPolicy lets the pod reach the API server"
        return Check(name, Verdict.WARN, f"{reports}: {why}", hint)
    return Check(name, Verdict.OK, f"{reports}: {cluster.url} can be reached, and the pod has a token")


class OutletType(StrEnum):
    """What an outlet speaks."""

    OTLP = "otlp"
    KUBERNETES = "kubernetes"


@dataclass(frozen=True, slots=True)
class _Terms:
    """Those of `daemon.sinks.delivery`."""

    name: str
    type: OutletType
    shown_target: str
    per_minute: int
    match: EventFilter = EVERYTHING


class Outlets:
    """All of them. Belongs to the event loop it was made in."""

    def __init__(
        self, asked: Asked, config: Config, stream: EventStream, clock: Clock, *, hears: Callable[[], bool]
    ) -> None:
        """Made before the first record is read, so that none is missed."""
        self._asked = asked
        self._stream = stream
        self._folder = config.state_dir / FOLDER
        self._node = Node(config.node_name, clock.wall_us)
        self._disk: DiskThread | None = None
        self._health: list[Callable[[], OutletHealth]] = []
        self._loops: list[tuple[str, Callable[[], Coroutine[None, None, None]]]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._broken: set[str] = set()
        self._closing = contextlib.AsyncExitStack()
        self._provider: TracerProvider | None = None
        if asked.otlp is not None:
            self._add_otlp_logs(asked.otlp)
            self._add_traces(asked.otlp, clock)
        if asked.cluster is not None:
            self._add_reports(asked.cluster, hears)

    def traced(self, app: ASGIApp) -> ASGIApp:
        """The application with a span for each request, where traces were asked for. Streams have none: a
        span that lasts for days tells nothing."""
        if self._provider is None:
            return app
        from starlette.middleware.opentelemetry import OpenTelemetryMiddleware

        return OpenTelemetryMiddleware(app, excluded_urls=_UNTRACED, tracer_provider=self._provider)

    def start(self) -> None:
        """Begin; once it is known whether the kernel is heard."""
        self._forget_others({name for name, _ in self._loops})
        for name, loop in self._loops:
            task = asyncio.create_task(loop(), name=name)
            task.add_done_callback(self._note_end)
            self._tasks.append(task)

    def health(self) -> Sequence[OutletHealth]:
        """How each of them is doing."""
        unheard = self._asked.no_cluster
        nowhere = [
            OutletHealth(_NAMES[report], up=False, reason=unheard.message, hint=unheard.hint)
            for report in sorted(self._asked.reports)
            if unheard is not None
        ]
        found = (each() for each in self._health)
        why = "it was stopped by an error of its own, see the log"
        return [
            *(replace(each, up=False, reason=why) if each.name in self._broken else each for each in found),
            *nowhere,
        ]

    async def close(self) -> None:
        """End them and save where they are; what is under way is sent again next time."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._closing.aclose()
        if self._disk is not None:
            self._disk.close()

    def _forget_others(self, names: Collection[str]) -> None:
        from daemon.sinks.cursor import forget_others

        disk = self._disk or DiskThread("outlets")
        disk.submit(partial(forget_others, self._folder, names))
        if self._disk is None:  # nothing else is kept there
            disk.close()

    def _note_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._broken.add(task.get_name())
            log.error("%s has failed", task.get_name(), exc_info=error)

    def _add_otlp_logs(self, where: OtlpTarget) -> None:
        from daemon.otlp.logs import NAME, OtlpLogs

        logs = OtlpLogs(where, version=VERSION)
        delivery = self._add(logs, _Terms(NAME, OutletType.OTLP, where.shown, DELIVERIES_A_MINUTE))

        def health() -> OutletHealth:
            found = delivery.health.as_outlet()
            return replace(found, name=NAME, dropped=found.dropped + logs.rejected)

        self._health.append(health)

    def _add_traces(self, where: OtlpTarget, clock: Clock) -> None:
        from opentelemetry import trace

        from daemon.otlp.traces import NAME, Traces

        traces = Traces(where, self._stream, version=VERSION, wall_us=clock.wall_us)
        trace.set_tracer_provider(traces.provider)
        self._provider = traces.provider
        self._health.append(traces.health)
        self._loops.append((NAME, traces.run))
        self._closing.push_async_callback(traces.close)

    def _add_reports(self, cluster: Cluster, hears: Callable[[], bool]) -> None:
        from daemon.node_reports import events
        from daemon.node_reports.cluster import ApiServer
        from daemon.node_reports.condition import NAME, NodeCondition

        agent = f"xidwatch/{VERSION}"
        if NodeReport.EVENTS in self._asked.reports:
            courier = events.NodeEvents(ApiServer(cluster, agent=agent), self._node.name)
            terms = _Terms(events.NAME, OutletType.KUBERNETES, cluster.url, DELIVERIES_A_MINUTE, events.TOLD)
            delivery = self._add(courier, terms)
            self._health.append(lambda: replace(delivery.health.as_outlet(), name=events.NAME))
        if NodeReport.CONDITIONS in self._asked.reports:
            server = ApiServer(cluster, agent=agent)
            condition = NodeCondition(
                server, self._node.name, self._stream, hears=hears, wall_us=self._node.wall_us
            )
            self._closing.push_async_callback(server.close)
            self._health.append(condition.health)
            self._loops.append((NAME, condition.run))

    def _add(self, courier: Courier, terms: _Terms) -> Delivery:
        from daemon.sinks.cursor import CursorFile
        from daemon.sinks.delivery import Delivery

        disk = self._disk = self._disk or DiskThread("outlets")
        file = CursorFile(self._folder / f"{terms.name}.json", disk)
        delivery = Delivery(terms, courier, self._stream, file, node=self._node)

        async def save() -> None:
            if delivery.has_begun:
                file.save(delivery.position)
            await file.settled(CLOSE_S)
            file.close()

        self._loops.append((terms.name, delivery.serve))
        self._closing.push_async_callback(save)
        self._closing.push_async_callback(courier.close)
        return delivery


@asynccontextmanager
async def at_work(
    asked: Asked, config: Config, stream: EventStream, clock: Clock, *, hears: Callable[[], bool]
) -> AsyncIterator[Outlets]:
    """The outlets while the block runs, to be started in it; none where nothing was asked for."""
    outlets = Outlets(asked, config, stream, clock, hears=hears)
    try:
        yield outlets
    finally:
        await outlets.close()
