"""One thing timed many times, within a time that many sizes can afford."""

from __future__ import annotations

import time
from collections.abc import Callable

LEAST = 3
"""Samples taken however long each takes."""


def sampled_ms(work: Callable[[], object], samples: int, *, seconds: float = 3.0) -> list[float]:
    """Times in ms of `work`, called once before unmeasured; fewer than `samples` when `seconds` are over."""
    work()
    return timed_ms(work, samples, seconds=seconds)


def timed_ms(work: Callable[[], object], samples: int, *, seconds: float = 3.0) -> list[float]:
    """The same where each call changes what it works on: none goes unmeasured."""
    until = time.monotonic() + seconds
    times: list[float] = []
    while len(times) < samples and (len(times) < LEAST or time.monotonic() < until):
        began = time.perf_counter()
        work()
        times.append((time.perf_counter() - began) * 1000)
    return times
