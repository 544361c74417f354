"""`get_gpu_inventory`: which GPUs this node has, and what each is doing now.

Identity and the few readings that people ask for with it (memory, temperature, power, utilisation) are
read at the same time, so that one GPU that hangs costs one deadline. A GPU that is expected and lost is in
the inventory as lost.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from daemon.gpu.readings import Health, MigLayout
from daemon.gpu.watch import GpuLook, NodeLook
from mcp_server.gpu_looks import GpuAsking, MigNamed, about, filled, is_full, notices, picked, whole
from mcp_server.gpu_summary import fitting_data, unread_of_all
from mcp_server.gpu_words import amount, counted, fitting, label, memory_of, models, no_answer, of
from mcp_server.services import Services
from mcp_server.tools import Answer, Caller, Tool
from mcp_server.wire_gpu import GetGpuInventory, InventoryOut

TEXT_TOKENS: Final = 1_500
"""What the text may cost its reader, by the estimate of `mcp_server.quote.tokens`."""
MOST_INSTANCES: Final = 7
"""MIG instances of one GPU in a summary, which is all it can have; fewer where there is no room for them."""

_SHOWN: Final[Mapping[str, tuple[str, ...]]] = {
    "memory": ("total_bytes", "used_bytes"),
    "temperature": ("gpu_c",),
    "power": ("draw_w", "limit_w"),
    "utilization": ("gpu_percent",),
}


@dataclass(frozen=True, slots=True)
class _Looked:
    """Both looks of one question."""

    identities: NodeLook
    health: Mapping[str, Health | None]
    """By PCI address; None: not read."""
    instances: tuple[MigNamed, ...]


class GpuInventoryTool:
    """The tool."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._asking = GpuAsking(services)

    def tool(self) -> Tool[GetGpuInventory]:
        """Ready for a toolbox."""
        return Tool(
            name="get_gpu_inventory",
            title="GPUs of this node",
            description=(
                "Which GPUs this node has: index, UUID, PCI address, name, MIG instances, with memory, "
                "temperature, power and utilization now. GPUs that are lost or do not answer are in it, with "
                "the reason. detail=full adds serial and part numbers, firmware, clocks, the MIG layout."
            ),
            arguments=GetGpuInventory,
            result=InventoryOut,
            run=self._run,
        )

    async def _run(self, asked: GetGpuInventory, caller: Caller) -> Answer:
        looked = await self._look(asked)
        return Answer("\n".join(self._text(looked)), self._data(looked, asked))

    async def data(self, asked: GetGpuInventory) -> dict[str, Any]:
        """The structured content alone. Raises UserError as the tool does."""
        return self._data(await self._look(asked), asked)

    async def _look(self, asked: GetGpuInventory) -> _Looked:
        watch, instances = self._services.watch, await self._asking.instances(asked.gpu)
        identities, health = await asyncio.gather(
            self._asking.ask(watch.inventory, asked.gpu), self._asking.ask(watch.health, asked.gpu)
        )
        return _Looked(identities, {gpu.pci: gpu.reading.health for gpu in health.gpus}, instances)

    def _data(self, looked: _Looked, asked: GetGpuInventory) -> dict[str, Any]:
        if is_full(asked):
            return self._with(looked, asked, None)
        return fitting_data(lambda most: self._with(looked, asked, most), range(MOST_INSTANCES, -1, -1))

    def _with(self, looked: _Looked, asked: GetGpuInventory, most: int | None) -> dict[str, Any]:
        """With so many MIG instances of each GPU; None: at full."""
        gpus = looked.identities.gpus
        unread = unread_of_all(((gpu, looked.health.get(gpu.pci)) for gpu in gpus), _SHOWN)
        known = [gpu.identity for gpu in gpus if gpu.identity is not None]
        cuda = next((one.cuda_version for one in known if one.cuda_version is not None), None)
        return {
            **self._asking.opening(looked.identities, asked, looked.instances),
            "driver_version": self._driver_version(looked),
            "cuda_version": cuda,
            "gpus": [
                _in_full(gpu, health) if most is None else _in_short(gpu, health, most)
                for gpu in gpus
                for health in (looked.health.get(gpu.pci),)
            ],
            **filled({"unread": {} if most is None else unread}),
        }

    def _driver_version(self, looked: _Looked) -> str | None:
        known = (gpu.reading.identity for gpu in looked.identities.gpus)
        versions = (one.driver_version for one in known if one is not None)
        return next((version for version in versions if version is not None), self._services.driver_version())

    def _text(self, looked: _Looked) -> Iterator[str]:
        gpus = looked.identities.gpus
        yield from notices(looked.identities, looked.instances)
        if not gpus:
            yield f"No GPU of {self._services.node} is known."
            return
        driver = self._driver_version(looked) or "unknown"
        yield f"{counted(len(gpus))} on {self._services.node}: {models(gpus)}; driver {driver}."
        paragraphs = [_paragraph(gpu, looked.health.get(gpu.pci)) for gpu in gpus]
        yield from fitting(paragraphs, TEXT_TOKENS, "{} more: see the structured content.")


