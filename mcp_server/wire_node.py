"""The shapes of what `describe_gpu_node` takes and gives."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from daemon.gpu.verdict import State
from mcp_server.schemas import Brief
from mcp_server.wire import Arguments
from mcp_server.wire_analysis import Finding, ProbeOut
from mcp_server.wire_gpu import (
    AnswerOut,
    Aside,
    Detail,
    DetailLevel,
    GpuAboutOut,
    MoreReasons,
    ReasonOut,
)


class DescribeGpuNode(Arguments):
    """Arguments of describe_gpu_node."""

    node_name: Annotated[
        str | None, Field(description="This node's name; may be left out. It speaks of no other node.")
    ] = None
    detail: DetailLevel = Detail.SUMMARY


class HostOut(Brief):
    """The machine."""

    os_name: Annotated[str | None, Field(description="of the image in a container.")]
    kernel_release: str
    architecture: str
    container: str | None
    cpus: int | None
    memory_total_bytes: int | None
    uptime_s: float | None
    boot_id: str | None


class DriverOut(Brief):
    """The NVIDIA driver."""

    version: str | None
    cuda_version: str | None


class NodeGpuOut(GpuAboutOut):
    """One GPU; at full with its own reasons and a headline."""

    state: State
    more_reasons: MoreReasons = ""
    headline: Aside[str] = ""
    reasons: Aside[list[ReasonOut]] = Field(default=[])


class NodeFaultOut(Brief):
    """A fault."""

    severity: str
    title: str
    device: str | None
    count: int
    last_time: str
    summary: str
    uri: Annotated[str, Field(description="of its newest event.")]


class NodeEventsOut(Brief):
    """The last day."""

    since: str
    finding: Finding
    open_incidents: Annotated[list[str], Field(description="ids, worst first.")]
    faults: Annotated[list[NodeFaultOut], Field(description="worst first.")]
    faults_total: int
    drills_left_out: int


class NodeProbeOut(Brief, ProbeOut):
    """What hears, or not."""


class NodeOut(AnswerOut):
    """This node."""

    state: State
    reasons: Annotated[
        list[ReasonOut],
        Field(description="Gravest first: the node's; in a summary its GPUs' too, but notes."),
    ]
    more_reasons: Aside[str] = ""
    host: HostOut
    driver: DriverOut
    gpus: list[NodeGpuOut]
    events: NodeEventsOut | None
    events_unread: Annotated[str | None, Field(description="Why events are missing.")]
    hears: bool
    probes: list[NodeProbeOut]
    xidwatch_version: str
    xidwatch_uptime_s: float | None
