"""A `GpuSource` that looks at no GPU, and says why: `--gpu off`, or a process that has no worker.

Every answer is "could not look", never "there is none".
"""

from __future__ import annotations

from collections.abc import Sequence

from daemon.gpu.source import SourceName, SourceState, Sweep


class OffSource:
    """Answers every question with its reason."""

    def __init__(self, reason: str, hint: str | None = None) -> None:
        """`reason` is a sentence without its full stop, `hint` says what to do about it."""
        self._state = SourceState(SourceName.OFF, reason, hint)

    def state(self) -> SourceState:
        """Always off."""
        return self._state

    async def listed(self) -> Sequence[str] | None:
        """None: nobody looks."""
        return None

    async def inventory(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        """Nothing was looked at."""
        return Sweep(self._state)

    async def health(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        """Nothing was looked at."""
        return Sweep(self._state)

    async def processes(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        """Nothing was looked at."""
        return Sweep(self._state)

    async def nvlink(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        """Nothing was looked at."""
        return Sweep(self._state)

    async def costly(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        """Nothing was looked at."""
        return Sweep(self._state)

    async def close(self) -> None:
        """Nothing runs."""
