"""The shapes of what `describe_gpu_node` takes and gives."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from daemon.event import Severity
from daemon.gpu.verdict import State
from mcp_server.schemas import Brief
from mcp_server.wire import Arguments
from mcp_server.wire_analysis import Finding, ProbeOut
from mcp_server.wire_gpu import AnswerOut, Detail, DetailLevel, GpuAboutOut, ReasonOut


class DescribeGpuNode(Arguments):
    """Arguments of describe_gpu_node."""

    node_name: Annotated[
        str | None, Field(description="This node's name; may be left out. It speaks of no other node.")
    ] = None
    detail: DetailLevel = Detail.SUMMARY


class HostOut(Brief):
    """The machine."""

    os_name: Annotated[str | None, Field(description="In a container the image's.")]
    kernel_release: str
    architecture: str
    container: Annotated[str | None, Field(description="What xidwatch runs in.")]
    cpus: int | None
    memory_total_bytes: int | None
    uptime_s: float | None
    boot_id: str | None


class DriverOut(Brief):
    """The NVIDIA driver."""

    version: str | None
    cuda_version: str | None


class NodeGpuOut(GpuAboutOut):
    """One GPU."""

    state: State
    headline: Annotated[str, Field(description="The state with its gravest reason.")]
    reasons: list[ReasonOut] = Field(default=[], description="At full.")


class NodeFaultOut(Brief):
    """One fault of one device, however often it came."""

    severity: Severity
    title: str
    device: str | None
    count: int
    last_time: str
    summary: str
    uri: Annotated[str, Field(description="Its newest event.")]


class NodeEventsOut(Brief):
    """What was heard of late."""

    since: str
    finding: Finding
    open_incidents: Annotated[list[str], Field(description="Ids, worst first.")]
    faults: Annotated[list[NodeFaultOut], Field(description="Worst first.")]
    faults_total: int
    drills_left_out: int


class NodeProbeOut(Brief, ProbeOut):
    """What hears the kernel log, or not."""


class NodeOut(AnswerOut):
    """This node."""

    state: State
    reasons: Annotated[list[ReasonOut], Field(description="Of the node, beside its GPUs'.")]
    host: HostOut
    driver: DriverOut
    gpus: list[NodeGpuOut]
    events: NodeEventsOut | None
    events_unread: Annotated[str | None, Field(description="Why events are missing.")]
    hears: bool
    probes: list[NodeProbeOut]
    xidwatch_version: str
    xidwatch_uptime_s: float | None
