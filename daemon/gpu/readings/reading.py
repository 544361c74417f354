"""What one GPU answered to one question."""

from __future__ import annotations

from dataclasses import dataclass

from daemon.gpu.readings.costly import Costly
from daemon.gpu.readings.health import Health
from daemon.gpu.readings.identity import Identity
from daemon.gpu.readings.mig import MigLayout
from daemon.gpu.readings.nvlink import NvLink
from daemon.gpu.readings.processes import Processes
from daemon.gpu.readings.section import Section


@dataclass(frozen=True, slots=True)
class Reading(Section):
    """One GPU's answer, or why there is none. A payload that was not asked for is None."""

    pci: str
    """Domain:bus:device.function, lower-case hex."""
    answered: bool
    """The worker came back for this GPU with what was asked."""
    trouble: str | None = None
    """Why it did not answer, by name: `lost`, `hung`, `slow`, `crashed`, …; None when it did."""
    reason: str | None = None
    """The same in words."""
    took_ms: float | None = None
    """From the request to the answer, or until it was given up."""
    identity: Identity | None = None
    health: Health | None = None
    processes: Processes | None = None
    nvlink: NvLink | None = None
    mig: MigLayout | None = None
    costly: Costly | None = None

    @property
    def lost(self) -> bool:
        """The driver says that this GPU is lost: it no longer answers on its bus."""
        return self.trouble == "lost"
