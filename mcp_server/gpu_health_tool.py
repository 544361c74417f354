"""`get_gpu_health`: is each GPU usable, and why not.

The verdict and its reasons are `daemon.gpu.verdict`'s; here they are put in order and in words: the node
first, then the GPUs that are not well, worst first, then those that are. What could not be looked at is
unknown and counted as that. A summary has the gravest reasons of each GPU and no notes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from daemon.gpu.expected_gpu import LAST_EVENTS
from daemon.gpu.readings import Costly, Health
from daemon.gpu.verdict import Reason, Severity, State, Verdict
from daemon.gpu.watch import GpuLook, NodeLook
from mcp_server.gpu_looks import (
    EVERYTHING_UNTOLD,
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
from mcp_server.gpu_summary import MOST_IDS, ReasonsJson, UnreadOnce, about_judged, fitting_data
from mcp_server.gpu_words import (
    amount,
    fitting,
    label,
    last_events,
    listed,
    memory_of,
    of,
    states,
    worst_first,
)
from mcp_server.services import Services
from mcp_server.tools import Answer, Caller, Tool
from mcp_server.wire_gpu import GetGpuHealth, HealthOut

TEXT_TOKENS: Final = 1_200
"""What the text of a summary may cost its reader, by the estimate of `mcp_server.quote.tokens`."""
MOST_REASONS: Final = 6
"""Of one GPU, in the structured content of a summary; fewer where there is no room for them, one at least."""
MOST_REASONS_TOLD: Final = 4
"""Of one GPU, in the text of a summary."""

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
            return self._with(looked, asked, None)
        return fitting_data(lambda most: self._with(looked, asked, most), MOST_REASONS, 0)

    def _with(self, looked: _Looked, asked: GetGpuHealth, most: int | None) -> dict[str, Any]:
        """With so many reasons of each GPU; 0: with the gravest, and no ids of events; None: at full."""
        look, full = looked.look, most is None
        states = [_verdict(gpu).state for gpu in look.gpus]
        told = {gpu.pci: _told(gpu, most) for gpu in look.gpus}
        reasons = ReasonsJson(full=full, ids=MOST_IDS if most is None else min(most, MOST_IDS))
        unread = UnreadOnce()
        return {
            **self._asking.opening(look, asked, looked.instances, EVERYTHING_UNTOLD if full else told),
            "state": look.verdict.state.value if look.verdict is not None else None,
            "reasons": reasons.of(reason for reason in _of_the_node(look) if full or _matters(reason)),
            **{f"{state.value}_count": states.count(state) for state in State},
            "events_unread": look.events_unread,
            "gpus": [
                (_in_full(gpu, reasons) if full else _in_short(gpu, look, told[gpu.pci], reasons, unread))
                | ({"costly": whole(looked.costly.get(gpu.pci))} if asked.costly else {})
                for gpu in look.gpus
            ],
        }

    def _text(self, looked: _Looked, asked: GetGpuHealth) -> Iterator[str]:
        look, full = looked.look, is_full(asked)
        yield from notices(look, looked.instances)
        yield f"{self._summary(look)}."
        yield from (f"- {reason.sentence}" for reason in _of_the_node(look) if full or _matters(reason))
        if look.events_unread is not None:
            yield f"The events of the last hour are not part of this: {look.events_unread.rstrip('.')}."
        ill = [
            gpu
            for gpu in worst_first(look.gpus)
            if full or asked.gpu or _verdict(gpu).state is not State.HEALTHY
        ]
        shown = {gpu.pci for gpu in ill}
        most = None if full else MOST_REASONS_TOLD
        events = LAST_EVENTS if full else events_of_each(look)
        paragraphs = [
            _paragraph(gpu, most=most, events=events, readings=full or bool(asked.gpu)) for gpu in ill
        ]
        left_out = "{} more that are not well: see the structured content."
        yield from fitting(paragraphs, TEXT_TOKENS * (4 if full else 1), left_out)
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


def _told(gpu: GpuLook, most: int | None) -> Sequence[Reason]:
    """Its reasons; in a summary so many of the gravest, one at least."""
    verdict = _verdict(gpu)
    return verdict.reasons if most is None else _gravest(verdict, max(most, 1))


def _in_short(
    gpu: GpuLook, look: NodeLook, told: Sequence[Reason], reasons: ReasonsJson, unread: UnreadOnce
) -> dict[str, Any]:
    verdict, health = _verdict(gpu), gpu.reading.health
    return {
        **about_judged(gpu, told, events_of_each(look)),
        "state": verdict.state.value,
        "reasons": reasons.of(told),
        **filled({"reasons_left_out": len(verdict.reasons) - len(told)}),
        **picked(health, _SHOWN),
        **filled({"unread": unread.of(health, _SHOWN)}),
    }


def _in_full(gpu: GpuLook, reasons: ReasonsJson) -> dict[str, Any]:
    verdict, health = _verdict(gpu), gpu.reading.health
    return {
        **about(gpu, full=True),
        "state": verdict.state.value,
        "reasons": reasons.of(verdict.reasons),
        **({} if health is None else {section: whole(getattr(health, section)) for section in _SHOWN}),
        "readings": whole(health, without=(*_SHOWN, "unread")),
        "not_checked": [check.to_json() for check in verdict.not_checked],
        "unread": {} if health is None else dict(health.unread),
    }


def _verdict(gpu: GpuLook) -> Verdict:
    assert gpu.verdict is not None, "health() judges every GPU"
    return gpu.verdict


def _matters(reason: Reason) -> bool:
    return reason.severity is not Severity.NOTE


def _gravest(verdict: Verdict, most: int) -> Sequence[Reason]:
    return [reason for reason in verdict.reasons if _matters(reason)][:most]


def _of_the_node(look: NodeLook) -> Iterable[Reason]:
    """The node's reasons that are no GPU's: those stand with the GPU."""
    reasons = look.verdict.reasons if look.verdict is not None else ()
    return [reason for reason in reasons if not (reason.reading or "").startswith("gpu.")]


def _paragraph(gpu: GpuLook, *, most: int | None, events: int, readings: bool) -> str:
    """`most` reasons of it and no notes; None: all of them, and what was not checked."""
    verdict = _verdict(gpu)
    reasons = verdict.reasons if most is None else _gravest(verdict, most)
    lines = [f"- {label(gpu)}: {verdict.state.value.upper()}"]
    lines += [f"  {reason.severity.value}: {reason.sentence}" for reason in reasons]
    lines += [f"  {line}" for line in last_events(gpu, events)]
    if (more := sum(map(_matters, verdict.reasons)) - sum(map(_matters, reasons))) > 0:
        lines.append(f"  {more} more reason{'s' * (more > 1)}: detail=full")
    if readings:
        lines += [f"  {line}" for line in _readings(gpu.reading.health)]
    if most is None and verdict.not_checked:
        checks = "; ".join(f"{check.check} ({check.why})" for check in verdict.not_checked)
        lines.append(f"  not checked: {checks}")
    return "\n".join(lines)


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
