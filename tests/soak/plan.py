"""How long a soak runs, and in which steps.

    start, warm-up under load, rest (the base line), load, rest (compared with it), kills

All but the kills is one life of the daemon, so that what is flat is flat within one process. The load of the
warm-up is the load of the main step: what is filled once is full at the base line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SHORTEST_MINUTES: Final = 0.5
LONG_MINUTES: Final = 10.0
"""From here on a larger journal is filled as well, in which more than the last of each device is kept, and
what a daemon fills once is full after the warm-up."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of one soak; times in seconds."""

    minutes: float
    warm_up_s: float
    load_s: float
    kills: int
    """How often the daemon is killed with SIGKILL in the last step."""
    life_s: float
    """How long it lives between two kills, on average."""
    sample_every_s: float
    rare_reader_s: float
    """How long the reader stays away that retention overtakes."""
    retention: str
    """`--retention-size`."""
    ring: int
    """`--ring-size`."""
    memory_kib: float
    """How much memory may grow in the time under load that is judged, and from one rest to the next."""
    seed: int

    @property
    def is_long(self) -> bool:
        """Whether it is long enough to say that memory is flat, and for retention to delete much."""
        return self.minutes >= LONG_MINUTES

    @classmethod
    def of(cls, minutes: float, seed: int) -> Plan:
        """The steps that take about so many minutes together."""
        whole_s = minutes * 60
        kills = max(3, min(30, round(minutes)))
        life_s = 4.0
        return cls(
            minutes=minutes,
            warm_up_s=max(10.0, 0.25 * whole_s),
            load_s=max(20.0, 0.72 * whole_s - kills * life_s),
            kills=kills,
            life_s=life_s,
            sample_every_s=max(0.5, min(5.0, whole_s / 240)),
            rare_reader_s=min(180.0, whole_s / 6),
            retention="2MiB" if minutes < LONG_MINUTES else "4MiB",
            ring=128,
            memory_kib=4 * 1024 if minutes >= LONG_MINUTES else 32 * 1024,
            seed=seed,
        )
