"""Waiting for something to become true, with a deadline: tests never sleep and hope."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

DEADLINE_S = 30.0
"""Generous: it is reached only by a test that fails."""


def wait_for(
    condition: Callable[[], T | None], what: str, *, deadline_s: float = DEADLINE_S, pause_s: float = 0.01
) -> T:
    """The first true answer of `condition`; AssertionError naming `what` when none comes in time."""
    until = time.monotonic() + deadline_s
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() >= until:
            raise AssertionError(f"waited {deadline_s:g} s in vain for {what}")
        time.sleep(pause_s)
