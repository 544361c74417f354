"""What a mock GPU is doing, and who it is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Condition(StrEnum):
    """What a mock GPU is doing; the names are those of scenario files and commands."""

    IDLE = "idle"
    BUSY = "busy"
    """In training: full memory, 100 % utilisation, at the power limit. Healthy."""
    THROTTLING = "throttling"
    """As busy, and so hot that the hardware slows it down."""
    DEGRADING = "degrading"
    """As busy, with memory errors, a row remapping that waits for a reset, and an NVLink down."""
    HUNG = "hung"
    """No NVML call on it returns."""
    LOST = "lost"
    """Fallen off the bus: NVML says `GPU is lost`."""
    GONE = "gone"
    """No longer in the driver's list."""


WORKING = frozenset({Condition.BUSY, Condition.THROTTLING, Condition.DEGRADING})
"""The conditions in which a program runs on the GPU."""


@dataclass(frozen=True, slots=True)
class Board:
    """Who a mock GPU is."""

    index: int
    """NVML index."""
    pci: str
    """Domain:bus:device.function, lower-case hex."""
    mig: tuple[str, ...] = ()
    """Profiles of its GPU instances: `3g.71gb`. Empty: MIG is off."""

    @property
    def uuid(self) -> str:
        """Different from its first digits on, so that a short beginning names one GPU."""
        return f"GPU-{0xA0 + self.index:02x}000000-6d6f-636b-8000-{self.index:012x}"

    def mig_uuid(self, gi: int) -> str:
        """UUID of the MIG device in GPU instance `gi`."""
        return f"MIG-{0xA0 + self.index:02x}{gi:06x}-6d6f-636b-8000-{self.index:012x}"


@dataclass(frozen=True, slots=True)
class Profile:
    """A MIG profile of the H200."""

    id: int
    """Of the GPU instance, as nvidia-smi lists it."""
    compute_id: int
    """Of the compute instance that takes all of it."""
    compute_slices: int
    """Of 7."""
    memory_slices: int
    """Of 8."""
    memory_bytes: int
    multiprocessors: int


_GIB = 1024**3
PROFILES = {
    "1g.18gb": Profile(19, 0, 1, 1, 16 * _GIB, 16),
    "1g.35gb": Profile(15, 0, 1, 2, 33 * _GIB, 26),
    "2g.35gb": Profile(14, 1, 2, 2, 33 * _GIB, 32),
    "3g.71gb": Profile(9, 2, 3, 4, 69 * _GIB, 60),
    "4g.71gb": Profile(5, 3, 4, 4, 69 * _GIB, 64),
    "7g.141gb": Profile(0, 4, 7, 8, 140 * _GIB, 132),
}
"""By name, after the MIG User Guide; memory sizes are rounded."""
COMPUTE_SLICES, MEMORY_SLICES = 7, 8
