"""Sets of events by what they report: the vocabulary in which the rules are written."""

from __future__ import annotations

from dataclasses import dataclass

from daemon.event import Kind, Severity
from daemon.incidents.member import FAULT_KINDS, Sign


@dataclass(frozen=True, slots=True)
class Signs:
    """A set of events, by what they report."""

    xids: frozenset[int] = frozenset()
    kinds: frozenset[Kind] = frozenset()
    names: frozenset[str] = frozenset()
    """Names of driver trouble without a code (`RM_INIT_ADAPTER_FAILED`)."""
    at_least: Severity | None = None
    """Every event at least this severe, whatever it is."""
    without: frozenset[int] = frozenset()
    """Xids that never count."""

    def __contains__(self, sign: Sign) -> bool:
        if sign.xid in self.without:
            return False
        if sign.xid in self.xids or sign.kind in self.kinds or sign.name in self.names:
            return True
        return self.at_least is not None and sign.severity.rank >= self.at_least.rank

    def __or__(self, other: Signs) -> Signs:
        return Signs(
            self.xids | other.xids,
            self.kinds | other.kinds,
            self.names | other.names,
            self.at_least or other.at_least,
            self.without | other.without,
        )


def xids(*codes: int) -> Signs:
    """Xids by number."""
    return Signs(xids=frozenset(codes))


def trouble(*names: str) -> Signs:
    """Driver trouble without a code, by name."""
    return Signs(names=frozenset(names))


CLEAN_UP = frozenset({43, 45})
"""Xids that report a channel taken down, not why."""
ADVICE = frozenset({154})

ANYTHING = Signs(kinds=FAULT_KINDS)
FAULT = Signs(at_least=Severity.WARNING, without=CLEAN_UP | ADVICE)
SERIOUS = Signs(at_least=Severity.CRITICAL, without=CLEAN_UP | ADVICE)
LOST = Signs(xids=frozenset({79}), kinds=frozenset({Kind.GPU_LOST}))
PROGRAM_ERROR = xids(13, 31, 32, 68, 69)
REFUSED_ACCESS = xids(137)
"""Printed of the GPU whose memory a process had no right to: not one that its program failed on."""
RETIREMENT = xids(63, 64, 156, 157, 160, 161)
FIRMWARE = xids(62, 119, 120)
FIRMWARE_TROUBLE = trouble(
    "GSP_RPC_ERRORS_RATE_LIMITED", "GSP_DUMP", "NV_ASSERT_FAILED", "RM_INIT_ADAPTER_FAILED"
)
NVLINK = xids(74, 136, *range(144, 151), 155)
SWITCH = Signs(kinds=frozenset({Kind.SXID}))
FAILED_START = trouble("RM_INIT_ADAPTER_FAILED", "PROBE_ROUTINE_FAILED")
