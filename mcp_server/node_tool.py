"""`describe_gpu_node`: this node in one answer, from the machine to the events of the last day.

Each part that could not be looked at says so and leaves the others standing: without the journal
there are no events, without a driver the GPUs are unknown, and the machine is told all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from daemon.analysis import FaultGroup
from daemon.event import rfc3339
from daemon.gpu.readings import Identity
from daemon.gpu.verdict import Reason, State, Verdict
from daemon.gpu.watch import GpuLook, NodeLook
from daemon.host import HostFacts, host_facts
from mcp_server.addresses import uri_of_event, uri_of_incident
from mcp_server.gpu_looks import EVERYTHING_UNTOLD, GpuAsking, about, events_of_each, filled, notices
from mcp_server.gpu_reasons import GroupedReasons
from mcp_server.gpu_summary import TELLINGS, Telling, about_judged, fitting_data
from mcp_server.gpu_words import (
    gib,
    judged,
    judged_lines,
    listed,
    matters,
    models,
    states,
    told_or_named,
    worst_first,
)
from mcp_server.node_analysis import Looked, NodeAnalysis
from mcp_server.quote import moment, title
from mcp_server.services import Services
from mcp_server.tools import Answer, Caller, Tool
from mcp_server.wire_analysis import AnalyzeXidErrors, Finding
from mcp_server.wire_gpu import AboutGpus, Detail
from mcp_server.wire_node import DescribeGpuNode, NodeOut
from probes.errors import UserError

TEXT_TOKENS: Final = 800
"""What the GPUs' part of the text may cost its reader, by the estimate of `mcp_server.quote.tokens`."""
EVENTS_SINCE: Final = "24h"
MOST_FAULTS: Final = 3
"""In a summary."""
_ROOMS: Final = (
    *((telling, MOST_FAULTS) for telling in TELLINGS if telling.readings),
    *((telling, 1) for telling in TELLINGS if not telling.readings),
    (TELLINGS[-1], 0),
)
"""How much of the GPUs and how many faults a summary tells, from most to least."""
_BUT: Final = {
    Finding.FAULTS: " but what incidents tell",
    Finding.NO_FAULTS: "",
    Finding.NOT_ALL_HEARD: ", but not all of that time was heard",
    Finding.CANNOT_HEAR: " is known, but nothing hears the kernel log",
}
_DAY_US: Final = 86_400_000_000


@dataclass(frozen=True, slots=True)
class _Node:
    """Everything that was looked at."""

    host: HostFacts
    inventory: NodeLook
    health: NodeLook
    events: Looked | None
    events_unread: str | None


