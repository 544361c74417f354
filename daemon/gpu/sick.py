"""GPUs that are not touched unless somebody asks for them by name: a call on them may never return.

After Xid 79, 110 or 119, or a loss without an Xid, the driver still has the GPU, but it may answer
nothing, and whoever calls hangs. Such a GPU is sick until the driver was loaded anew, or says that
no recovery is needed any more, and no longer than the boot. Only the kernel's own word counts, never a
drill.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from daemon.event import Event, Kind
from daemon.incidents.member import RECOVERED, RECOVERY_ACTION
from probes.line import Origin

HANGING_XIDS: Final = frozenset({79, 110, 119})
"""Off the bus, a security fault, a firmware that does not answer: NVML calls were seen to hang after each
(NVIDIA DCGM issue 162, leptonai/gpud issue 117)."""
MOST_STRANGERS: Final = 64
"""Sick GPUs after which one that nobody has seen is not remembered: a line can name any address."""


@dataclass(frozen=True, slots=True)
class Sickness:
    """Why a GPU is left alone."""

    what: str
    """`Xid 119`, or what the event says."""
    event_id: str
    time_us: int
    """Wall clock, µs since the Unix epoch."""


class SickGpus:
    """The sick GPUs by PCI address. Owned by whoever feeds it; not thread-safe."""

    def __init__(self, boot_id: str | None = None) -> None:
        """`boot_id`: events of other boots say nothing; None: which one they are of is not looked at."""
        self._boot_id = boot_id
        self._gpus: dict[str, Sickness] = {}
        self._driver_loaded_us = 0
        self.changed = False
        """True while the saved copy is out of date."""

    def get(self, pci: str) -> Sickness | None:
        """Why this GPU is left alone; None when it is not."""
        return self._gpus.get(pci)

    def heard(self, event: Event, *, is_known: bool = True) -> None:
        """Take an event of the stream, in order. `is_known`: its GPU was seen, and not just named in it."""
        if event.drill or event.origin != Origin.KERNEL or self._boot_id not in (None, event.boot_id):
            return
        if event.kind is Kind.DRIVER_LOADED:
            self._driver_loaded_us = max(self._driver_loaded_us, event.time_us)
            self._recovered({pci for pci, sick in self._gpus.items() if sick.time_us < event.time_us})
        elif event.gpu is None or event.last_time_us <= self._driver_loaded_us:
            return  # about no GPU, or over since: the log of the boot before may be read later
        elif event.kind is Kind.GPU_LOST or (event.kind is Kind.XID and event.code in HANGING_XIDS):
            if not is_known and event.gpu.pci not in self._gpus and len(self._gpus) >= MOST_STRANGERS:
                return
            what = f"Xid {event.code}" if event.code is not None else event.summary
            self._gpus[event.gpu.pci] = Sickness(what, event.id, event.last_time_us)
            self.changed = True
        elif _says_recovered(event):
            self._recovered({event.gpu.pci})

    def answered(self, pci: str, asked_us: int) -> None:
        """Somebody asked for it by name at `asked_us` (wall clock), and it answered."""
        sick = self._gpus.get(pci)
        if sick is not None and sick.time_us < asked_us:
            self._recovered({pci})

    def all(self) -> frozenset[str]:
        """The sick GPUs, by PCI address."""
        return frozenset(self._gpus)

    def _recovered(self, gpus: set[str]) -> None:
        for pci in gpus & self._gpus.keys():
            del self._gpus[pci]
            self.changed = True

    def dump(self) -> dict[str, Any]:
        """The table as a JSON object, for `load`."""
        self.changed = False
        return {pci: [sick.what, sick.event_id, sick.time_us] for pci, sick in self._gpus.items()}

    def load(self, data: Mapping[str, Any]) -> None:
        """Take up a dumped table, beneath what is known already. Raises ValueError or TypeError when it is
        none; the table is as before then."""
        loaded = {pci: Sickness(str(what), str(event), int(us)) for pci, (what, event, us) in data.items()}
        self._gpus = loaded | self._gpus


def _says_recovered(event: Event) -> bool:
    is_advice = event.kind is Kind.XID and event.code == RECOVERY_ACTION
    return is_advice and event.detail.get("recovery_to") == RECOVERED
