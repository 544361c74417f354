"""A running server whose GPUs are a mock fleet, and the events that go with what the fleet does."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from daemon.event import Event, Gpu
from daemon.gpu.mock import Board, MockFleet, MockSource, parse
from daemon.gpu.off import OffSource
from daemon.gpu.source import GpuSource, SourceState, Sweep
from tests.mcp_server.samples import xid
from tests.mcp_server.serving import Served

QUIET = """
[[gpu]]
[[gpu]]
state = "busy"
mig = ["3g.71gb", "1g.18gb"]
[[gpu]]
state = "busy"
"""
"""Three healthy GPUs, the second one cut into MIG instances."""


class Switchable:
    """A source that can be taken away while it is used, as when the driver is unloaded."""

    def __init__(self, source: GpuSource) -> None:
        self.now = source

    def state(self) -> SourceState:
        return self.now.state()

    async def listed(self) -> Sequence[str] | None:
        return await self.now.listed()

    async def inventory(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        return await self.now.inventory(gpus, insist=insist)

    async def health(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        return await self.now.health(gpus, insist=insist)

    async def processes(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        return await self.now.processes(gpus, insist=insist)

    async def nvlink(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        return await self.now.nvlink(gpus, insist=insist)

    async def costly(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        return await self.now.costly(gpus, insist=insist)

    async def close(self) -> None:
        await self.now.close()


class Fleet:
    """The server and its GPUs."""

    def __init__(self, served: Served, fleet: MockFleet, source: Switchable) -> None:
        self.served = served
        self.mock = fleet
        self._source = source

    @property
    def url(self) -> str:
        return self.served.url

    def board(self, index: int) -> Board:
        """The GPU of this index."""
        return next(board for board in self.mock.boards.values() if board.index == index)

    def heard(self, index: int, code: int, number: int = 1, event_id: str | None = None) -> Event:
        """Publish an Xid of this GPU. Events with different `number`, or ids, are different faults."""
        board = self.board(index)
        gpu = Gpu(pci=board.pci, uuid=board.uuid, index=index, name="NVIDIA H200")
        plain = xid(code, number=number)
        event = replace(plain, gpu=gpu, id=event_id or plain.id)
        self.served.publish(event)
        return event

    def unload(self) -> None:
        """From now on nobody can look at the GPUs."""
        self._source.now = OffSource("the driver was unloaded", "load it with modprobe nvidia")


@contextmanager
def gpu_fleet(scenario: str = "") -> Iterator[Fleet]:
    """A server over the fleet of a scenario; the default one has eight GPUs."""
    fleet = MockFleet(parse(scenario), wall_us=lambda: time.time_ns() // 1000)
    source = Switchable(MockSource(fleet))
    with Served(gpus_of=source) as served:
        yield Fleet(served, fleet, source)
