"""The pipeline's state as it is written down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything the pipeline must find again after a restart."""

    faults: Mapping[str, str]
    """Open faults and incidents by state key, each as one JSON text."""
    context: str | None
    """Device map and driver version as one JSON text; None when nothing was saved yet."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What of the snapshot is different since it was last asked for."""

    faults: Mapping[str, str]
    dropped: frozenset[str]
    """State keys of faults and incidents that are no longer open."""
    context: str | None
    """None when it did not change."""
