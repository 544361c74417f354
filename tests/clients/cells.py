"""The table: which clients there are, over which transports and in which eras they can speak, and
what each of them is asked to show.

A cell is one client on one transport in one era. What the protocol, or the client, does not have is
no cell but a reason (`why_not`), so that an empty place in the table is never an oversight.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Client(StrEnum):
    """Foreign programs that speak MCP."""

    PYTHON_1 = "Python SDK 1.x"
    PYTHON_2 = "Python SDK 2.x"
    TYPESCRIPT_1 = "TypeScript SDK 1.x"
    TYPESCRIPT_2 = "TypeScript SDK 2.x"
    INSPECTOR = "Inspector CLI"
    CURL = "curl"


class Transport(StrEnum):
    """Ways in."""

    HTTP = "/mcp"
    """Streamable HTTP."""
    SSE = "/sse"
    """HTTP+SSE, the older transport."""
    RELAY = "unix socket"
    """`xidwatch stdio` as a relay to the daemon's socket."""
    ALONE = "stdio"
    """`xidwatch stdio` where no daemon runs."""


class Era(StrEnum):
    """Protocol eras; the value is how a client names it."""

    LEGACY = "legacy"
    """`initialize` and sessions: 2024-11-05 to 2025-11-25."""
    MODERN = "2026-07-28"


class Ability(StrEnum):
    """What a cell shows."""

    CONNECTS = "connects"
    CALLS = "calls a tool"
    PUSHED = "is pushed to"
    RESUMES = "resumes"


@dataclass(frozen=True, slots=True)
class Cell:
    """One place in the table."""

    client: Client
    transport: Transport
    era: Era

    def __str__(self) -> str:
        return f"{self.client}, {self.transport}, {self.era}"


def why_not(cell: Cell) -> str | None:
    """Why a client cannot speak like this whatever the server does; None when it can."""
    if cell.client is Client.CURL and cell.transport in (Transport.RELAY, Transport.ALONE):
        return "curl speaks HTTP only"
    if cell.transport is Transport.SSE and cell.era is Era.MODERN:
        return "2026-07-28 has no HTTP+SSE transport"
    if cell.client in (Client.PYTHON_1, Client.TYPESCRIPT_1) and cell.era is Era.MODERN:
        return "version 1 of the SDK knows no 2026-07-28"
    return None


def why_no(ability: Ability, cell: Cell) -> str | None:
    """Why a cell cannot have this ability; None when it can."""
    if ability is Ability.RESUMES and cell.transport is Transport.ALONE:
        return "its events are in the memory of the process that the client starts and ends"
    return None


ALL = tuple(Cell(client, transport, era) for client in Client for transport in Transport for era in Era)
POSSIBLE = tuple(cell for cell in ALL if why_not(cell) is None)
