"""Whether GPUs can be read here: one line of `xidwatch doctor`."""

from __future__ import annotations

import asyncio

from daemon.gpu.numbering import place
from daemon.gpu.source import GpuSource, SourceName, SourceState
from probes.health import Check, Verdict

_NOTHING_TO_READ = frozenset({SourceName.OFF, SourceName.NO_DRIVER, SourceName.NO_LIBRARY, SourceName.NO_GPU})
"""States of a machine that need not have GPUs; another line says whether it has a driver."""


def check(source: GpuSource) -> Check:
    """Ask who the GPUs are, as the daemon would, and end what was started for it."""
    return asyncio.run(_check(source))


async def _check(source: GpuSource) -> Check:
    try:
        sweep = await source.inventory()
    finally:
        await source.close()
    state = sweep.state
    if state.name is not SourceName.OK:
        verdict = Verdict.OFF if state.name in _NOTHING_TO_READ else Verdict.WARN
        return Check("gpu", verdict, _sentence(state), state.hint)
    silent = [reading for reading in sweep.gpus if not reading.answered]
    if silent:
        first = silent[0]
        finding = (
            f"{len(silent)} of {len(sweep.gpus)} GPUs do not answer; GPU {place(first.pci)}: {first.reason}"
        )
        return Check("gpu", Verdict.WARN, finding, "look for Xid 79, 119 or 120 in the kernel log")
    number = f"{len(sweep.gpus)} GPU{'' if len(sweep.gpus) == 1 else 's'}"
    return Check("gpu", Verdict.OK, f"{number} {'invented (--gpu mock)' if state.mock else 'answer'}")


def _sentence(state: SourceState) -> str:
    return state.reason or f"the GPUs cannot be read: {state.name.value.replace('_', ' ')}"
