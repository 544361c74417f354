"""What files this process has open."""

from __future__ import annotations

from pathlib import Path


def open_descriptors() -> set[int]:
    """The numbers of all open descriptors; the one that lists them is closed again."""
    return {int(entry.name) for entry in Path("/proc/self/fd").iterdir() if entry.exists()}
