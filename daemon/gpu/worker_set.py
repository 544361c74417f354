"""Worker processes until they are reaped: what was started, and what of it is stuck. For one event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress

from daemon.gpu.released import Released
from daemon.gpu.worker_process import WorkerProcess


class WorkerSet:
    """See the module's docstring."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None) -> None:
        """`environment`: None is this process's own."""
        self.starts = 0
        """Workers started so far."""
        self._command = command
        self._environment = environment
        self._processes: set[WorkerProcess] = set()
        self._one_ended = asyncio.Event()

    @property
    def stuck(self) -> int:
        """How many were killed and have not ended: they sleep in a call, or are about to be reaped."""
        return sum(not process.usable for process in self._processes)

    async def start(self, *, within_s: float) -> WorkerProcess:
        """Start one. Raises StartError."""
        self.starts += 1
        environment = os.environ if self._environment is None else self._environment
        return await WorkerProcess.start(
            self._command, environment, self._processes.add, self._ended, within_s=within_s
        )

    def end_all(self) -> None:
        """Kill every one of them."""
        for process in list(self._processes):
            process.end()

    async def wait_for_the_end(self, within_s: float) -> Released:
        """Which of those there are now have ended by then, and which have not."""
        processes = list(self._processes)
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while any(process in self._processes for process in processes):
                    self._one_ended.clear()
                    await self._one_ended.wait()
        pids = [(process.pid, process in self._processes) for process in processes]
        return Released(
            tuple(pid for pid, is_there in pids if pid is not None and not is_there),
            tuple(pid for pid, is_there in pids if pid is not None and is_there),
        )

    def let_go(self) -> None:
        """Stop watching those that have not ended, and leave them to init."""
        for process in self._processes:
            process.let_go()

    def _ended(self, process: WorkerProcess) -> None:
        self._processes.discard(process)
        self._one_ended.set()
