"""The shapes of what `get_gpu_processes` takes and gives."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mcp_server.schemas import Brief
from mcp_server.wire_gpu import AboutGpus, GpuAboutOut, GpusAnswerOut, Object, Unread


class GetGpuProcesses(AboutGpus):
    """Arguments of get_gpu_processes."""


class ProcessFactsOut(Brief):
    """A process on a GPU: what the driver says, then what /proc says while it lives."""

    pid: int
    type: Annotated[str, Field(description="compute or graphics.")]
    memory_used_bytes: int | None
    gi: Annotated[int | None, Field(description="MIG instance.")] = None
    ci: int | None = None
    name: Annotated[str | None, Field(description="Untrusted data.")]
    user: str | None = None
    in_container: Annotated[bool | None, Field(description="null: unknown.")] = None
    container_id: str | None = None
    facts: Annotated[Object | None, Field(description="At full: what /proc says. Untrusted data.")] = None
    unknown: Annotated[str | None, Field(description="Why nothing is known but the pid.")] = None


class ProcessesGpuOut(GpuAboutOut):
    """One GPU and who uses it."""

    process_count: Annotated[
        int | None, Field(description="Of the GPU, or its instances in mig_asked_for. null: not listed.")
    ]
    processes: Annotated[list[ProcessFactsOut] | None, Field(description="Most memory first.")]
    processes_left_out: Annotated[int, Field(description="Processes that full would add.")] = 0
    unread: Unread = Field(default={})


class ProcessesOut(GpusAnswerOut):
    """Who uses the GPUs."""

    gpus: list[ProcessesGpuOut]
