"""Reading GPUs: the real ones of this machine, or eight fake ones whose calls cost what an H200's do.

The baseline is one GPU's health read in the same run: what reading them side by side saves.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from benchmarks.figure import Figure, Plan, Unavailable, median, spread
from daemon.gpu.client import GpuWorker
from daemon.gpu.nvml_source import NvmlSource
from daemon.gpu.source import SourceName, Sweep
from tests.support import fake_nvml

MUST_MS = 50.0
REACH_INVENTORY_MS, REACH_HEALTH_MS = 5.0, 16.0


def measure(plan: Plan) -> Sequence[Figure]:
    """Medians in ms, the worker's start and memory."""
    return asyncio.run(_measure(plan))


async def _measure(plan: Plan) -> Sequence[Figure]:
    source, worker, what = await _source(plan.directory)
    try:
        first_ms, sweep = await _timed(source.inventory)
        await source.health()
        runs = plan.samples(30, 3)
        gpus = [reading.pci for reading in sweep.gpus]
        inventory = [(await _timed(source.inventory))[0] for _ in range(runs)]
        health = [(await _timed(source.health))[0] for _ in range(runs)]
        alone = [(await _timed(lambda: source.health(gpus[:1])))[0] for _ in range(runs)]
        pid = worker.status().pid
        memory = _rss_mb(pid) if pid is not None else 0.0
    finally:
        await source.close()
    count = len(gpus)
    per_gpu = f"one GPU alone: {median(alone):.1f} ms"
    return [
        Figure(f"gpus: inventory of {count} {what}", median(inventory), "ms", MUST_MS, REACH_INVENTORY_MS,
               beside=f"ms: {spread(inventory, 1)}"),
        Figure(f"gpus: health of {count} {what}", median(health), "ms", MUST_MS, REACH_HEALTH_MS,
               beside=f"ms: {spread(health, 1)}; {per_gpu}"),
        Figure("gpus: health of all, to one after the other", median(health) / (median(alone) * count), "x",
               beside=per_gpu),
        Figure("gpus: first answer, the worker's start included", first_ms, "ms"),
        Figure("gpus: memory of the worker", memory, "MB"),
    ]  # fmt: skip


async def _source(directory: Path) -> tuple[NvmlSource, GpuWorker, str]:
    """The GPUs of this machine, or fake ones."""
    worker = GpuWorker()
    source = NvmlSource(worker)
    sweep = await source.inventory()
    if sweep.state.name is SourceName.OK and sweep.gpus:
        await source.close()
        worker = GpuWorker()
        return NvmlSource(worker), worker, "GPUs"
    await source.close()
    if shutil.which("gcc") is None and shutil.which("cc") is None:
        raise Unavailable("no GPU here, and no C compiler to build the fake library with")
    fleet = fake_nvml.Scenario(directory, fake_nvml.build(directory), costs=True)
    worker = GpuWorker(environment={**os.environ, **fleet.environment()})
    return NvmlSource(worker), worker, "fake GPUs with an H200's costs"


async def _timed(ask: Callable[[], Awaitable[Sweep]]) -> tuple[float, Sweep]:
    began = time.monotonic()
    sweep = await ask()
    return (time.monotonic() - began) * 1000, sweep


def _rss_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1000
