"""What the rules look at: one GPU's health, what it was a while ago, and why a reading is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from daemon.gpu.readings import Health

ABSENT = frozenset(
    {
        "not supported by this GPU",
        "not known to this driver version",
        "not known to this version of nvidia-ml-py",
        "not available",
        "ECC is off",
    }
)
"""Reasons of `Health.unread` that say that there is nothing to read. All others are failures to read."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """An earlier look at the same GPU, for what can be judged only by its growth."""

    health: Health
    seconds_ago: float
    """Above 0."""


@dataclass(frozen=True, slots=True)
class Look:
    """One GPU as the rules see it."""

    health: Health
    earlier: Earlier | None = None
    links_expected: int | None = None
    """The most NVLinks that were ever seen up on this GPU or on its like in this node."""

    def growth(self, before: int | None, now: int | None) -> int | None:
        """How much a counter grew since the earlier look; None when that is not known.

        A counter that shrank was reset with the driver or the GPU: all it counts is new.
        """
        if self.earlier is None or before is None or now is None:
            return None
        return now - before if now >= before else now


def why_unread(unread: Mapping[str, str], path: str) -> str:
    """Why there is no value under `path`: its own reason or that of an object around it."""
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        if (why := unread.get(".".join(parts[:length]))) is not None:
            return why
    return "it was not read"
