"""Which events belong together, and which of two led to the other: the table.

The order matters: the first rule that ties two events is the one that is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from daemon.incidents.member import Member, Sign
from daemon.incidents.rule import Rule, Scope
from daemon.incidents.signs import (
    ADVICE,
    ANYTHING,
    CLEAN_UP,
    FAILED_START,
    FAULT,
    FIRMWARE,
    FIRMWARE_TROUBLE,
    LOST,
    NVLINK,
    PROGRAM_ERROR,
    REFUSED_ACCESS,
    RETIREMENT,
    SERIOUS,
    SWITCH,
    trouble,
    xids,
)

NVIDIA_CATALOGUE = "NVIDIA Xid catalogue, docs.nvidia.com/deploy/xid-errors"
NVIDIA_MEMORY = "NVIDIA GPU Memory Error Management, docs.nvidia.com/deploy/a100-gpu-mem-error-mgmt"
OPEN_DRIVER = "open-gpu-kernel-modules 595.45.04"
JUDGEMENT = "our judgement"

RULES: tuple[Rule, ...] = (
    Rule(
        "named_by_the_driver",
        first=ANYTHING,
        second=ANYTHING,
        scope=Scope.PRINTED,
        within_s=600,
        before_s=1,
        why="the driver names it as the cause",
        source=f"{OPEN_DRIVER}, krcReportXid: “caused by previous Xid N”, printed from 570.123 on",
        opens=True,
    ),
    Rule(
        "channel_of_the_program",
        first=PROGRAM_ERROR | REFUSED_ACCESS,
        second=xids(*CLEAN_UP),
        scope=Scope.PROCESS,
        within_s=10,
        why="the process lost its GPU channel through its own error",
        source=f"{NVIDIA_CATALOGUE}: 43, 45; seen on an H200: 43 follows 13 within 3 ms",
        opens=True,
    ),
    Rule(
        "errors_of_one_program",
        first=PROGRAM_ERROR | REFUSED_ACCESS,
        second=PROGRAM_ERROR | REFUSED_ACCESS,
        scope=Scope.NAMED_PROCESS,
        within_s=10,
        why="one process caused both",
        source=JUDGEMENT,
        directed=False,
        opens=True,
    ),
    Rule(
        "lost_gpu",
        first=LOST,
        second=ANYTHING,
        scope=Scope.GPU,
        within_s=600,
        why="a GPU that is off the bus answers nothing, so what is reported of it later follows from that",
        source=f"{NVIDIA_CATALOGUE}: 79; seen: 79, then 119, 154 and 45",
    ),
    Rule(
        "signs_of_the_loss",
        first=LOST,
        second=FIRMWARE | NVLINK | xids(109, 154, *CLEAN_UP),
        scope=Scope.GPU,
        within_s=600,
        before_s=10,
        why="calls to a GPU that has left the bus time out before the driver notes the loss",
        source=JUDGEMENT,
    ),
    Rule(
        "links_of_the_lost_gpu",
        first=LOST,
        second=SWITCH | NVLINK,
        scope=Scope.FABRIC,
        within_s=60,
        why="the other end of the lost GPU's links sees them go down",
        source="seen on an HGX A100: 79, 12 s later SXid 20034 (LTSSM Fault Up) on two NVSwitches",
    ),
    Rule(
        "uncorrectable_memory_error",
        first=xids(48, 140),
        second=RETIREMENT | xids(94, 95, 171, 172),
        scope=Scope.GPU,
        within_s=60,
        before_s=10,
        why="it tells what became of that memory error: the row, and how far it reached",
        source=f"{NVIDIA_MEMORY}; {NVIDIA_CATALOGUE}: 48, 171, 172",
    ),
    Rule(
        "kind_of_memory_error",
        first=xids(171, 172),
        second=RETIREMENT | xids(94, 95),
        scope=Scope.GPU,
        within_s=60,
        before_s=10,
        why="it tells what became of that memory error: the row, and how far it reached",
        source=f"{NVIDIA_CATALOGUE}: 171, 172",
    ),
    Rule(
        "reach_of_memory_error",
        first=xids(94, 95),
        second=RETIREMENT,
        scope=Scope.INSTANCE,
        within_s=60,
        before_s=10,
        why="it records the bad memory that the error was found in",
        source=f"{NVIDIA_MEMORY}; seen on an A100: 63, then 94 of the same error 8 ms later",
    ),
    Rule(
        "records_of_bad_memory",
        first=RETIREMENT,
        second=RETIREMENT,
        scope=Scope.GPU,
        within_s=60,
        why="both tell what became of bad memory",
        source=JUDGEMENT,
        directed=False,
    ),
    Rule(
        "firmware_silent",
        first=FIRMWARE,
        second=xids(119, 120),
        scope=Scope.GPU,
        within_s=120,
        why="the GPU's firmware had stopped working by then",
        source=f"{OPEN_DRIVER}, kernel_gsp.c: a call waits 6 to 45 s for an answer",
    ),
    Rule(
        "without_firmware",
        first=FIRMWARE,
        second=FIRMWARE_TROUBLE | xids(109, 158),
        scope=Scope.GPU,
        within_s=300,
        why="it needs the firmware of the GPU, which had stopped working",
        source=f"{OPEN_DRIVER}, kernel_gsp.c",
    ),
    Rule(
        "failed_start",
        first=LOST | xids(143),
        second=FAILED_START,
        scope=Scope.GPU,
        within_s=60,
        before_s=1,
        why="a GPU in this state cannot be started",
        source=f"{OPEN_DRIVER}, nv.c: the probe routine gives up on it",
    ),
    Rule(
        "failed_start_of_some_gpu",
        first=LOST | xids(143) | trouble("RM_INIT_ADAPTER_FAILED"),
        second=FAILED_START,
        scope=Scope.NODE,
        within_s=10,
        before_s=1,
        why="the driver counts the GPUs that it could not start, without naming them",
        source=f"{OPEN_DRIVER}, nv.c: “probe routine failed for N device(s)”",
    ),
    Rule(
        "both_ends_of_a_link",
        first=NVLINK,
        second=NVLINK,
        scope=Scope.LINK,
        within_s=5,
        why="an NVLink has two ends, and both report a fault of it",
        source=f"{NVIDIA_CATALOGUE}: 74: may be the echo of a fault at the other end",
        directed=False,
    ),
    Rule(
        "switch_between",
        first=NVLINK,
        second=SWITCH,
        scope=Scope.FABRIC,
        within_s=5,
        why="GPU and NVSwitch are the two ends of a link",
        source="NVIDIA Fabric Manager user guide, NVSwitch SXid errors",
        directed=False,
    ),
    Rule(
        "several_switches",
        first=SWITCH,
        second=SWITCH,
        scope=Scope.FABRIC,
        within_s=5,
        why="the links of one GPU are spread over all NVSwitches",
        source="seen on an HGX A100: SXid 20034 on nvswitch0 and nvswitch2 within 4 ms",
        directed=False,
    ),
    Rule(
        "clean_up",
        first=SERIOUS,
        second=xids(*CLEAN_UP),
        scope=Scope.INSTANCE,
        within_s=60,
        why="the driver takes down the channels that the fault hit",
        source=f"{NVIDIA_CATALOGUE}: 45: not alone: follow the other Xid",
    ),
    Rule(
        "same_process_elsewhere",
        first=SERIOUS | PROGRAM_ERROR | REFUSED_ACCESS,
        second=xids(*CLEAN_UP),
        scope=Scope.PROCESS_ELSEWHERE,
        within_s=60,
        why="the process that the fault hit held this GPU too",
        source=f"{NVIDIA_CATALOGUE}: 45: the application ended, for whatever reason",
    ),
    Rule(
        "end_of_one_process",
        first=xids(*CLEAN_UP),
        second=xids(*CLEAN_UP),
        scope=Scope.PROCESS_ELSEWHERE,
        within_s=10,
        why="one process lost its channels on both GPUs",
        source=f"{NVIDIA_CATALOGUE}: 45: the application ended, for whatever reason",
        directed=False,
    ),
    Rule(
        "advice",
        first=FAULT,
        second=xids(*ADVICE),
        scope=Scope.GPU,
        within_s=600,
        before_s=10,
        why="it is the driver's advice on how to recover from it",
        source=f"{NVIDIA_CATALOGUE}: 154 linkage",
    ),
    Rule(
        "at_once",
        first=SERIOUS,
        second=SERIOUS,
        scope=Scope.GPU,
        within_s=10,
        why="two serious faults of one GPU within seconds are taken for one",
        source=JUDGEMENT,
        directed=False,
    ),
    Rule(
        "then_lost",
        first=FIRMWARE | xids(109, 158),
        second=LOST,
        scope=Scope.GPU,
        within_s=600,
        why="the GPU had failed to answer in time before it was lost",
        source=JUDGEMENT,
        directed=False,
    ),
)
"""The whole table."""


@dataclass(frozen=True, slots=True)
class Tie:
    """Two events belong together."""

    rule: Rule
    rank: int
    """Place of the rule in the table: the lower, the more it tells."""
    forwards: bool
    """The older member of the incident explains the newcomer; False: the other way round. A tie
    that is not directed is always forwards."""


def tie(known: Member, newcomer: Member) -> Tie | None:
    """The first rule that ties a member of an incident, or a candidate, to an event just heard."""
    if known.event.boot_id != newcomer.event.boot_id or known.event.drill != newcomer.event.drill:
        return None
    for rank, forwards in _may_tie(known.sign, newcomer.sign):
        rule = RULES[rank]
        first, second = (known, newcomer) if forwards else (newcomer, known)
        if rule.ties(first, second) and _not_denied(rule, first, second):
            return Tie(rule, rank, forwards or not rule.directed)
    return None


@lru_cache(maxsize=4096)
def _may_tie(known: Sign, newcomer: Sign) -> Sequence[tuple[int, bool]]:
    """The rules whose signs these two fit, in the table's order: the rule's place, and whether the known
    one comes first in it. A storm asks this of the same few pairs again and again."""
    return tuple(
        (rank, forwards)
        for rank, rule in enumerate(RULES)
        for forwards, first, second in ((True, known, newcomer), (False, newcomer, known))
        if first in rule.first and second in rule.second
    )


_RANKS = {rule.name: rank for rank, rule in enumerate(RULES)}


def rank_of(rule: str) -> int:
    """Place in the table of the rule of this name; behind all others where there is none."""
    return _RANKS.get(rule, len(RULES))


def _not_denied(rule: Rule, first: Member, second: Member) -> bool:
    """False when the driver names another cause for the second event."""
    return not rule.directed or second.caused_by in (None, first.xid)


def reaches_beyond_its_device(member: Member) -> bool:
    """True when a rule may tie it to events of other devices."""
    return member.device is None or any(member.sign in signs for signs in _REACHING)


_REACHING = (NVLINK, SWITCH, FAILED_START, xids(*CLEAN_UP))


LASTING = frozenset({163})
"""Conditions that go on until another code ends them, however mild they are."""

ENDED_BY = {162: 163}
"""Xid → the lasting one that it ends (NVIDIA: PSHC_REENGAGED after PSHC_DISENGAGED)."""


def opens_incident(member: Member) -> bool:
    """True for an event that is an incident by itself.

    Serious faults, what the driver asks to be recovered from, and lasting conditions. Not a lone
    application error: the program is at fault and is gone, and the event already says all there is.
    """
    return member.is_serious or member.asks_for_recovery or member.xid in LASTING
