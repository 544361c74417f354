"""`gpu://inventory` and `gpu://{uuid}/health`: what the tools of these names say, as JSON.

A resource is read by programs that were told of an event. So reading the health of a GPU that is left
alone, because a call on it may hang, does not touch it: it says so. Only a tool call that names it does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

import mcp_types as types

from daemon.filter import uuid_key
from daemon.gpu.expected_gpu import ExpectedGpu
from mcp_server.addresses import Address, Place, uri_of_gpu_health
from mcp_server.gpu_health_tool import GpuHealthTool
from mcp_server.gpu_inventory_tool import GpuInventoryTool
from mcp_server.gpu_looks import could_not_look
from mcp_server.services import Services
from mcp_server.wire_gpu import Detail, GetGpuHealth, GetGpuInventory
from probes.errors import UserError

_JSON: Final = "application/json"

INVENTORY: Final = types.Resource(
    uri=Place.INVENTORY,
    name="inventory",
    title="GPUs of this node",
    description="Which GPUs this node has and what they do now; lost ones with since when.",
    mime_type=_JSON,
    annotations=types.Annotations(audience=["user", "assistant"], priority=0.5),
)
HEALTH_TEMPLATE: Final = types.ResourceTemplate(
    uri_template=Place.GPU_HEALTH,
    name="gpu health",
    title="Health of one GPU",
    description="A GPU's verdict by its UUID: the reasons, and every reading, taken when it is read.",
    mime_type=_JSON,
)


class GpuResources:
    """Reads them."""

    def __init__(self, services: Services) -> None:
        self._watch = services.watch
        self._inventory = GpuInventoryTool(services)
        self._health = GpuHealthTool(services)

    def listed(self) -> Sequence[types.Resource]:
        """The inventory, and the health of every GPU that is expected. Asks no GPU."""
        gpus = ((gpu, gpu.uuid) for gpu in self._watch.expected.all())
        return [INVENTORY, *(_health_resource(gpu, uuid) for gpu, uuid in gpus if uuid is not None)]

    async def exists(self, key: str) -> bool:
        """Whether a GPU of this `uuid_key` is expected. Raises UserError when nobody can know."""
        return await self._expected(key) is not None

    async def text(self, address: Address) -> str | None:
        """The resource as a JSON object; None when there is no such GPU. Raises UserError when nobody can
        know."""
        if address.place is Place.INVENTORY:
            return json.dumps(await self._inventory.data(GetGpuInventory()))
        return await self._health_of(address.key)

    async def _health_of(self, key: str) -> str | None:
        expected = await self._expected(key)
        if expected is None or expected.uuid is None:
            return None
        named = [] if self._watch.sick.get(expected.pci) else [expected.uuid]
        data = await self._health.data(GetGpuHealth(gpu=named, detail=Detail.FULL))
        common = {name: data[name] for name in ("node", "as_of", "mock", "source", "events_unread")}
        gpu = next((gpu for gpu in data["gpus"] if gpu["pci"] == expected.pci), None)
        return None if gpu is None else json.dumps({**common, **gpu})

    async def _expected(self, key: str) -> ExpectedGpu | None:
        if (known := self._known(key)) is not None:
            return known
        look = await self._watch.inventory()
        if (known := self._known(key)) is None and (why := could_not_look(look.state)) is not None:
            raise UserError(why.rstrip("."))
        return known

    def _known(self, key: str) -> ExpectedGpu | None:
        return next((gpu for gpu in self._watch.expected.all() if uuid_key(gpu.uuid) == key), None)


def _health_resource(gpu: ExpectedGpu, uuid: str) -> types.Resource:
    return types.Resource(
        uri=uri_of_gpu_health(uuid),
        name=f"health of {uuid}",
        title=f"Health of GPU {gpu.pci}" + (f" ({gpu.name})" if gpu.name else ""),
        description="The verdict on this GPU, its reasons and every reading.",
        mime_type=_JSON,
    )
