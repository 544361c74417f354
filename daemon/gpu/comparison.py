"""What a GPU's health is compared with: an earlier reading of it, and the other GPUs of its model.

Belongs to `GpuWatch`. Times are wall clock, µs since the Unix epoch.
"""

from __future__ import annotations

from typing import Final

from daemon.gpu.readings import Health
from daemon.gpu.verdict import Earlier

EARLIER_S: Final = 60.0
"""How old a health reading has to be before a newer one takes its place as the one to compare with."""


class Comparison:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._earlier: dict[str, tuple[Health, int]] = {}
        self._links: dict[str | None, int] = {}

    def earlier(self, pci: str, health: Health | None, now_us: int) -> Earlier | None:
        """The reading to compare this one with; None when there is none. Forgets the GPU that was not read:
        its counters may have begun anew."""
        if health is None:
            self._earlier.pop(pci, None)
            return None
        before = self._earlier.get(pci)
        seconds_ago = (now_us - before[1]) / 1e6 if before is not None else 0.0
        if before is None or seconds_ago >= EARLIER_S:
            self._earlier[pci] = (health, now_us)
        return Earlier(before[0], seconds_ago) if before is not None and seconds_ago > 0 else None

    def note_links(self, model: str | None, links_up: int) -> None:
        """A GPU of this model has so many NVLinks up."""
        self._links[model] = max(self._links.get(model, 0), links_up)

    def links_expected(self, model: str | None) -> int | None:
        """The most NVLinks that a GPU of this model had up; None when none was read."""
        return self._links.get(model)
