"""`get_gpu_health`: is each GPU usable, and why not.

The verdict and its reasons are `daemon.gpu.verdict`'s; here they are put in order and in words: the node
first, then the GPUs that are not well, worst first, then those that are. What could not be looked at is
unknown and counted as that. A summary has each reason once, with the GPUs that have it, and no notes; what
there is no room to tell in words is named all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from daemon.gpu.expected_gpu import LAST_EVENTS
from daemon.gpu.readings import Costly, Health
from daemon.gpu.verdict import Reason, State
from daemon.gpu.watch import GpuLook, NodeLook
from mcp_server.gpu_looks import (
    GpuAsking,
    MigNamed,
    about,
    events_of_each,
    filled,
    is_full,
    notices,
    picked,
    whole,
)
from mcp_server.gpu_reasons import GroupedReasons
from mcp_server.gpu_summary import TELLINGS, Telling, about_judged, fitting_data, unread_of_all
from mcp_server.gpu_words import (
    amount,
    judged,
    judged_lines,
    label,
    listed,
    matters,
    memory_of,
    of,
    states,
    told_or_named,
    worst_first,
)
from mcp_server.services import Services
from mcp_server.tools import Answer, Caller, Tool
from mcp_server.wire_gpu import GetGpuHealth, HealthOut

TEXT_TOKENS: Final = 1_200
"""What the text of a summary may cost its reader, by the estimate of `mcp_server.quote.tokens`."""
MOST_REASONS_TOLD: Final = 4
"""Of one GPU, in the text of a summary; the others are named."""

_SHOWN: Final[Mapping[str, tuple[str, ...]]] = {
    "temperature": ("gpu_c",),
    "power": ("draw_w",),
    "utilization": ("gpu_percent",),
    "memory": ("used_bytes",),
}


@dataclass(frozen=True, slots=True)
class _Looked:
    look: NodeLook
    costly: Mapping[str, Costly | None]
    """By PCI address; empty when it was not asked for."""
    instances: tuple[MigNamed, ...]


class GpuHealthTool:
    """The tool."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._asking = GpuAsking(services)

    def tool(self) -> Tool[GetGpuHealth]:
        """Ready for a toolbox."""
        return Tool(
            name="get_gpu_health",
            title="Health of the GPUs",
            description=(
                "Whether each GPU of this node can be used, as a verdict with reasons: lost or hung GPUs "
                "with since when, memory errors, row remapping, events of the last hour, thermal and power "
                "slowdown, PCIe, NVLink, fabric. Each reason names its reading, its threshold and where that "
                "comes from. unknown means that something could not be looked at, which is not healthy. Full "
                "memory, 100 % utilization and power at the limit are no faults. detail=full has every "
                "reading; costly=true adds energy and PCIe traffic."
            ),
            arguments=GetGpuHealth,
            result=HealthOut,
            run=self._run,
        )

    async def _run(self, asked: GetGpuHealth, caller: Caller) -> Answer:
        looked = await self._look(asked)
        return Answer("\n".join(self._text(looked, asked)), self._data(looked, asked))

    async def data(self, asked: GetGpuHealth) -> dict[str, Any]:
        """The structured content alone. Raises UserError as the tool does."""
        return self._data(await self._look(asked), asked)

    async def text(self, asked: GetGpuHealth) -> str:
        """The tool's text alone. Raises UserError as the tool does."""
        return "\n".join(self._text(await self._look(asked), asked))

    async def _look(self, asked: GetGpuHealth) -> _Looked:
        watch, instances = self._services.watch, await self._asking.instances(asked.gpu)
        if not asked.costly:
            return _Looked(await self._asking.ask(watch.health, asked.gpu), {}, instances)
        look, costly = await asyncio.gather(
            self._asking.ask(watch.health, asked.gpu), self._asking.ask(watch.costly, asked.gpu)
        )
        return _Looked(look, {gpu.pci: gpu.reading.costly for gpu in costly.gpus}, instances)

    def _data(self, looked: _Looked, asked: GetGpuHealth) -> dict[str, Any]:
        if is_full(asked):
            return self._in_full(looked, asked)
        reasons = GroupedReasons(looked.look.gpus, _of_the_node(looked.look))
        return fitting_data(lambda telling: self._in_short(looked, asked, reasons, telling), TELLINGS)

    def _in_full(self, looked: _Looked, asked: GetGpuHealth) -> dict[str, Any]:
        look = looked.look
        return {
            **self._asking.opening(look, asked, looked.instances),
            **_verdict(look),
            "reasons": [reason.to_json() for reason in _of_the_node(look)],
            "gpus": [_gpu_in_full(gpu) | _costly(gpu, looked, asked) for gpu in look.gpus],
        }

    def _in_short(
        self, looked: _Looked, asked: GetGpuHealth, reasons: GroupedReasons, telling: Telling
    ) -> dict[str, Any]:
        look = looked.look
        shown = _SHOWN if telling.readings else {}
        unread = unread_of_all(((gpu, gpu.reading.health) for gpu in look.gpus), shown)
        return {
            **self._asking.opening(look, asked, looked.instances, reasons.by_gpu(telling.reasons)),
            **_verdict(look),
            "reasons": reasons.told(telling.reasons, telling.ids, thresholds=telling.thresholds),
            **filled({"more_reasons": reasons.left_out(telling.reasons)}),
            "gpus": [
                about_judged(gpu, reasons, telling, look)
                | picked(gpu.reading.health, shown)
                | _costly(gpu, looked, asked)
                for gpu in look.gpus
            ],
            **filled({"unread": unread}),
        }

    def _text(self, looked: _Looked, asked: GetGpuHealth) -> Iterator[str]:
        look, full = looked.look, is_full(asked)
        yield from notices(look, looked.instances)
        yield f"{self._summary(look)}."
        yield from (f"- {reason.sentence}" for reason in _of_the_node(look) if full or matters(reason))
        if look.events_unread is not None:
            yield f"The events of the last hour are not part of this: {look.events_unread.rstrip('.')}."
        every = full or bool(asked.gpu)
        ill = [gpu for gpu in worst_first(look.gpus) if every or judged(gpu).state is not State.HEALTHY]
        shown = {gpu.pci for gpu in ill}
        events = LAST_EVENTS if full else events_of_each(look)
        paragraphs = [
            (gpu, "\n".join([*judged_lines(gpu, None if full else MOST_REASONS_TOLD, events), *rest]))
            for gpu in ill
            for rest in (_rest(gpu, readings=every, full=full),)
        ]
        yield from told_or_named(paragraphs, TEXT_TOKENS * (4 if full else 1))
        healthy = [gpu for gpu in look.gpus if gpu.pci not in shown]
        if healthy:
            yield f"healthy: {listed(healthy)}."
        if asked.costly:
            yield from (_costly_line(gpu, looked.costly.get(gpu.pci)) for gpu in look.gpus)

    def _summary(self, look: NodeLook) -> str:
        gpus = f"{states(look.gpus)}, of {len(look.gpus)}" if look.gpus else "no GPU was looked at"
        if look.verdict is None:
            return f"GPUs asked for on {self._services.node}: {gpus}"
        return f"Node {self._services.node} is {look.verdict.state.value.upper()}; GPUs: {gpus}"


