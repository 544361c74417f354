"""The record that an act on the node leaves: what was begun, how it ended, and what was refused or declined.

One entry when an act begins and one when it ends, so that an act whose end nobody saw is on record
too. Answers that only show a plan leave none: nothing was done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from daemon.operator.who import Who


class OperatorAction(StrEnum):
    """What can be done to the node, named as the tools are."""

    KILL_GPU_PROCESS = "kill_gpu_process"
    RESET_GPU = "reset_gpu"


class Outcome(StrEnum):
    """What an entry says of an act."""

    BEGUN = "begun"
    """It was confirmed and checked again, and is being done; another entry follows."""
    DONE = "done"
    """It had the effect it was meant to have."""
    FAILED = "failed"
    """It was done, and did not have that effect; or nobody saw its end."""
    REFUSED = "refused"
    """It was confirmed, or asked for by somebody who may not, and nothing was done: the sentence says why."""
    DECLINED = "declined"
    """The person who was asked did not say yes. Nothing was done."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One record; a value. Who receives it stamps the time."""

    action: OperatorAction
    outcome: Outcome
    sentence: str
    """For a person, with its full stop. Names of processes in it are cleaned and quoted."""
    gpu: str | None = None
    """PCI address; of several the first, and `detail` has all."""
    pid: int | None = None
    """In the host's pid namespace."""
    process_name: str | None = None
    """Command name, cleaned: chosen by the process itself, not to be trusted."""
    asked_by: str | None = None
    """What the client says of itself: name and version, and where it is; None when it says nothing."""
    who: Who | None = None
    """Who that is, as the daemon found out; None where nobody looked."""
    detail: Mapping[str, object] = field(default_factory=dict)
    """JSON: the plan, and what came of it."""

    @property
    def summary(self) -> str:
        """How it ended, who asked, and what was done, as an event says it: without its full stop."""
        said = self.asked_by or "unknown"
        asker = said if self.who is None else f"{self.who} ({said})"
        return f"{self.outcome.upper()}, asked by {asker}: {self.sentence.rstrip('.')}"


Audit = Callable[[AuditEntry], None]
"""Takes a record, in the event loop: it must not block. When it raises for `BEGUN`, nothing is done."""
