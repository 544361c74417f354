"""The shapes of what `get_nvlink_topology` takes and gives."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mcp_server.wire import Shown
from mcp_server.wire_gpu import AboutGpus, AnswerOut, GpuAboutOut, Object, Unread


class GetNvlinkTopology(AboutGpus):
    """Arguments of get_nvlink_topology."""


class NvLinkGpuOut(GpuAboutOut):
    """One GPU's NVLinks."""

    links_total: Annotated[int | None, Field(description="null: not read, or no NVLink: see unread.")]
    links_up: int | None
    links_down: Annotated[list[int] | None, Field(description="Numbers of links. A board may wire fewer.")]
    links_unknown: list[int] = Field(default=[], description="Links whose state was not read.")
    speed_mb_per_s: Annotated[int | None, Field(description="All links that are up, one direction.")]
    replay_errors: Annotated[int | None, Field(description="Sums over all links since the driver's load.")]
    recovery_errors: int | None
    crc_errors: int | None
    peers: list[Object] = Field(
        default=[], description="Where the links lead: type, pci, links. Missing when to NVSwitches alone."
    )
    links: Annotated[list[Object] | None, Field(description="At full: each link.")] = None
    unread: Unread = Field(default={})


class NvSwitchLinksOut(Shown):
    """An NVSwitch, as the GPUs see it."""

    pci: str
    links: Annotated[int, Field(description="Links of these GPUs that lead to it.")]
    links_down: int
    gpus: Annotated[int, Field(description="How many of these GPUs have links to it.")]


class NvLinkOut(AnswerOut):
    """How the GPUs are connected."""

    nvswitches: list[NvSwitchLinksOut]
    gpus: list[NvLinkGpuOut]