def _verdict(look: NodeLook) -> dict[str, Any]:
    """The node's verdict, and how many GPUs are in which state."""
    found = [judged(gpu).state for gpu in look.gpus]
    return {
        "state": look.verdict.state.value if look.verdict is not None else None,
        **{f"{state.value}_count": found.count(state) for state in State},
        "events_unread": look.events_unread,
    }


def _gpu_in_full(gpu: GpuLook) -> dict[str, Any]:
    verdict, health = judged(gpu), gpu.reading.health
    return {
        **about(gpu, full=True),
        "state": verdict.state.value,
        "reasons": [reason.to_json() for reason in verdict.reasons],
        **({} if health is None else {section: whole(getattr(health, section)) for section in _SHOWN}),
        "readings": whole(health, without=(*_SHOWN, "unread")),
        "not_checked": [check.to_json() for check in verdict.not_checked],
        "unread": {} if health is None else dict(health.unread),
    }


def _costly(gpu: GpuLook, looked: _Looked, asked: GetGpuHealth) -> dict[str, Any]:
    return {"costly": whole(looked.costly.get(gpu.pci))} if asked.costly else {}


def _of_the_node(look: NodeLook) -> Iterable[Reason]:
    """The node's reasons that are no GPU's: those stand with the GPU."""
    reasons = look.verdict.reasons if look.verdict is not None else ()
    return [reason for reason in reasons if not (reason.reading or "").startswith("gpu.")]


def _rest(gpu: GpuLook, *, readings: bool, full: bool) -> Iterator[str]:
    """What is told of a GPU beside its verdict."""
    if readings:
        yield from (f"  {line}" for line in _readings(gpu.reading.health))
    if full and (not_checked := judged(gpu).not_checked):
        checks = "; ".join(f"{check.check} ({check.why})" for check in not_checked)
        yield f"  not checked: {checks}"


def _readings(health: Health | None) -> Iterator[str]:
    if health is None:
        return
    memory, power, reasons = health.memory, health.power, health.clock_events.reasons
    yield (
        f"readings: {amount(health.temperature.gpu_c, '°C')}, {of(power.draw_w, power.limit_w, 'W')}, "
        f"utilization {amount(health.utilization.gpu_percent, '%')}, {memory_of(memory)} used, clock events "
        f"{'unknown' if reasons is None else ', '.join(reasons) or 'none'}."
    )


def _costly_line(gpu: GpuLook, costly: Costly | None) -> str:
    if costly is None:
        return f"- {label(gpu)}: energy and PCIe traffic unknown: they were not read."
    return (
        f"- {label(gpu)}: {amount(costly.energy_j, 'J')} since the driver was loaded; PCIe sends "
        f"{amount(costly.pcie_sent_kb_per_s, 'KB/s')}, receives "
        f"{amount(costly.pcie_received_kb_per_s, 'KB/s')}."
    )
