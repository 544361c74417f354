"""What of this program holds the NVIDIA driver's device files open, and how it lets go of them.

Two things do: the worker that reads GPUs, until it has been idle for a while, and the witness of NVML's
events, where that was asked for. Both keep the driver from being unloaded and a GPU from being reset. A
third, the probe of the driver's own tracepoint, opens nothing, but pins the driver's module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from daemon.event import rfc3339
from daemon.gpu.nvml_events import NvmlEvents
from daemon.gpu.released import Released


class Reader(Protocol):
    """What reads GPUs through the driver (`NvmlSource` is one)."""

    def release(self) -> None:
        """Let go of the driver's device files until the next question."""

    async def let_go(self) -> Released:
        """The same; returns when it is done."""

    def forgive(self, gpu: str) -> None:
        """Ask this GPU, a PCI address, again although a call on it hung."""


class Tracepoint(Protocol):
    """What is attached to the driver's tracepoint (`DriverProbe` is one)."""

    @property
    def attached(self) -> bool:
        """True while it pins the module."""

    def let_go(self) -> None:
        """Detach until `take_up`."""

    def take_up(self) -> None:
        """Attach again, if the driver is there."""


class DriverHold:
    """See the module's docstring. Belongs to the event loop."""

    def __init__(
        self,
        reader: Reader | None = None,
        events: NvmlEvents | None = None,
        tracepoint: Tracepoint | None = None,
    ) -> None:
        """None: this process has none."""
        self._reader = reader
        self._events = events
        self._tracepoint = tracepoint

    def release(self) -> None:
        """Let go of everything, without waiting until that is done: before a reset."""
        if self._reader is not None:
            self._reader.release()
        if self._events is not None:
            self._events.release_now()

    def forgive(self, gpu: str) -> None:
        """This GPU was reset: it may be asked again, and its events are heard again."""
        if self._reader is not None:
            self._reader.forgive(gpu)
        self.take_up()

    def take_up(self) -> None:
        """The driver was loaded anew: its events are heard again."""
        if self._events is not None:
            self._events.take_up()
        if self._tracepoint is not None:
            self._tracepoint.take_up()

    async def let_go(self) -> Mapping[str, object]:
        """Let go of everything; returns what was let go, as JSON, when that is done.

        `reader`, `events` and `tracepoint` are null where this process has none. The first two have
        the pids of processes that have `ended` and of those that are `stuck` in a call of the driver and hold
        it still.
        `events.until` is when they are heard again, unless the driver is loaded anew before.
        `tracepoint.was_attached` says whether the driver's module was pinned; it is attached again when the
        driver is loaded anew.
        """
        reader = events = tracepoint = None
        if self._tracepoint is not None:
            tracepoint = {"was_attached": self._tracepoint.attached}
            self._tracepoint.let_go()
        if self._reader is not None:
            reader = _to_json(await self._reader.let_go())
        if self._events is not None:
            released, until_us = await self._events.release()
            events = {**_to_json(released), "until": rfc3339(until_us)}
        return {"reader": reader, "events": events, "tracepoint": tracepoint}


def _to_json(released: Released) -> dict[str, object]:
    return {"ended": list(released.ended), "stuck": list(released.stuck)}
