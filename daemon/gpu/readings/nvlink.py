"""NVLink: each link's state, peer and error counters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from daemon.gpu.readings.section import Section


@dataclass(frozen=True, slots=True)
class Link(Section):
    """One NVLink of a GPU. Counters count since the driver was loaded or the GPU reset."""

    link: int
    """Number of the link on this GPU, from 0."""
    up: bool | None = None
    """False is normal for a link that the board does not wire."""
    speed_mb_per_s: int | None = None
    """Speed of one direction; None for a link that is down."""
    version: int | None = None
    """NVML's number for the NVLink version: 5 is 3.1, 6 is 4.0, 7 is 5.0."""
    remote_type: str | None = None
    """`gpu`, `switch`, `npu` or `unknown`."""
    remote_pci: str | None = None
    """PCI address of the device at the other end, as this machine sees it."""
    remote_link: int | None = None
    """Number of the link at the other end."""
    replay_errors: int | None = None
    recovery_errors: int | None = None
    """Times the link had to be trained again."""
    crc_errors: int | None = None
    receive_errors: int | None = None
    """This and the counters below: NVLink 5 (Blackwell) and later."""
    symbol_errors: int | None = None
    effective_errors: int | None = None
    """Errors that forward error correction could not mend."""
    recoveries: int | None = None
    recoveries_failed: int | None = None


@dataclass(frozen=True, slots=True)
class NvLink(Section):
    """All links of a GPU."""

    links: tuple[Link, ...] | None = None
    """None: not read, or this GPU has no NVLink (`unread` says which)."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """Why a field is null: `links.3.remote_pci`; `links.*.symbol_errors` for all links alike."""

    @property
    def switches(self) -> tuple[str, ...] | None:
        """PCI addresses of the NVSwitches at the other ends, sorted; None when no link was read."""
        if self.links is None:
            return None
        return tuple(
            sorted(
                {link.remote_pci for link in self.links if link.remote_type == "switch" and link.remote_pci}
            )
        )
