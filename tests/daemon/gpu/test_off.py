"""A source that is off: every answer says that nobody looked."""

from __future__ import annotations

import asyncio

from daemon.gpu.off import OffSource
from daemon.gpu.source import GpuSource, SourceName, Sweep


def test_every_question_is_answered_with_why_nobody_looks() -> None:
    source: GpuSource = OffSource("switched off with --gpu off", "start it with --gpu auto")

    async def ask_all() -> list[Sweep]:
        questions = (source.inventory, source.health, source.processes, source.nvlink, source.costly)
        sweeps = [await question(["0000:91:00.0"]) for question in questions]
        await source.close()
        return sweeps

    for sweep in asyncio.run(ask_all()):
        assert (sweep.state.name, sweep.state.mock, sweep.gpus) == (SourceName.OFF, False, ())
        assert sweep.state == source.state()
        assert sweep.state.reason == "switched off with --gpu off"
        assert sweep.state.hint == "start it with --gpu auto"
