"""A running kernel log probe whose sink can be waited on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from probes.kmsg import KmsgProbe
from probes.line import Batch, KernelLine, LostRecords
from tests.support.waiting import DEADLINE_S


class Listener:
    """A sink that keeps what it is given and wakes whoever waits for more."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self._more = asyncio.Event()

    def __call__(self, batch: Batch) -> None:
        self.batches.append(batch)
        self.wake()

    def wake(self, *_: object) -> None:
        """Have the condition looked at again."""
        self._more.set()

    @property
    def items(self) -> list[KernelLine | LostRecords]:
        return [item for batch in self.batches for item in batch.items]

    @property
    def lines(self) -> list[KernelLine]:
        return [item for item in self.items if isinstance(item, KernelLine)]

    @property
    def texts(self) -> list[str]:
        return [line.text for line in self.lines]

    @property
    def shape(self) -> list[int | tuple[int, int, int]]:
        """The sequence number of each line, and first, last and count of each gap, in their order."""
        shape: list[int | tuple[int, int, int]] = []
        for item in self.items:
            if isinstance(item, KernelLine):
                assert item.seq is not None
                shape.append(item.seq)
            else:
                assert item.first_seq is not None
                assert item.last_seq is not None
                assert item.count is not None
                shape.append((item.first_seq, item.last_seq, item.count))
        return shape

    @property
    def gaps(self) -> list[tuple[int, int, int]]:
        return [gap for gap in self.shape if isinstance(gap, tuple)]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return once the condition holds; it is looked at after every batch."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                self._more.clear()
                await self._more.wait()


def listen(path: Path, test: Callable[[Listener, KmsgProbe], Awaitable[None]], **options: Any) -> Listener:
    """Run `test` in an event loop with a started probe, and return the sink."""

    async def main() -> Listener:
        listener = Listener()
        probe = KmsgProbe(path, listener, **({"on_change": listener.wake} | options))
        probe.start()
        try:
            await test(listener, probe)
        finally:
            probe.close()
        return listener

    return asyncio.run(main())
