"""What became of an incident, and what makes it worse than its events: the values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from daemon.event import Action, Blame


class State(StrEnum):
    """What became of an incident."""

    OPEN = "open"
    RECOVERED = "recovered"
    """Something was heard, or a time of quiet passed, that says that it is over."""
    CLOSED = "closed"
    """No longer followed, although nothing says that it recovered: merged into another incident, or
    not heard of for long."""


class How(StrEnum):
    """What closed an incident."""

    RECOVERY_ACTION_NONE = "recovery_action_none"
    DRIVER_LOADED = "driver_loaded"
    REBOOT = "reboot"
    ENDED_BY_CODE = "ended_by_code"
    QUIET = "quiet"
    MERGED = "merged"
    NOT_HEARD_AGAIN = "not_heard_again"
    CROWDED_OUT = "crowded_out"


RECOVERIES = frozenset(
    {How.RECOVERY_ACTION_NONE, How.DRIVER_LOADED, How.REBOOT, How.ENDED_BY_CODE, How.QUIET}
)


@dataclass(frozen=True, slots=True)
class Closing:
    """What closed an incident, and when."""

    how: How
    why: str
    """One half-sentence."""
    time_us: int | None
    """Wall clock of the record that closed it, µs since the Unix epoch; None where time alone did."""
    event: str | None = None
    """Id of the event that closed it."""
    kernel_us: int | None = None
    """Kernel time of that event; a fault that goes on after it opens the incident again."""


@dataclass(frozen=True, slots=True)
class Escalation:
    """A reason to take the incident more seriously than its events alone."""

    rule: str
    why: str
    time_us: int
    """Wall clock of the event that gave the reason, µs since the Unix epoch."""
    blame: Blame | None = None
    """Whom it points to; None: it changes nothing about that."""
    action: Action | None = None
    """What to do in place of the primary's action; None: no change."""
    action_text: str | None = None
    related: tuple[str, ...] = ()
    """Ids of earlier events or incidents that it rests on."""


def load_escalation(data: Mapping[str, Any]) -> Escalation:
    """The escalation of a dumped object. Raises KeyError, TypeError or ValueError on anything else."""
    return Escalation(
        rule=data["rule"],
        why=data["why"],
        time_us=data["time_us"],
        blame=Blame(data["blame"]) if data["blame"] is not None else None,
        action=Action(data["action"]) if data["action"] is not None else None,
        action_text=data["action_text"],
        related=tuple(data["related"]),
    )


def load_closing(data: Mapping[str, Any] | None) -> Closing | None:
    """The closing of a dumped object. Raises KeyError, TypeError or ValueError on anything else."""
    if data is None:
        return None
    return Closing(How(data["how"]), data["why"], data["time_us"], data["event"], data["kernel_us"])
