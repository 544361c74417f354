"""What became of a cell's conversation."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.clients.cells import Ability


@dataclass
class Outcome:
    """Filled in while the client talks."""

    shown: dict[Ability, str] = field(default_factory=dict)
    """How each ability was shown."""
    failed: str | None = None
    """Why the conversation went no further."""
    unavailable: str | None = None
    """Why the client cannot be had here at all."""
