"""The shapes of what the GPU tools take and give.

Readings have their units in their names (`_c`, `_w`, `_bytes`, `_mhz`, `_us`, `_percent`). A reading
that is null could not be read, or the GPU does not have it: `unread` says which and why. A key that is
missing was not asked for (there are more at `full`), had no room in a summary, or has nothing to say: a
GPU with neither `lost` nor `no_answer` answered.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, TypeVar

from pydantic import Field, WithJsonSchema
from pydantic.json_schema import SkipJsonSchema

from daemon.gpu.expected_gpu import Presence
from daemon.gpu.source import SourceName
from daemon.gpu.verdict import Code, Source, State
from daemon.gpu.verdict import Severity as ReasonSeverity
from mcp_server.schemas import Brief
from mcp_server.wire import Arguments, Gpus, Shown


class Detail(StrEnum):
    """How much a tool tells."""

    SUMMARY = "summary"
    FULL = "full"


DetailLevel = Annotated[
    Detail,
    # Written out: pydantic's own schema of an enumeration is a reference, which some hosts do not resolve.
    WithJsonSchema(
        {
            "type": "string",
            "enum": [*Detail],
            "default": Detail.SUMMARY,
            "description": "summary: what matters, in few words. full: every reading, with why one is null.",
        }
    ),
]

_GPU_HELP = (
    "Only these GPUs: index, UUID or its beginning, PCI address in any spelling, or the UUID of a MIG "
    "instance. Leave out for all. A GPU that is left alone because a call on it may hang is asked only when "
    "it is named."
)


class AboutGpus(Arguments):
    """Arguments that every GPU tool has."""

    gpu: Gpus = Field(default=[], description=_GPU_HELP)
    detail: DetailLevel = Detail.SUMMARY


class GetGpuInventory(AboutGpus):
    """Arguments of get_gpu_inventory."""


class GetGpuHealth(AboutGpus):
    """Arguments of get_gpu_health."""

    costly: Annotated[
        bool,
        Field(description="Also read energy, PCIe traffic and PCIe error counters: some 50 ms for each GPU."),
    ] = False


Object = dict[str, Any]
"""Readings under their names."""
Unread = Annotated[dict[str, str], Field(description="Why a reading is null: its path → reason.")]
"""Missing when nothing is null."""
UnreadOfAll = Annotated[
    Object, Field(description="Summary: why a reading of gpus is null: path → reason, of which GPUs.")
]


Told = TypeVar("Told")
Aside = SkipJsonSchema[Told]
"""Of such a key the schema says only what the words for what is around it say."""


class HungOut(Brief):
    """An NVML call that did not return, or took the worker with it."""

    pci: Annotated[str | None, Field(description="null: the library.")]
    call: Annotated[str | None, Field(description="missing: as before.")] = None
    since: str
    trouble: Annotated[str, Field(description="hung, crashed; missing: as before, at first hung.")] = "hung"


class SourceOut(Brief):
    """Whether it can look at GPUs."""

    state: Annotated[SourceName, Field(description="ok, no_gpu, no_driver, off, …")]
    reason: str | None
    hint: str | None = None
    hung: list[HungOut] = Field(
        default=[],
        description="Calls that reasons do not tell.",
    )


class MigNamedOut(Brief):
    """MIG instances asked for."""

    pci: str
    uuid: str | None
    gi: int | None
    ci: int | None


class NoAnswerOut(Brief):
    """Why it did not answer."""

    trouble: Annotated[str, Field(description="hung, not_asked, …")]
    reason: Annotated[str, Field(description="missing: see reasons.")] = ""


class LastEventOut(Brief):
    """An event heard of a GPU before it was lost."""

    id: str
    time: str
    kind: str
    code: int | None
    severity: str
    summary: str


class LostOut(Brief):
    """The node lacks it."""

    presence: Presence
    since: str
    why: Annotated[str | None, Field(description="missing: see reasons.")] = None
    last_index: Annotated[int | None, Field(description="may be another's now.")]
    last_answered: Annotated[str | None, Field(description="At full.")] = None
    last_events: list[LastEventOut] = Field(default=[], description="Newest last.")


class GpuAboutOut(Shown):
    """Which GPU, and whether it answered."""

    index: Annotated[int | None, Field(description="null: lost, or not known.")]
    uuid: str | None
    pci: str
    name: str | None
    no_answer: NoAnswerOut | None = None
    lost: LostOut | None = None


class AnswerOut(Shown):
    """What every answer about GPUs begins with."""

    node: str
    as_of: str
    mock: Annotated[
        bool,
        Field(description="GPUs, readings, verdicts are invented; events are real."),
    ]
    source: SourceOut
    detail: Detail
    device_count: Annotated[int | None, Field(description="null: nobody could look.")]
    answered_count: int


class GpusAnswerOut(AnswerOut):
    """An answer of a tool that takes `gpu`."""

    mig_asked_for: list[MigNamedOut] = Field(default=[])


class SensorsOut(GpuAboutOut):
    """The readings that people ask for most; missing when the GPU's sensors could not be read."""

    memory: Object = Field(default={})
    temperature: Object = Field(default={})
    power: Object = Field(default={})
    utilization: Object = Field(default={})
    unread: Aside[dict[str, str]] = Field(default={})


