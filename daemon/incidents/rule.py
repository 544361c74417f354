"""One rule of the table: what it takes for two events to belong together.

A rule ties two events of one boot. Where it is directed, the first explains the second: an incident's
primary cause is the member that no other member explains. `within_s` is kernel time from the last
record of the first to the first record of the second; `before_s` is how much earlier the second may
have been printed all the same, because the driver reports from several threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from daemon.incidents.member import Member
from daemon.incidents.signs import Signs


class Scope(StrEnum):
    """What two events must share for a rule to tie them."""

    PRINTED = "printed"
    """The GPU, and the second line itself names the first's code as its cause."""
    PROCESS = "process"
    """GPU, MIG instance and pid; a pid that one of them does not know only within `UNKNOWN_PID_S`."""
    NAMED_PROCESS = "named_process"
    """GPU, MIG instance and pid, which both name."""
    PROCESS_ELSEWHERE = "process_elsewhere"
    """A pid that both name, on two GPUs."""
    INSTANCE = "instance"
    """The GPU, and the MIG instance where both name one."""
    GPU = "gpu"
    """The GPU."""
    LINK = "link"
    """Nothing: two GPUs, either of which may name the other as the far end of its link."""
    FABRIC = "fabric"
    """Nothing: a GPU and a switch, or two switches, of one node."""
    NODE = "node"
    """Nothing but the node: one of them names no device."""


UNKNOWN_PID_S = 1.0
"""In the H200 capture a 43 took the place of the last line of a 13, the one with the pid, 2.5 ms later."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One row."""

    name: str
    first: Signs
    second: Signs
    scope: Scope
    within_s: float
    why: str
    """Why the first explains the second, or why the two belong together: half a sentence."""
    source: str
    """Where the rule comes from."""
    before_s: float = 0.0
    directed: bool = True
    opens: bool = False
    """The pair is an incident even if neither event would be one by itself."""

    def ties(self, first: Member, second: Member) -> bool:
        """True when the rule holds for these two, in this order; their signs are known to fit it."""
        early = first.first_us - second.first_us
        late = second.first_us - first.last_us
        if early > self.before_s * 1e6 or late > self.within_s * 1e6:
            return False
        if self.before_s == 0 and self.directed and not second.follows(first):
            return False
        return self._shared(first, second)

    def _shared(self, first: Member, second: Member) -> bool:
        same_device = first.device == second.device
        match self.scope:
            case Scope.PRINTED:
                shared = same_device and second.caused_by is not None and second.caused_by == first.xid
            case Scope.PROCESS:
                shared = same_device and _same_instance(first, second) and _same_process(first, second)
            case Scope.NAMED_PROCESS:
                shared = (
                    same_device
                    and _same_instance(first, second)
                    and first.pid is not None
                    and first.pid == second.pid
                )
            case Scope.PROCESS_ELSEWHERE:
                shared = not same_device and first.pid is not None and first.pid == second.pid
            case Scope.INSTANCE:
                shared = same_device and _same_instance(first, second)
            case Scope.GPU:
                shared = same_device
            case Scope.LINK:
                shared = not same_device and _may_be_ends(first, second)
            case Scope.FABRIC:
                shared = not same_device
            case Scope.NODE:
                shared = first.device is None or second.device is None
        return shared


def _same_process(first: Member, second: Member) -> bool:
    if first.pid is not None and second.pid is not None:
        return first.pid == second.pid
    return abs(second.first_us - first.last_us) <= UNKNOWN_PID_S * 1e6


def _same_instance(first: Member, second: Member) -> bool:
    mine, its = first.gpu_instance, second.gpu_instance
    return mine is None or its is None or mine == its


def _may_be_ends(first: Member, second: Member) -> bool:
    """No end that is named contradicts that these two GPUs are joined by the link."""
    return first.remote_pci in (None, second.device) and second.remote_pci in (None, first.device)
