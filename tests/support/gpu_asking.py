"""A GPU worker over the fake library, inside a test's event loop."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from daemon.gpu.answers import Answered, Answers, Unanswered
from daemon.gpu.client import GpuWorker
from daemon.gpu.patience import Patience
from tests.support.fake_nvml import Scenario, pci

PROGRAM = Path(__file__).parent / "gpu_worker_program.py"
ALL = tuple(pci(gpu) for gpu in range(8))
DEADLINE_S = 20.0
"""For questions that are answered; a test waits that long only when it fails."""
SHORT_S = 1.0
"""For questions of which some hang: each such test waits that long."""


@asynccontextmanager
async def asking(scenario: Scenario, patience: Patience | None = None) -> AsyncIterator[GpuWorker]:
    """A client whose worker loads the fake library and knows the operations of `gpu_worker_program`."""
    worker = GpuWorker(
        command=(sys.executable, "-P", str(PROGRAM)),
        environment={**os.environ, **scenario.environment()},
        patience=patience,
    )
    try:
        yield worker
    finally:
        await worker.close()


def value(answers: Answers, gpu: int, name: str) -> object:
    """What GPU number `gpu` answered under `name`."""
    answer = answers.gpus[pci(gpu)]
    assert isinstance(answer, Answered), answer
    return answer.data[name]


def silence(answers: Answers, gpu: int) -> Unanswered:
    """Why GPU number `gpu` did not answer."""
    answer = answers.gpus[pci(gpu)]
    assert isinstance(answer, Unanswered), answer
    return answer


def answered(answers: Answers) -> list[str]:
    """The GPUs that did."""
    return [gpu for gpu, answer in answers.gpus.items() if isinstance(answer, Answered)]


async def until(condition: Callable[[], object], what: str) -> None:
    """Let the event loop run until `condition` holds; AssertionError when it never does."""
    try:
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"waited in vain for {what}") from None
