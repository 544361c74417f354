"""The GPUs this node is expected to have, so that one that vanishes is missed and not forgotten.

A lost GPU drops out of the driver's list, or stays in it and answers for nothing; either way a
list of what is there would look healthy. This table remembers what was seen, over restarts and
reboots, and says of each GPU whether it is there, since when not, and what was heard last of it.

Pure: it is told what was seen and heard, and has no clock. A GPU is lost when the kernel says so
(Xid 79 and its kin, never a drill) or NVML does; it is gone when a complete list lacks it. It is
back when it answers, or when a driver that was loaded after the loss, or in a later boot, lists
it. A sweep that could not look changes nothing, nor does one that was begun before the loss. A
board with another UUID in the same slot replaces the old one. All times are wall clock, µs since
the Unix epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from daemon.event import Event, Kind
from daemon.gpu.expected_gpu import ExpectedGpu, Presence
from daemon.gpu.protocol import Trouble
from daemon.gpu.readings import Identity, Reading
from probes.line import Origin

FALLEN_OFF_THE_BUS = 79
MOST_STRANGERS = 64
"""GPUs after which one that was never seen is not expected just because a line says that it is lost: a line
can name any address."""


class Answers(StrEnum):
    """What a look at one GPU showed."""

    YES = "yes"
    """NVML read something from it."""
    LOST = "lost"
    """NVML said `GPU is lost`, or the like."""
    LISTED = "listed"
    """The driver lists it; whether it answers is not known (not asked, or the call hung)."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """One GPU in one look; None where the look did not tell."""

    pci: str
    answers: Answers
    uuid: str | None = None
    index: int | None = None
    name: str | None = None
    serial: str | None = None
    why: str | None = None
    """For LOST: what NVML said."""


def sightings(readings: Iterable[Reading]) -> tuple[Sighting, ...]:
    """What the readings of one sweep show. They cover every GPU when all were asked about and the driver
    could be asked (`SourceName.OK` or `NO_GPU`).

    A GPU that the driver does not know is no sighting: one that is expected is then gone.
    """
    return tuple(
        Sighting(
            reading.pci,
            _answers(reading),
            uuid=identity.uuid,
            index=identity.index,
            name=identity.name,
            serial=identity.serial,
            why=reading.reason,
        )
        for reading in readings
        if reading.trouble != Trouble.NOT_FOUND
        for identity in (reading.identity or Identity(reading.pci),)
    )


def _answers(reading: Reading) -> Answers:
    if reading.answered:
        return Answers.YES
    return Answers.LOST if reading.lost else Answers.LISTED


@dataclass(frozen=True, slots=True)
class Change:
    """What a look or an event changed of one GPU. `before` is None for a new one, `after` for one whose
    place another board took, or which now sits in another slot."""

    before: ExpectedGpu | None
    after: ExpectedGpu | None

    @property
    def lost(self) -> bool:
        """True when the node lost it just now."""
        return self.after is not None and self.after.is_lost and not (self.before and self.before.is_lost)

    @property
    def of_the_set(self) -> bool:
        """True when the node has other GPUs now than before, so that their indices may have moved."""
        return self.lost or self.returned or self.before is None or self.after is None

    @property
    def returned(self) -> bool:
        """True when it is back."""
        return bool(self.before and self.before.is_lost and self.after and not self.after.is_lost)


class ExpectedGpus:
    """The table, by PCI address. Owned by whoever feeds it; not thread-safe."""

    def __init__(self, boot_id: str | None = None) -> None:
        """`boot_id` is this boot's; None: a reboot is not told from any other absence."""
        self._boot_id = boot_id
        self._gpus: dict[str, ExpectedGpu] = {}
        self._driver_loaded_us = 0
        self.changed = False
        """True while the saved copy is out of date."""

    def all(self) -> tuple[ExpectedGpu, ...]:
        """Every GPU, by PCI address."""
        return tuple(self._gpus[pci] for pci in sorted(self._gpus))

    def lost(self) -> tuple[ExpectedGpu, ...]:
        """Those that are lost or gone."""
        return tuple(gpu for gpu in self.all() if gpu.is_lost)

    def get(self, pci: str) -> ExpectedGpu | None:
        """The GPU at this address; None when none is expected there."""
        return self._gpus.get(pci)

    def observe(
        self,
        sightings: Iterable[Sighting],
        *,
        asked_us: int,
        complete: bool,
        recent: Iterable[Event] = (),
    ) -> tuple[Change, ...]:
        """Take what a look that began at `asked_us` showed.

        `complete`: it covered every GPU the driver lists, so that one that is missing is gone.
        `recent` are events in the order of the stream, for the last words of a GPU now found lost.
        """
        events = tuple(recent)
        seen = {sighting.pci: sighting for sighting in sightings}
        changes = [change for one in seen.values() for change in self._see(one, asked_us, events)]
        if complete:
            missing = [gpu for gpu in self.all() if gpu.pci not in seen and not gpu.is_lost]
            why = "the driver no longer lists it"
            changes += [
                self._put(gpu.absent(Presence.GONE, asked_us, why, events, self._boot_id))
                for gpu in missing
                if max(gpu.seen_us or 0, gpu.since_us) <= asked_us
            ]
        return tuple(changes)

    def heard(self, event: Event, recent: Iterable[Event] = ()) -> tuple[Change, ...]:
        """Take an event of the stream; `recent` are those before it. Only the kernel's word counts."""
        if event.drill or event.origin != Origin.KERNEL:
            return ()
        if event.kind is Kind.DRIVER_LOADED and event.time_us > self._driver_loaded_us:
            self._driver_loaded_us = event.time_us
            self.changed = True
        if event.gpu is None or not _says_lost(event):
            return ()
        known = self._gpus.get(event.gpu.pci)
        if known is None and len(self._gpus) >= MOST_STRANGERS:
            return ()
        gpu = known or ExpectedGpu(
            event.gpu.pci, event.gpu.uuid, event.gpu.index, event.gpu.name, event.gpu.serial
        )
        if self._is_of_earlier_boot(gpu) and event.boot_id == self._boot_id:
            gpu = gpu.back(event.time_us)  # it was there again, or it could not have been lost anew
        if gpu.is_lost or event.time_us <= max(gpu.seen_us or 0, self._driver_loaded_us):
            return ()  # known already, or disproved by what came after
        earlier = [past for past in recent if past.id != event.id]
        words = (*earlier, event)
        lost = gpu.absent(Presence.LOST, event.time_us, event.summary, words, event.boot_id or self._boot_id)
        return (self._put(lost),)

    def forget(self, pci: str) -> bool:
        """Expect no GPU at this address any more, because it was taken out on purpose; False when none
        was expected. It is expected again as soon as it is seen."""
        if self._gpus.pop(pci, None) is None:
            return False
        self.changed = True
        return True

    def dump(self) -> dict[str, Any]:
        """The table as a JSON object, for `load`."""
        self.changed = False
        return {"gpus": [gpu.dump() for gpu in self.all()], "driver_loaded_us": self._driver_loaded_us}

    def load(self, data: Mapping[str, Any]) -> None:
        """Take up a dumped table, beneath what is known already. Raises ValueError, TypeError or KeyError
        when it is none; the table is as before then."""
        gpus = {gpu.pci: gpu for gpu in map(ExpectedGpu.load, data["gpus"])}
        self._driver_loaded_us = max(int(data["driver_loaded_us"]), self._driver_loaded_us)
        self._gpus = gpus | self._gpus

    def _see(self, seen: Sighting, asked_us: int, events: tuple[Event, ...]) -> tuple[Change, ...]:
        before = self._gpus.get(seen.pci)
        if before is not None and None not in (before.uuid, seen.uuid) and before.uuid != seen.uuid:
            return (self._drop(before), *self._see(seen, asked_us, events))
        known = before or ExpectedGpu(seen.pci, since_us=asked_us)
        gpu = replace(
            known,
            uuid=seen.uuid or known.uuid,
            index=known.index if seen.index is None else seen.index,
            name=seen.name or known.name,
            serial=seen.serial or known.serial,
        )
        if seen.answers is Answers.YES:
            gpu = replace(gpu, seen_us=max(asked_us, gpu.seen_us or 0))
        if seen.answers is Answers.LOST:
            why = seen.why or "NVML says that it is lost"
            gpu = gpu.absent(Presence.LOST, asked_us, why, events, self._boot_id)
        elif gpu.is_lost and self._is_back(gpu, seen.answers, asked_us):
            gpu = gpu.back(asked_us)
        same_board = [old for old in self.all() if gpu.uuid is not None and old.uuid == gpu.uuid]
        moved = [self._drop(old) for old in same_board if old.pci != gpu.pci]
        change = self._put(gpu)
        return (*moved, *((change,) if gpu.differs(before) else ()))

    def _is_back(self, gpu: ExpectedGpu, answers: Answers, asked_us: int) -> bool:
        if self._is_of_earlier_boot(gpu):
            return answers is not Answers.LOST
        if asked_us <= gpu.since_us:
            return False  # the look began before the loss
        if answers is Answers.LISTED:
            return gpu.presence is Presence.GONE or self._driver_loaded_us > gpu.since_us
        return answers is Answers.YES

    def _is_of_earlier_boot(self, gpu: ExpectedGpu) -> bool:
        return gpu.boot_id is not None and self._boot_id is not None and gpu.boot_id != self._boot_id

    def _put(self, gpu: ExpectedGpu) -> Change:
        before = self._gpus.get(gpu.pci)
        self._gpus[gpu.pci] = gpu
        self.changed |= gpu.differs(before)
        return Change(before, gpu)

    def _drop(self, gpu: ExpectedGpu) -> Change:
        del self._gpus[gpu.pci]
        self.changed = True
        return Change(gpu, None)


def _says_lost(event: Event) -> bool:
    return event.kind is Kind.GPU_LOST or (event.kind is Kind.XID and event.code == FALLEN_OFF_THE_BUS)
