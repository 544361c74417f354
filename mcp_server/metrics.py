"""`GET /metrics`: Prometheus text, from counts that are kept or read when it is asked for.

Every `_total` is since the start of the process. Drills have a series of their own, so that no alert
fires on them, and so has a fleet of mock GPUs (`xidwatch_gpus_are_mock`). No gauge holds the last
event: repeats are counted, and what is over goes back to 0. What cannot be known has no series.
Label values are bounded, see `event_tally`.

The rules of `deploy/prometheus/rules.yaml` and the dashboard ask for these names.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from daemon.gpu.source import SourceName
from mcp_server.event_tally import LAG_BOUNDS_S, MAX_DEVICES, EventTally
from mcp_server.services import Services
from probes.health import ProbeState

log = logging.getLogger(__name__)

_EVENT_LABELS: Final = ("kind", "code", "severity", "gpu")


class Metrics(Collector):
    """The endpoint, and the collector behind it."""

    def __init__(self, services: Services, tally: EventTally) -> None:
        self._services = services
        self._tally = tally
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    async def __call__(self, request: Request) -> Response:
        """Everything, in the format the scraper prefers."""
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._registry), headers={"content-type": content_type})

    def collect(self) -> Iterable[Metric]:
        """One family after the other. Counters carry no `_created` series."""
        yield from self._events()
        yield from self._incidents()
        yield from self._hearing()
        yield from self._reading()
        yield from self._expected()
        yield from self._outlets()
        yield from self._sinks()
        yield from self._access()
        yield from self._serving()
        yield from self._encrypting()

    def _events(self) -> Iterator[Metric]:
        tally = self._tally
        events = CounterMetricFamily("xidwatch_events", "Faults, repeats included.", labels=_EVENT_LABELS)
        for labels, count in tally.real.items():
            events.add_metric(labels, count)
        yield events
        drills = CounterMetricFamily("xidwatch_drill_events", "Test faults.", labels=_EVENT_LABELS)
        for labels, count in tally.drills.items():
            drills.add_metric(labels, count)
        yield drills
        yield CounterMetricFamily(
            "xidwatch_not_stored_events", "Items that went out before the journal had them.", tally.not_stored
        )
        yield HistogramMetricFamily(
            "xidwatch_delivery_lag_seconds",
            "From the arrival of a new event's record in the daemon to the turn of its readers.",
            buckets=_cumulative(tally.lag_buckets),
            sum_value=tally.lag_sum_s,
        )

    def _incidents(self) -> Iterator[Metric]:
        still = GaugeMetricFamily(
            "xidwatch_open_incidents", "Incidents that nothing has ended yet.", labels=("severity", "gpu")
        )
        for labels, count in self._tally.open_incidents().items():
            still.add_metric(labels, count)
        yield still

    def _hearing(self) -> Iterator[Metric]:
        probes = self._services.health()
        yield GaugeMetricFamily(
            "xidwatch_hearing",
            "1 while at least one live source of kernel messages hears.",
            int(any(probe.live and probe.hears for probe in probes)),
        )
        up = GaugeMetricFamily("xidwatch_probe_up", "1 while records reach us this way.", labels=("probe",))
        for probe in probes:
            up.add_metric((probe.name,), int(probe.hears))
        yield up
        released = GaugeMetricFamily(
            "xidwatch_probe_released", "1 while a probe is silent on request.", labels=("probe",)
        )
        for probe in probes:
            released.add_metric((probe.name,), int(probe.state is ProbeState.RELEASED))
        yield released
        for name, counter, text in (
            ("xidwatch_kernel_records", "records", "Kernel log records examined."),
            ("xidwatch_kernel_records_lost", "lost", "Kernel log records overwritten before we read them."),
            ("xidwatch_kernel_records_malformed", "malformed", "Kernel log records that did not parse."),
        ):
            yield CounterMetricFamily(name, text, sum(probe.counters.get(counter, 0) for probe in probes))
        yield CounterMetricFamily(
            "xidwatch_forged_lines",
            "Fault lines that a user process wrote.",
            self._services.counters().forged_lines,
        )

    def _reading(self) -> Iterator[Metric]:
        watch = self._services.watch
        state = watch.state()
        source = GaugeMetricFamily(
            "xidwatch_nvml_state", "1 for the state of NVML as of the last question.", labels=("state",)
        )
        for name in SourceName:
            source.add_metric((name.value,), int(state.name is name))
        yield source
        yield GaugeMetricFamily("xidwatch_gpus_are_mock", "1 while the GPUs are invented.", int(state.mock))
        yield CounterMetricFamily(
            "xidwatch_nvml_workers_abandoned",
            "Processes left behind because an NVML call in them did not return.",
            state.abandoned,
        )
        yield GaugeMetricFamily(
            "xidwatch_gpus_left_alone",
            "GPUs on which a call hung or crashed NVML, so that they are not asked.",
            len({call.gpu for call in state.hung if call.gpu is not None}),
        )

    def _expected(self) -> Iterator[Metric]:
        expected = self._services.watch.expected.all()
        yield GaugeMetricFamily("xidwatch_gpus_expected", "GPUs that this node had.", len(expected))
        lost = GaugeMetricFamily(
            "xidwatch_gpu_lost", "1 while a GPU that this node had is not there.", labels=("gpu",)
        )
        for gpu in expected[:MAX_DEVICES]:
            lost.add_metric((gpu.pci,), int(gpu.is_lost))
        yield lost

    def _outlets(self) -> Iterator[Metric]:
        outlets = self._services.outlets()
        up = GaugeMetricFamily(
            "xidwatch_outlet_up", "1 while events leave the node this way.", labels=("outlet",)
        )
        for outlet in outlets:
            up.add_metric((outlet.name,), int(outlet.up))
        yield up
        for name, text, count in (
            ("delivered", "Deliveries that were taken.", attrgetter("delivered")),
            ("failures", "Deliveries that failed; they are tried again.", attrgetter("failures")),
            ("dropped", "Events given up.", attrgetter("dropped")),
        ):
            counts = CounterMetricFamily(f"xidwatch_outlet_{name}", text, labels=("outlet",))
            for outlet in outlets:
                counts.add_metric((outlet.name,), count(outlet))
            yield counts

    def _sinks(self) -> Iterator[Metric]:
        lag = GaugeMetricFamily(
            "xidwatch_sink_lag_seconds", "Age of the oldest event that a sink has to send.", labels=("sink",)
        )
        delivered = CounterMetricFamily(
            "xidwatch_sink_delivered_events", "Events that a receiver took.", labels=("sink",)
        )
        missed = CounterMetricFamily(
            "xidwatch_sink_missed", "Stretches deleted before a sink could send them.", labels=("sink",)
        )
        now_us = time.time_ns() // 1000
        for sink in self._services.sinks():
            lag.add_metric((sink.name,), sink.lag_s(now_us))
            delivered.add_metric((sink.name,), sink.delivered)
            missed.add_metric((sink.name,), sink.missed)
        yield from (lag, delivered, missed)

    def _access(self) -> Iterator[Metric]:
        access = self._services.access
        refused = CounterMetricFamily(
            "xidwatch_refused_requests",
            "Requests that were not let in, or asked for too much.",
            labels=("reason",),
        )
        for reason, count in access.refusals.counts().items():
            refused.add_metric((reason.value,), count)
        yield refused
        if access.tokens is not None:
            yield GaugeMetricFamily(
                "xidwatch_token_file_in_force",
                "1 while the token file is in force; 0: it cannot be used, and what was read before is.",
                int(access.tokens.problem is None),
            )

    def _serving(self) -> Iterator[Metric]:
        clients = GaugeMetricFamily("xidwatch_clients", "Clients connected now.", labels=("transport",))
        for transport, count in self._services.clients.counts().items():
            clients.add_metric((transport,), count)
        yield clients
        yield GaugeMetricFamily("xidwatch_newest_cursor", "Newest cursor.", self._services.stream.newest)
        build = GaugeMetricFamily("xidwatch_build_info", "Always 1.", labels=("version", "node"))
        build.add_metric((self._services.version, self._services.node), 1)
        yield build

    def _encrypting(self) -> Iterator[Metric]:
        tls = self._services.tls()
        if tls is None:
            return
        yield GaugeMetricFamily(
            "xidwatch_tls_certificate_valid_until_timestamp_seconds",
            "When the certificate of HTTPS ends, Unix time.",
            tls.certificate.valid_until_s,
        )
        yield GaugeMetricFamily(
            "xidwatch_tls_files_refused",
            "1 while the certificate files on disk cannot be used, so that the former ones are in force.",
            int(tls.refused is not None),
        )
        yield CounterMetricFamily(
            "xidwatch_tls_failed_handshakes",
            "Connections that ended before they were encrypted.",
            tls.failed_handshakes,
        )


def _cumulative(counts: Iterable[int]) -> list[tuple[str, float]]:
    """Counts by bucket as Prometheus wants them: everything up to and including each bound."""
    total, buckets = 0, []
    for bound, count in zip([*map(str, LAG_BOUNDS_S), "+Inf"], counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets
