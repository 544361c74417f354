"""The resources of this server: what there is, and what each one holds, all as JSON.

Lists name what can be read now: the stream, its incidents, the state of the node, the GPUs, the
events of every GPU that is known. Single events, incidents and codes are reached through their templates. An
unknown URI is the protocol's error; a resource that has no events yet is an empty page.
"""

from __future__ import annotations

import json
from typing import Final

import mcp_types as types

from daemon.catalog import Entry
from daemon.event import Gpu, Item
from daemon.explanation import entry_json, entry_of
from daemon.filter import EventFilter, uuid_key
from daemon.page import DEFAULT_LIMIT
from mcp_server.addresses import Address, Place, parse, uri_of_gpu_events
from mcp_server.gpu_resources import HEALTH_TEMPLATE, GpuResources
from mcp_server.refusals import cannot_now, check_list_cursor, no_resource
from mcp_server.services import Services
from mcp_server.tools import Context
from probes.errors import UserError

JSON: Final = "application/json"


class Resources:
    """The handlers of resources/list, resources/templates/list and resources/read."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._gpus = GpuResources(services)

    async def list(
        self, context: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        """What can be read without knowing a name."""
        check_list_cursor(params)
        gpus = [_gpu_resource(gpu.uuid, gpu) for gpu in self._services.gpus() if gpu.uuid is not None]
        return types.ListResourcesResult(
            resources=[_EVENTS, _INCIDENTS, _STATUS, *self._gpus.listed(), *gpus]
        )

    async def templates(
        self, context: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListResourceTemplatesResult:
        """The forms of URIs with a name in them."""
        check_list_cursor(params)
        return types.ListResourceTemplatesResult(resource_templates=[*_TEMPLATES])

    async def read(
        self, context: Context, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        """What a resource holds now. An unknown URI is a protocol error."""
        address = parse(params.uri)
        try:
            text = None if address is None else await self._text(address)
        except UserError as error:
            raise cannot_now(error) from None
        if text is None:
            raise no_resource(params.uri, context.protocol_version)
        return types.ReadResourceResult(
            contents=[types.TextResourceContents(uri=params.uri, mime_type=JSON, text=text)]
        )

    async def exists(self, address: Address) -> bool:
        """Whether there is such a resource now. Raises UserError when the journal is needed and cannot be
        read."""
        match address.place:
            case Place.EVENTS | Place.INCIDENTS | Place.STATUS | Place.INVENTORY:
                return True
            case Place.EVENT | Place.INCIDENT:
                return await self._item(address) is not None
            case Place.GPU_EVENTS:
                return await self._is_gpu(address)
            case Place.GPU_HEALTH:
                return await self._gpus.exists(address.key)
            case Place.CODE:
                return self._entry(address.key) is not None

    async def _text(self, address: Address) -> str | None:
        """The resource as JSON; None when there is none."""
        services = self._services
        match address.place:
            case Place.EVENTS | Place.INCIDENTS:
                return await self._page(address.filter())
            case Place.EVENT | Place.INCIDENT:
                item = await self._item(address)
                return None if item is None else item.json
            case Place.GPU_EVENTS:
                return await self._page(address.filter()) if await self._is_gpu(address) else None
            case Place.CODE:
                entry = self._entry(address.key)
                return None if entry is None else json.dumps(entry_json(entry))
            case Place.INVENTORY | Place.GPU_HEALTH:
                return await self._gpus.text(address)
            case Place.STATUS:
                return json.dumps(services.status())

    async def _page(self, match: EventFilter) -> str:
        page = await self._services.stream.page(None, DEFAULT_LIMIT, match)
        return page.to_json()

    async def _item(self, address: Address) -> Item | None:
        """The event or incident by its id; an event that is no incident is not found among these."""
        item = await self._services.stream.event(address.key)
        return item if item is not None and address.is_concerned_by(item.event) else None

    async def _is_gpu(self, address: Address) -> bool:
        """A GPU exists when it is known now, or events of it are kept."""
        if any(uuid_key(gpu.uuid) == address.key for gpu in self._services.gpus()):
            return True
        page = await self._services.stream.page(None, 1, address.filter())
        return bool(page.items)

    def _entry(self, digits: str) -> Entry | None:
        """What the number means to the driver of this node."""
        if not digits.isdigit():
            return None
        try:
            return entry_of(digits, driver_version=self._services.driver_version())
        except UserError:
            return None


_EVENTS = types.Resource(
    uri=Place.EVENTS,
    name="events",
    title="GPU fault events",
    description="The newest 100 fault events of this node, oldest first, with cursors to read on from.",
    mime_type=JSON,
    annotations=types.Annotations(audience=["user", "assistant"], priority=1.0),
)
_INCIDENTS = types.Resource(
    uri=Place.INCIDENTS,
    name="incidents",
    title="GPU incidents",
    description="The newest 100 incidents: faults that belong together, with their cause, reach and state.",
    mime_type=JSON,
    annotations=types.Annotations(audience=["user", "assistant"], priority=1.0),
)
_STATUS = types.Resource(
    uri=Place.STATUS,
    name="status",
    title="State of the daemon",
    description="What hears the kernel log and what does not, why, what is kept and what is not available.",
    mime_type=JSON,
    annotations=types.Annotations(audience=["user", "assistant"], priority=0.5),
)


def _gpu_resource(uuid: str, gpu: Gpu) -> types.Resource:
    return types.Resource(
        uri=uri_of_gpu_events(uuid),
        name=f"events of {uuid}",
        title=f"Fault events of GPU {gpu.pci}" + (f" ({gpu.name})" if gpu.name else ""),
        description="The newest 100 fault events of this GPU, oldest first.",
        mime_type=JSON,
    )


_TEMPLATES = (
    types.ResourceTemplate(
        uri_template=Place.EVENT,
        name="event",
        title="One fault event",
        description="An event by its id (ev_…), as its newest revision.",
        mime_type=JSON,
    ),
    types.ResourceTemplate(
        uri_template=Place.INCIDENT,
        name="incident",
        title="One incident",
        description="An incident by its id (inc_…), as its newest revision: cause, reasons, reach, state.",
        mime_type=JSON,
    ),
    types.ResourceTemplate(
        uri_template=Place.CODE,
        name="code",
        title="Meaning of an Xid or SXid",
        description="What a number means, how bad it is, whose fault it usually is and what to do.",
        mime_type=JSON,
    ),
    types.ResourceTemplate(
        uri_template=Place.GPU_EVENTS,
        name="gpu events",
        title="Fault events of one GPU",
        description="The newest 100 events of a GPU by its UUID, oldest first.",
        mime_type=JSON,
    ),
    HEALTH_TEMPLATE,
)
