"""The first line on the unix socket: what the client wants. See DESIGN "Socket".

A line `{"xidwatch": {"want": …}}` is a hello; a JSON-RPC message opens an MCP session with
defaults and is its first message; anything else is an error.
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from daemon.filter import EventFilter
from daemon.page import clamp_limit
from mcp_server.sentences import validation_sentence
from probes.errors import UserError


class Era(StrEnum):
    """Which MCP protocol eras a session may speak."""

    AUTO = "auto"
    """Both: the client's first request decides."""
    LEGACY = "legacy"
    """Only the handshake of 2025 and before, for hosts that probe and then shake hands."""


class Channel(StrEnum):
    """A host's own way of putting a push before the model."""

    CLAUDE = "claude"
    """Claude Code's channels: `notifications/claude/channel`."""


def _as_texts(value: object) -> object:
    many = value if isinstance(value, list) else [value]
    return [str(one) if isinstance(one, int) and not isinstance(one, bool) else one for one in many]


Texts = Annotated[list[str], BeforeValidator(_as_texts)]
"""Values of a filter: one or several, numbers or texts, commas inside allowed."""


class _Want(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WantMcp(_Want):
    """An MCP session."""

    want: Literal["mcp"] = "mcp"
    era: Era = Era.AUTO
    channel: Channel | None = None
    """How events are pushed beside the protocol's own ways; None: not at all."""


class WantEvents(_Want):
    """Events as NDJSON."""

    want: Literal["events"]
    since: Annotated[int, Field(ge=0, lt=10**19, strict=True)] | None = None
    """Only items beyond this cursor; None = the newest `limit`, or with `follow` only what is new."""
    since_time_us: Annotated[int, Field(ge=1, lt=2**63, strict=True)] | None = None
    """In place of `since`: only items written at this time or later, µs since the Unix epoch. An event that
    was learned late may have happened before."""
    follow: bool = False
    """Go on with what is new instead of ending at what is newest now."""
    limit: Annotated[int, Field(strict=True)] | None = None
    """Without `follow` the most items to send; with `follow` and no `since`, how many old ones first."""
    severity: str | None = None
    code: Texts = Field(default_factory=list)
    kind: Texts = Field(default_factory=list)
    gpu: Texts = Field(default_factory=list)

    def check(self) -> None:
        """Raises UserError when it asks to begin in two places."""
        if self.since is not None and self.since_time_us is not None:
            raise UserError("since and since_time_us exclude each other", hint="give one of them")

    def filter(self) -> EventFilter:
        """The filter asked for. Raises UserError."""
        return EventFilter.parse(severity=self.severity, code=self.code, kind=self.kind, gpu=self.gpu)

    def clamped_limit(self) -> int | None:
        """The limit within its bounds."""
        return None if self.limit is None else clamp_limit(self.limit)


class WantStatus(_Want):
    """The status object, one line."""

    want: Literal["status"]


class WantReleaseDriver(_Want):
    """Let go of the NVIDIA driver's device files; one line says what was let go."""

    want: Literal["release-driver"]


Want = WantMcp | WantEvents | WantStatus | WantReleaseDriver
_HELLO: TypeAdapter[Want] = TypeAdapter(Annotated[Want, Field(discriminator="want")])
_HINT = 'send {"xidwatch": {"want": "events"}}, "status" or "mcp", or begin an MCP session'


def parse_hello(line: bytes) -> Want | None:
    """What the first line asks for; None when it is an MCP message. Raises UserError."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        raise UserError("the first line is not JSON", hint=_HINT) from None
    if isinstance(data, dict) and "jsonrpc" in data:
        return None
    if not isinstance(data, dict) or set(data) != {"xidwatch"}:
        raise UserError("the first line is neither a hello nor an MCP message", hint=_HINT)
    hello = data["xidwatch"]
    if isinstance(hello, dict):
        hello = {"want": "mcp", **hello}
    try:
        return _HELLO.validate_python(hello)
    except ValidationError as error:
        raise UserError(f"bad hello: {validation_sentence(error)}", hint=_HINT) from None
