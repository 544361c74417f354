"""One event loop for every input that needs one: to make a loop costs more than most inputs do."""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import Coroutine
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


@cache
def _runner() -> asyncio.Runner:
    runner = asyncio.Runner()
    atexit.register(runner.close)
    return runner


def run(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns, in the loop that all share."""
    return _runner().run(_to_its_end(work))


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    try:
        return await work
    finally:
        await asyncio.sleep(0)  # generators that were left half-way are closed in a turn of their own
