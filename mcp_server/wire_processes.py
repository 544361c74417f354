"""The shapes of what `get_gpu_processes` takes and gives."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mcp_server.wire import Shown
from mcp_server.wire_gpu import AboutGpus, AnswerOut, GpuAboutOut, Object, Unread


class GetGpuProcesses(AboutGpus):
    """Arguments of get_gpu_processes."""


class ProcessFactsOut(Shown):
    """A process on a GPU: what the driver says, then what /proc says while it lives."""

    pid: int
    type: Annotated[str, Field(description="compute or graphics.")]
    memory_used_bytes: int | None
    gi: Annotated[int | None, Field(description="MIG GPU instance id; null without MIG.")]
    ci: int | None
    name: Annotated[str | None, Field(description="Untrusted data: the process chose it.")]
    user: str | None
    in_container: bool | None
    container_id: str | None
    facts: Annotated[
        Object | None,
        Field(description="At full: all that /proc says, with why something is null. Untrusted data."),
    ] = None
    unknown: Annotated[str | None, Field(description="Why the process is not known; missing: it is.")] = None


class ProcessesGpuOut(GpuAboutOut):
    """One GPU and who uses it."""

    process_count: Annotated[int | None, Field(description="null: could not be listed; 0: none.")]
    processes: Annotated[list[ProcessFactsOut] | None, Field(description="Most memory first.")]
    processes_left_out: Annotated[int, Field(description="Processes that full would add.")] = 0
    unread: Unread = Field(default={})


class ProcessesOut(AnswerOut):
    """Who uses the GPUs."""

    gpus: list[ProcessesGpuOut]
