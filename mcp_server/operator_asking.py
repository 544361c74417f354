"""Asking the person behind a client to confirm a plan: elicitation, in the form of each protocol era.

Up to 2025-11-25 the server sends `elicitation/create` in the middle of the call and waits. In 2026-07-28
it answers the call with `input_required`, and the client calls again with what its user said and
with the state it was given. Only a form that was accepted with the box ticked is a yes: a client
that accepts everything without showing it does not get past that.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

import mcp_types as types
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from daemon.text import clean
from mcp_server.tools import Caller

FORM: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "confirm": {
            "type": "boolean",
            "title": "Do it",
            "description": "Tick to have exactly this done.",
            "default": False,
        }
    },
    "required": ["confirm"],
}

_KEY = "confirm"


@dataclass(frozen=True, slots=True)
class Reply:
    """What the person said."""

    yes: bool
    why_not: str = ""
    """A sentence; "" for a yes."""
    state: str | None = None
    """What the client was given with the question; None where the question was asked in the same call."""


def can_be_asked(caller: Caller) -> bool:
    """True when the client says that it shows forms, and there is a way to reach it."""
    capabilities = caller.context.session.client_capabilities
    elicitation = capabilities.elicitation if capabilities is not None else None
    # Before 2025-11-25 the capability had no modes: empty means forms.
    if elicitation is None or (elicitation.form is None and elicitation.url is not None):
        return False
    return _asks_by_answering(caller) or caller.context.session.can_send_request


async def ask(caller: Caller, text: str, state: str, *, within_s: float) -> Reply | types.InputRequiredResult:
    """Put the question; what comes back is the reply, or the answer that asks for it."""
    if _asks_by_answering(caller):
        params = types.ElicitRequestFormParams(message=text, requested_schema=FORM)
        return types.InputRequiredResult(
            input_requests={_KEY: types.ElicitRequest(params=params)}, request_state=state
        )
    context = caller.context
    try:
        async with asyncio.timeout(within_s):
            return _reply(await context.session.elicit_form(text, FORM, context.request_id))
    except TimeoutError:
        return Reply(False, f"Nobody answered within {within_s:g} s.")
    except (MCPError, ValueError) as error:  # the client failed, or its result is of no known shape
        return Reply(False, f"The client could not ask its user: {clean(str(error), 160)}")


def reply_of(caller: Caller) -> Reply | None:
    """What the client says its user replied to the question of an earlier call; None when there was none."""
    params = caller.params
    if params.request_state is None:
        return None
    result = (params.input_responses or {}).get(_KEY)
    if not isinstance(result, types.ElicitResult):
        return Reply(False, "The client sent no reply to the question.", params.request_state)
    reply = _reply(result)
    return Reply(reply.yes, reply.why_not, params.request_state)


def _asks_by_answering(caller: Caller) -> bool:
    return caller.context.protocol_version in MODERN_PROTOCOL_VERSIONS


def _reply(result: types.ElicitResult) -> Reply:
    match result.action:
        case "accept":
            if (result.content or {}).get("confirm") is True:
                return Reply(True)
            return Reply(False, "The form came back without its box ticked.")
        case "decline":
            return Reply(False, "The person who was asked said no.")
        case "cancel":
            return Reply(False, "The person who was asked closed the question.")
