"""Where readings of GPUs come from: the seam between what reads GPUs and everything that uses readings.

A question is answered within its deadline, whatever the GPUs do; it raises nothing for what they do. A GPU
that does not answer is in the answer with its reason, and with what is known of it without NVML.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from daemon.gpu.answers import HungCall
from daemon.gpu.readings import Reading


class SourceName(StrEnum):
    """What can be said of the source as a whole."""

    OK = "ok"
    """The driver answers; single GPUs may not."""
    UNASKED = "unasked"
    """Nobody has asked yet: nothing is known."""
    OFF = "off"
    """Switched off: `--gpu off`."""
    NO_LIBRARY = "no_library"
    VERSION_MISMATCH = "version_mismatch"
    NO_DRIVER = "no_driver"
    NO_GPU = "no_gpu"
    """The driver answers, for no GPU."""
    NO_PERMISSION = "no_permission"
    HUNG = "hung"
    """The library itself does not return."""
    CRASHED = "crashed"
    """The library crashes when it is initialised."""
    FAILED = "failed"
    """Anything else; the reason says what."""


@dataclass(frozen=True, slots=True)
class SourceState:
    """How the source is, as of the last question."""

    name: SourceName
    reason: str | None = None
    """A sentence without its full stop; None when all is well."""
    hint: str | None = None
    """What to do about it; None when there is nothing to do, or nothing better than the reason."""
    mock: bool = False
    """These GPUs are invented."""
    hung: tuple[HungCall, ...] = ()
    """GPUs that are left alone, because a call on them hung or crashed; the longest first."""
    abandoned: int = 0
    """Worker processes given up so far because a call in them did not return."""
    numbering: int = 0
    """Grows each time that the GPUs are numbered anew: indices read under one value belong together."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """The answer to one question: every GPU asked about, or that there is."""

    state: SourceState
    gpus: tuple[Reading, ...] = ()
    """By PCI address. A GPU whose address could not be found out has `#N`, its index, in its place."""


class GpuSource(Protocol):
    """Reads GPUs. `gpus` are PCI addresses in the one spelling, or `#N` for the GPU of index N whose address
    could not be found out; None: all there are. `insist` asks them although they are left alone because a
    call on them hung."""

    def state(self) -> SourceState:
        """How things stand, without asking anybody."""

    async def listed(self) -> Sequence[str] | None:
        """The PCI addresses of the GPUs that the driver lists, found out without calling any of them; None:
        that cannot be found out."""

    async def inventory(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        """Readings with `identity`, MIG layout included."""

    async def health(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        """Readings with `health`."""

    async def processes(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        """Readings with `processes`."""

    async def nvlink(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        """Readings with `nvlink`."""

    async def costly(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        """Readings with `costly`: what takes tens of milliseconds and is read only when asked for."""

    async def close(self) -> None:
        """End what the source runs."""
