"""The shapes of what the GPU tools take and give.

Readings have their units in their names (`_c`, `_w`, `_bytes`, `_mhz`, `_us`, `_percent`). A reading
that is null could not be read, or the GPU does not have it: `unread` says which and why. A key that is
missing was not asked for (there are more at `full`), or has nothing to say: a GPU with neither `lost`
nor `no_answer` answered.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from daemon.event import Severity
from daemon.gpu.expected_gpu import Presence
from daemon.gpu.source import SourceName
from daemon.gpu.verdict import Code, Source, State
from daemon.gpu.verdict import Severity as ReasonSeverity
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


class HungOut(Shown):
    """An NVML call that did not return, or took the worker with it."""

    pci: Annotated[str | None, Field(description="The GPU; null: a call of the library itself.")]
    call: Annotated[str, Field(description="The NVML function; empty when it is not known.")]
    since: str
    trouble: Annotated[str, Field(description="hung or crashed.")]


class SourceOut(Shown):
    """Where the readings come from, and whether it can look."""

    state: Annotated[SourceName, Field(description="ok: the driver answers; single GPUs may not.")]
    reason: Annotated[str | None, Field(description="Why it cannot look, or what is to know of it.")]
    hint: str | None = None
    hung: list[HungOut] = Field(default=[], description="GPUs left alone for a while, the longest first.")


class MigNamedOut(Shown):
    """A MIG instance that was asked for; readings are those of its GPU where NVML has no others."""

    pci: Annotated[str, Field(description="Its GPU.")]
    uuid: str | None
    gi: Annotated[int | None, Field(description="GPU instance id.")]
    ci: Annotated[int | None, Field(description="Compute instance id.")]


class NoAnswerOut(Shown):
    """Why a GPU did not answer: nothing is known of it as of now."""

    trouble: Annotated[str, Field(description="lost, gone, hung, slow, crashed, not_asked, …")]
    reason: str


class LastEventOut(Shown):
    """An event heard of a GPU before it was lost."""

    id: str
    time: str
    kind: str
    code: int | None
    severity: Severity
    summary: str


class LostOut(Shown):
    """The node is expected to have this GPU, and lacks it."""

    presence: Annotated[Presence, Field(description="lost: it does not answer; gone: it is not listed.")]
    since: str
    why: str | None
    last_index: Annotated[int | None, Field(description="NVML index it had; another GPU may have it now.")]
    last_answered: Annotated[str | None, Field(description="At full.")] = None
    last_events: list[LastEventOut] = Field(
        default=[], description="Newest last. A summary has the newest, and only of a question about health."
    )


class GpuAboutOut(Shown):
    """Which GPU, and whether it answered."""

    index: Annotated[int | None, Field(description="NVML index; null for a GPU that is lost.")]
    uuid: str | None
    pci: Annotated[str, Field(description="domain:bus:device.function")]
    name: str | None
    no_answer: Annotated[NoAnswerOut | None, Field(description="Missing: it answered, or is lost.")] = None
    lost: Annotated[LostOut | None, Field(description="Missing: it is there, as far as is known.")] = None


class AnswerOut(Shown):
    """What every answer about GPUs begins with."""

    node: str
    as_of: Annotated[str, Field(description="When it was looked at, by the node's clock.")]
    mock: Annotated[bool, Field(description="True: these GPUs are invented.")]
    source: SourceOut
    detail: Detail
    device_count: Annotated[int, Field(description="GPUs in this answer, lost ones included.")]
    answered_count: Annotated[int, Field(description="Those of them that answered.")]
    mig_asked_for: Annotated[list[MigNamedOut], Field(description="MIG instances that `gpu` named.")]


class SensorsOut(GpuAboutOut):
    """The readings that people ask for most; missing when the GPU's sensors could not be read."""

    memory: Object | None = None
    temperature: Object | None = None
    power: Object | None = None
    utilization: Object | None = None
    unread: Unread = Field(default={})


class InventoryGpuOut(SensorsOut):
    """One GPU of the inventory."""

    mig: Annotated[Object | None, Field(description="Mode and instances; null: not read.")]
    identity: Annotated[
        Object | None, Field(description="At full: serial, part numbers, firmware, clocks.")
    ] = None


class InventoryOut(AnswerOut):
    """The GPUs of this node."""

    driver_version: str | None
    cuda_version: Annotated[str | None, Field(description="Newest CUDA that the driver supports.")]
    gpus: list[InventoryGpuOut]


class ReasonOut(Shown):
    """A reason of a verdict."""

    code: Code
    severity: Annotated[
        ReasonSeverity,
        Field(description="What it does to the verdict; unknown: could not be looked at; note: nothing."),
    ]
    sentence: str
    reading: Annotated[str | None, Field(description="Path of the reading, its unit in its name.")]
    value: bool | int | float | str | None
    threshold: bool | int | float | str | None
    threshold_source: Annotated[
        Source, Field(description="The driver, a document of NVIDIA (`reference`), or our judgement.")
    ]
    reference: str | None = None
    events: list[str] = Field(default=[], description="Ids of the events it is about, newest first.")


class NotCheckedOut(Shown):
    """Something that the GPU or its driver does not have."""

    check: str
    why: str


class HealthGpuOut(SensorsOut):
    """One GPU: the verdict, its reasons, and readings."""

    state: State
    reasons: Annotated[list[ReasonOut], Field(description="Gravest first; all of them at full.")]
    reasons_left_out: Annotated[int, Field(description="Reasons, with notes, that full would add.")] = 0
    readings: Annotated[Object | None, Field(description="At full: every other reading, by section.")] = None
    not_checked: list[NotCheckedOut] = Field(default=[], description="At full: what this GPU does not have.")
    costly: Annotated[
        Object | None, Field(description="With `costly`: energy, PCIe traffic and errors; null: not read.")
    ] = None


class HealthOut(AnswerOut):
    """How the GPUs are."""

    state: Annotated[State | None, Field(description="Of the node; null when only some GPUs were asked for.")]
    reasons: Annotated[list[ReasonOut], Field(description="Of the node, beside its GPUs'.")]
    healthy_count: int
    degraded_count: int
    unhealthy_count: int
    unknown_count: int
    events_unread: Annotated[
        str | None,
        Field(description="Why the events of the last hour are not part of it; null: they are."),
    ]
    gpus: list[HealthGpuOut]