def _in_short(gpu: GpuLook, health: Health | None, most: int) -> dict[str, Any]:
    layout = _layout(gpu)
    return {
        **about(gpu, full=False),
        **picked(health, _SHOWN),
        "mig": None if layout is None else _mig(layout, most),
    }


def _in_full(gpu: GpuLook, health: Health | None) -> dict[str, Any]:
    layout = _layout(gpu)
    every = 0 if layout is None else len(_instances(layout) or ())
    return {
        **about(gpu, full=True),
        **({} if health is None else {section: whole(getattr(health, section)) for section in _SHOWN}),
        "mig": None if layout is None else _mig(layout, every) | (whole(layout) or {}),
        "identity": whole(gpu.reading.identity, without=("mig",)),
        **filled({"unread": _unread(health)}),
    }


def _unread(health: Health | None) -> dict[str, str]:
    """Reasons for everything in the sections that are shown."""
    if health is None:
        return {}
    return {path: why for path, why in health.unread.items() if path.partition(".")[0] in _SHOWN}


def _layout(gpu: GpuLook) -> MigLayout | None:
    return gpu.reading.identity.mig if gpu.reading.identity is not None else None


def _mig(layout: MigLayout, most: int) -> dict[str, Any]:
    """Whether it is on, which instances there are by profile, and so many of them."""
    if layout.enabled is False:
        return {"enabled": False}
    every = _instances(layout)
    if every is None:
        return {"enabled": layout.enabled, "instances": None}
    return {
        "enabled": layout.enabled,
        **filled({"profiles": dict(Counter(each["profile"] for each in every if each["profile"]))}),
        "instances": every[:most],
        **filled({"instances_left_out": len(every[most:])}),
    }


def _instances(layout: MigLayout) -> list[dict[str, Any]] | None:
    if layout.gpu_instances is None:
        return None
    return [
        {
            "uuid": compute.uuid,
            "gi": part.id,
            "ci": compute.id,
            "profile": part.profile,
        }
        for part in layout.gpu_instances
        for compute in part.compute_instances
    ]


def _paragraph(gpu: GpuLook, health: Health | None) -> str:
    if (why := no_answer(gpu)) is not None:
        return f"- {label(gpu)}: {why}."
    if health is None:
        return f"- {label(gpu)}: memory, temperature, power and utilization unknown: they were not read."
    memory, power = health.memory, health.power
    busy = amount(health.utilization.gpu_percent, "%")
    text = (
        f"- {label(gpu)}: {memory_of(memory)} used, {amount(health.temperature.gpu_c, '°C')}, "
        f"{of(power.draw_w, power.limit_w, 'W')}, utilization {busy}."
    )
    return "\n".join([text, *_mig_lines(_layout(gpu))])


def _mig_lines(layout: MigLayout | None) -> Iterator[str]:
    if layout is None or not layout.enabled:
        return
    instances = _instances(layout)
    if not instances:
        yield f"  MIG is on; its instances are {'unknown' if instances is None else 'none'}."
    for each in instances or ():
        yield f"  {each['uuid']}: {each['profile']}, gi={each['gi']} ci={each['ci']}."
