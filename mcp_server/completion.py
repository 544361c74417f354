"""`completion/complete`: what may stand in the variable of a resource template, or in a prompt's argument.

Ids come newest first, GPU UUIDs as far as the node or the kept events name them; codes that this
node has had come before the rest of the catalogue where a prompt asks for one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum, auto
from typing import Final

import mcp_types as types

from daemon.catalog import codes
from daemon.event import Item, Kind
from daemon.filter import EVERYTHING, EventFilter
from daemon.page import MAX_LIMIT
from mcp_server import prompts
from mcp_server.addresses import INCIDENTS_ONLY, Place, variable
from mcp_server.prompts import Prompts
from mcp_server.query import quoted
from mcp_server.refusals import bad_params, cannot_now
from mcp_server.services import Services
from mcp_server.tools import Context
from probes.errors import UserError

MOST_VALUES: Final = 100
"""Of one answer, by the protocol."""


class Subject(Enum):
    """What sort of name is wanted."""

    CODE = auto()
    SEEN_CODE = auto()
    EVENT = auto()
    INCIDENT = auto()
    GPU = auto()
    EXPECTED_GPU = auto()
    SINCE = auto()


_OF_PLACE: Final = {
    Place.CODE: Subject.CODE,
    Place.EVENT: Subject.EVENT,
    Place.INCIDENT: Subject.INCIDENT,
    Place.GPU_EVENTS: Subject.GPU,
    Place.GPU_HEALTH: Subject.EXPECTED_GPU,
}
_OF_ARGUMENT: Final = {
    prompts.CODE: Subject.SEEN_CODE,
    prompts.GPU: Subject.GPU,
    prompts.INCIDENT: Subject.INCIDENT,
    prompts.SINCE: Subject.SINCE,
}
_SINCE: Final = ("1h", "24h", "7d", "30d")


class Completion:
    """The handler."""

    def __init__(self, services: Services, offered: Prompts) -> None:
        self._services = services
        self._prompts = offered

    async def complete(self, context: Context, params: types.CompleteRequestParams) -> types.CompleteResult:
        """Values that begin with what was typed, in any case of letters."""
        subject = self._subject(params)
        try:
            known = await self._known(subject)
        except UserError as error:
            raise cannot_now(error) from None
        typed = params.argument.value.lower()
        values = [value for value in known if value.lower().startswith(typed)]
        return types.CompleteResult(
            completion=types.Completion(
                values=values[:MOST_VALUES], total=len(values), has_more=len(values) > MOST_VALUES
            )
        )

    async def _known(self, subject: Subject) -> Iterable[str]:
        match subject:
            case Subject.CODE:
                return _all_codes()
            case Subject.SEEN_CODE:
                seen = [item.event.code for item in await self._newest() if item.event.kind in _CODED]
                return dict.fromkeys([*(str(code) for code in seen if code is not None), *_all_codes()])
            case Subject.EVENT | Subject.INCIDENT:
                match = INCIDENTS_ONLY if subject is Subject.INCIDENT else EVERYTHING
                return [item.event.id for item in await self._newest(match)]
            case Subject.GPU:
                gpus = [*self._services.gpus(), *(item.event.gpu for item in await self._newest())]
                named = (gpu.uuid for gpu in gpus if gpu is not None and gpu.uuid is not None)
                return dict.fromkeys([*named, *self._expected()])
            case Subject.EXPECTED_GPU:
                return self._expected()
            case Subject.SINCE:
                return _SINCE

    def _expected(self) -> list[str]:
        """UUIDs of the GPUs that this node is expected to have; no GPU is asked for it."""
        return [gpu.uuid for gpu in self._services.watch.expected.all() if gpu.uuid is not None]

    async def _newest(self, match: EventFilter = EVERYTHING) -> Sequence[Item]:
        page = await self._services.stream.page(None, MAX_LIMIT, match)
        return page.items[::-1]

    def _subject(self, params: types.CompleteRequestParams) -> Subject:
        """What is asked for. Raises MCPError when there is no such template, prompt or argument."""
        wanted = params.argument.name
        if isinstance(params.ref, types.ResourceTemplateReference):
            for place, subject in _OF_PLACE.items():
                if params.ref.uri == place and variable(place) == wanted:
                    return subject
            asked = f"{params.ref.uri} {wanted}"
        else:
            if wanted in self._prompts.arguments(params.ref.name):
                return _OF_ARGUMENT[wanted]
            asked = f"prompt {params.ref.name} {wanted}"
        known = ", ".join(f"{variable(place)} of {place}" for place in _OF_PLACE)
        hint = f"it can be {known}, or an argument that prompts/list names"
        raise bad_params(UserError(f"Nothing to complete for {quoted(asked)}", hint=hint))


_CODED: Final = (Kind.XID, Kind.SXID)


def _all_codes() -> list[str]:
    return [str(code) for kind in _CODED for code in codes(kind)]