class NodeTool:
    """The tool."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._asking = GpuAsking(services)
        self._analysis = NodeAnalysis(services)

    def tool(self) -> Tool[DescribeGpuNode]:
        """Ready for a toolbox."""
        return Tool(
            name="describe_gpu_node",
            title="This GPU node",
            description=(
                "This node in one answer: operating system, kernel, uptime, NVIDIA driver and CUDA, each GPU "
                "with its verdict (lost ones with since when and their last events), faults and open "
                "incidents of the last 24 hours, and whether the kernel log is heard. Start here when you "
                "know nothing of the node."
            ),
            arguments=DescribeGpuNode,
            result=NodeOut,
            run=self._run,
        )

    async def _run(self, asked: DescribeGpuNode, caller: Caller) -> Answer:
        name = (asked.node_name or "").strip()
        if name and name != self._services.node:
            raise UserError(
                f"this is node {self._services.node}, and it speaks of no other",
                hint="leave node_name out, or ask the xidwatch of that node",
            )
        node = await self._look()
        return Answer("\n".join(self._text(node)), self._data(node, full=asked.detail is Detail.FULL))

    async def _look(self) -> _Node:
        watch = self._services.watch
        inventory, health, (events, unread) = await asyncio.gather(
            self._asking.ask(watch.inventory, ()), self._asking.ask(watch.health, ()), self._events()
        )
        return _Node(host_facts(), inventory, health, events, unread)

    async def _events(self) -> tuple[Looked | None, str | None]:
        """What was heard of late, or why that is not known."""
        try:
            return await self._analysis.look(AnalyzeXidErrors(since=EVENTS_SINCE)), None
        except UserError as error:
            return None, error.message

    def _data(self, node: _Node, *, full: bool) -> dict[str, Any]:
        if full:
            reasons = {"reasons": [reason.to_json() for reason in _of_the_node(node)]}
            return self._with(node, None, reasons, [_in_full(gpu) for gpu in node.health.gpus])
        grouped = GroupedReasons(node.health.gpus, _of_the_node(node))
        return fitting_data(lambda room: self._in_short(node, grouped, *room), _ROOMS)

    def _in_short(
        self, node: _Node, reasons: GroupedReasons, telling: Telling, faults: int
    ) -> dict[str, Any]:
        told = {
            "reasons": reasons.told(telling.reasons, telling.ids, thresholds=telling.thresholds),
            **filled({"more_reasons": reasons.left_out(telling.reasons)}),
        }
        gpus = [about_judged(gpu, reasons, telling, node.health) for gpu in node.health.gpus]
        return self._with(node, faults, told, gpus, reasons.by_gpu(telling.reasons))

    def _with(
        self,
        node: _Node,
        faults: int | None,
        reasons: Mapping[str, Any],
        gpus: Sequence[Mapping[str, Any]],
        told: Mapping[str, Sequence[Reason]] = EVERYTHING_UNTOLD,
    ) -> dict[str, Any]:
        """With so many faults; None: at full. `told` are the reasons of each GPU that `reasons` has."""
        services, status = self._services, self._services.status()
        asked = AboutGpus(detail=Detail.FULL if faults is None else Detail.SUMMARY)
        probes = services.health()
        return {
            **self._asking.opening(node.health, asked, (), told),
            "state": _verdict_of(node.health).state.value,
            **reasons,
            "host": _host(node.host, status.get("boot_id")),
            "driver": {"version": self._driver_version(node), "cuda_version": _cuda_version(node)},
            "gpus": gpus,
            "events": None if node.events is None else _events_json(node.events, faults),
            "events_unread": _events_unread(node),
            "hears": any(probe.live and probe.hears for probe in probes),
            "probes": [
                {
                    "name": probe.name,
                    "hears": probe.hears,
                    "live": probe.live,
                    "reason": probe.reason,
                    "hint": probe.hint,
                }
                for probe in probes
            ],
            "xidwatch_version": services.version,
            "xidwatch_uptime_s": status.get("uptime_s"),
        }

    def _driver_version(self, node: _Node) -> str | None:
        versions = (one.driver_version for one in _identities(node))
        return next((version for version in versions if version is not None), self._services.driver_version())

    def _text(self, node: _Node) -> Iterator[str]:
        yield from notices(node.health)
        yield f"Node {self._services.node} is {_verdict_of(node.health).state.value.upper()}."
        yield from (f"- {reason.sentence}" for reason in _of_the_node(node) if matters(reason))
        yield f"{_machine(node.host)} {self._driver(node)}"
        yield from _fleet_lines(node.health)
        yield from self._event_lines(node)
        yield from self._hearing()

    def _driver(self, node: _Node) -> str:
        version, cuda = self._driver_version(node), _cuda_version(node)
        if version is None:
            return "NVIDIA driver unknown."
        return f"NVIDIA driver {version}, CUDA {cuda or 'unknown'}."

    def _event_lines(self, node: _Node) -> Iterator[str]:
        events, unread = node.events, _events_unread(node)
        if unread is not None:
            yield f"Events UNKNOWN: {unread.rstrip('.')}."
        if events is None:
            return
        if not events.faults:
            none = f"No fault of severity {events.severity} or worse in the last {EVENTS_SINCE}"
            yield f"{none}{_BUT[events.finding]}."
        for group in events.faults[:MOST_FAULTS]:
            yield f"- {_fault_text(group)}"
        if len(events.faults) > MOST_FAULTS:
            yield f"{len(events.faults) - MOST_FAULTS} more faults in the last {EVENTS_SINCE}."
        open_ones = [*events.open_incidents, *events.open_before]
        if open_ones:
            yield f"Open incidents: {', '.join(uri_of_incident(item.event.id) for item in open_ones[:3])}."

    def _hearing(self) -> Iterator[str]:
        probes = self._services.health()
        hearing = [probe.name for probe in probes if probe.hears and probe.live]
        if hearing:
            yield f"The kernel log is heard through {' and '.join(hearing)}."
        else:
            yield "NOTHING HEARS the kernel log: that no fault is known says nothing."
        for probe in probes:
            if probe.live and not probe.hears:
                yield f"{probe.name} does not hear: {probe.reason}{f' ({probe.hint})' if probe.hint else ''}."


def _verdict_of(look: NodeLook) -> Verdict:
    assert look.verdict is not None, "all GPUs were asked for"
    return look.verdict


def _of_the_node(node: _Node) -> Iterable[Reason]:
    """The node's reasons that are no GPU's: those stand with the GPU."""
    return [
        reason for reason in _verdict_of(node.health).reasons if not (reason.reading or "").startswith("gpu.")
    ]


def _events_unread(node: _Node) -> str | None:
    """Why events are missing. That those of this node are not held against invented GPUs is no reason."""
    of_the_gpus = None if node.health.state.mock else node.health.events_unread
    return node.events_unread or of_the_gpus


def _identities(node: _Node) -> Iterator[Identity]:
    return (gpu.reading.identity for gpu in node.inventory.gpus if gpu.reading.identity is not None)


def _cuda_version(node: _Node) -> str | None:
    return next((one.cuda_version for one in _identities(node) if one.cuda_version is not None), None)


def _host(host: HostFacts, boot_id: object) -> dict[str, Any]:
    return {
        "os_name": host.os_name,
        "kernel_release": host.kernel_release,
        "architecture": host.architecture,
        "container": host.container,
        "cpus": host.cpus,
        "memory_total_bytes": host.memory_total_bytes,
        "uptime_s": host.uptime_s,
        "boot_id": boot_id if isinstance(boot_id, str) and boot_id else None,
    }


def _in_full(gpu: GpuLook) -> dict[str, Any]:
    verdict = judged(gpu)
    return about(gpu, full=True) | {
        "state": verdict.state.value,
        "headline": verdict.headline,
        "reasons": [reason.to_json() for reason in verdict.reasons],
    }


def _events_json(events: Looked, faults: int | None) -> dict[str, Any]:
    return {
        "since": rfc3339(events.as_of_us - _DAY_US),
        "finding": events.finding,
        "open_incidents": [item.event.id for item in (*events.open_incidents, *events.open_before)],
        "faults": [_fault(group) for group in events.faults[:faults]],
        "faults_total": len(events.faults),
        "drills_left_out": events.drills_left_out,
    }


def _fault(group: FaultGroup) -> dict[str, Any]:
    worst = group.worst
    return {
        "severity": worst.severity,
        "title": title(worst),
        "device": worst.device,
        "count": group.count,
        "last_time": rfc3339(group.last_time_us),
        "summary": worst.summary,
        "uri": uri_of_event(group.newest.event.id),
    }


def _fault_text(group: FaultGroup) -> str:
    worst = group.worst
    times = f"{group.count} times, last" if group.count > 1 else "once,"
    on = f" on {worst.device}" if worst.device else ""
    return f"[{worst.severity}] {title(worst)}{on}, {times} {moment(group.last_time_us)}: {worst.summary}."


def _machine(host: HostFacts) -> str:
    system = host.os_name or "Operating system unknown"
    image = f" (the image: xidwatch runs in {host.container})" if host.container and host.os_name else ""
    return (
        f"{system}{image}, kernel {host.kernel_release} {host.architecture}, "
        f"{host.cpus if host.cpus is not None else 'unknown'} CPUs, {gib(host.memory_total_bytes)} memory, "
        f"up for {_days(host.uptime_s)}."
    )


def _days(seconds: float | None) -> str:
    if seconds is None:
        return "an unknown time"
    minutes = int(seconds) // 60
    days, hours = minutes // 1440, minutes // 60 % 24
    return f"{days} d {hours} h" if days else f"{hours} h {minutes % 60} min"


def _fleet_lines(look: NodeLook) -> Iterator[str]:
    gpus = look.gpus
    if not gpus:
        yield "No GPU is known."
        return
    yield f"GPUs: {models(gpus)}; {states(gpus)}."
    ill = [gpu for gpu in worst_first(gpus) if judged(gpu).state is not State.HEALTHY]
    events = events_of_each(look)
    yield from told_or_named([(gpu, "\n".join(judged_lines(gpu, 1, events))) for gpu in ill], TEXT_TOKENS)
    well = [gpu for gpu in gpus if gpu not in ill]
    if well:
        yield f"healthy: {listed(well)}."
