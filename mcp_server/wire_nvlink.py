"""The shapes of what `get_nvlink_topology` takes and gives."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mcp_server.schemas import Brief
from mcp_server.wire_gpu import AboutGpus, GpuAboutOut, GpusAnswerOut, Object, Unread


class GetNvlinkTopology(AboutGpus):
    """Arguments of get_nvlink_topology."""


class NvLinkGpuOut(GpuAboutOut):
    """One GPU's NVLinks."""

    links_total: Annotated[int | None, Field(description="null: not read, or no NVLink: see unread.")]
    links_up: int | None
    links_down: Annotated[list[int] | None, Field(description="Numbers. A board may wire fewer.")]
    links_unknown: list[int] = Field(default=[], description="Links whose state was not read.")
    speed_mb_per_s: Annotated[int | None, Field(description="All links that are up, one direction.")]
    replay_errors: Annotated[int | None, Field(description="Of all links, since the driver's load.")]
    recovery_errors: int | None
    crc_errors: int | None
    peers: list[Object] = Field(
        default=[], description="Where the links lead: type, pci, links. Missing when to NVSwitches alone."
    )
    links: Annotated[list[Object] | None, Field(description="At full: each link.")] = None
    unread: Unread = Field(default={})


class NvSwitchLinksOut(Brief):
    """An NVSwitch, as the GPUs see it."""

    pci: str
    links: Annotated[int, Field(description="Links of these GPUs that lead to it.")]
    links_down: int
    gpus: Annotated[int, Field(description="How many of these GPUs have links to it.")]


class NvLinkOut(GpusAnswerOut):
    """How the GPUs are connected."""

    nvswitches: Annotated[list[NvSwitchLinksOut] | None, Field(description="null: no link could be read.")]
    gpus: list[NvLinkGpuOut]