class MigInstanceOut(Brief):
    """A MIG instance."""

    uuid: str | None
    gi: int | None
    ci: int | None
    profile: str | None


class MigOut(Brief):
    """MIG mode and instances; at full the whole layout."""

    enabled: bool | None
    profiles: dict[str, int] = Field(default={}, description="How many instances of each.")
    instances: list[MigInstanceOut] | None = Field(default=[], description="null: not read.")
    instances_left_out: int = 0


class InventoryGpuOut(SensorsOut):
    """One GPU; at full with unread: why a reading is null."""

    mig: Annotated[MigOut | None, Field(description="null: not read.")]
    identity: Annotated[Object | None, Field(description="At full.")] = None


class InventoryOut(GpusAnswerOut):
    """The GPUs of this node."""

    driver_version: str | None
    cuda_version: Annotated[str | None, Field(description="Newest CUDA that the driver supports.")]
    gpus: list[InventoryGpuOut]
    unread: UnreadOfAll = Field(default={})


class ReasonOut(Brief):
    """Why."""

    code: Code
    severity: ReasonSeverity
    fault: Annotated[str | None, Field(description="Xid 48.")] = None
    blame: Annotated[str | None, Field(description="whose fault that usually is.")] = None
    gpus: list[int | str] = Field(default=[], description="index or PCI; missing: the node.")
    sentence: Annotated[str, Field(description="of the first of gpus.")]
    reading: Annotated[str | None, Field(description="Its path.")] = None
    value: bool | int | float | str | None = None
    values: list[bool | int | float | str | None] = Field(
        default=[], description="one for each of gpus, in place of value."
    )
    threshold: bool | int | float | str | None = None
    threshold_source: Source | None = None
    reference: str | None = None
    events: list[str] = Field(default=[], description="Ids, newest first; summary: some.")


MoreReasons = Annotated[str, Field(description="Without room for words: severity: Xid or code, …")]


class NotCheckedOut(Brief):
    """What it does not have."""

    check: str
    why: str


class HealthGpuOut(SensorsOut):
    """One GPU; at full with its own reasons, all readings, not_checked, and unread (why one is null)."""

    state: State
    more_reasons: MoreReasons = ""
    reasons: Aside[list[ReasonOut]] = Field(default=[])
    readings: Aside[Object | None] = None
    not_checked: Aside[list[NotCheckedOut]] = Field(default=[])
    costly: Object | None = None


class HealthOut(GpusAnswerOut):
    """How the GPUs are."""

    state: Annotated[State | None, Field(description="Of the node; null: only some GPUs were asked for.")]
    reasons: Annotated[
        list[ReasonOut],
        Field(description="Gravest first: the node's; in a summary its GPUs' too, but notes."),
    ]
    more_reasons: Aside[str] = ""
    healthy_count: int
    degraded_count: int
    unhealthy_count: int
    unknown_count: int
    events_unread: Annotated[str | None, Field(description="Why events are no part of it.")]
    gpus: list[HealthGpuOut]
    unread: UnreadOfAll = Field(default={})
