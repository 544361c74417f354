"""What would be done, exactly: a value for a person to read, confirm once, and hold against what was done."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from daemon.operator.audit import OperatorAction, Outcome
from daemon.text import clean

QUOTED_CHARS = 240

TargetT = TypeVar("TargetT")
RequestT_contra = TypeVar("RequestT_contra", contravariant=True)


@dataclass(frozen=True, slots=True)
class Plan(Generic[TargetT]):
    """What would be done, and to whom."""

    action: OperatorAction
    target: TargetT
    """What the plan is bound to: it is void once a fresh plan has another target."""
    sentence: str
    """What will be done, for a person, with its full stop."""
    affected: tuple[str, ...]
    """What else it changes, a sentence each."""
    gpus: tuple[str, ...]
    """PCI addresses, by address."""
    pid: int | None = None
    process_name: str | None = None
    detail: Mapping[str, object] = field(default_factory=dict)
    """JSON: the facts behind the sentence."""

    def to_json(self) -> dict[str, object]:
        """As a JSON object."""
        return {
            "action": self.action.value,
            "sentence": self.sentence,
            "affected": list(self.affected),
            "gpus": list(self.gpus),
            "pid": self.pid,
            "process_name": self.process_name,
            "detail": dict(self.detail),
        }


@dataclass(frozen=True, slots=True)
class Ending:
    """What came of an act."""

    outcome: Outcome
    """DONE or FAILED."""
    sentence: str
    """For a person, with its full stop."""
    detail: Mapping[str, object] = field(default_factory=dict)
    """JSON."""


class Operation(Protocol[RequestT_contra, TargetT]):
    """Something that can be done to the node."""

    action: OperatorAction

    async def plan(self, request: RequestT_contra) -> Plan[TargetT]:
        """What would be done. Changes nothing. Raises UserError when it is refused."""

    async def act(self, request: RequestT_contra, plan: Plan[TargetT], begin: Callable[[], None]) -> Ending:
        """Check everything again and do it; `begin` is called in between.

        Raises UserError when it is refused, which happens only before `begin`.
        """


def quoted(text: str) -> str:
    """Text that a process chose (name, command line) as a JSON string, cleaned and cut."""
    return json.dumps(clean(text, QUOTED_CHARS), ensure_ascii=False)
