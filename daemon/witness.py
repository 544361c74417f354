"""The same record heard by several probes is one record.

Records of the kernel log are told apart by (boot id, kernel time, first line of the text): syslog(2)
shows each line by itself. The n-th such record of one probe and the n-th of another are the same one: two
real repeats are never merged, because one probe delivers each of them once. Only the newest records are
remembered.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from daemon.fault import OpenFault
from daemon.occurrence import standing
from probes.line import KernelLine

REMEMBERED = 4096
"""Distinct records kept; a second witness comes within milliseconds, a re-read starts at the resume point."""

_Identity = tuple[str, int, str]


@dataclass(slots=True)
class Sighting:
    """Who saw the records of one identity."""

    first_arrival_us: int
    seen: dict[str, int]
    """Records per probe."""
    is_repeated: bool = False
    """The last one seen had already come through another probe."""
    delay_us: int = 0
    """How long after the first witness the last one was seen."""
    home: OpenFault | None = None
    """The fault that the record became or was added to."""
    is_over: bool = False
    """An earlier process counted the record to an event that was proved, and has ended since."""


class Witnesses:
    """Which probe saw which record. Owned by the pipeline."""

    def __init__(self) -> None:
        self._sightings: OrderedDict[_Identity, Sighting] = OrderedDict()

    def see(self, line: KernelLine) -> Sighting:
        """Note a record, and say whether another probe had brought it before."""
        identity = _identity(line)
        if identity is None:
            return Sighting(line.arrival_us, {line.probe: 1})
        sighting = self._sightings.get(identity)
        if sighting is None:
            sighting = self._sightings[identity] = Sighting(line.arrival_us, {line.probe: 1})
            if len(self._sightings) > REMEMBERED:
                self._sightings.popitem(last=False)
            return sighting
        most = max(sighting.seen.values())
        count = sighting.seen[line.probe] = sighting.seen.get(line.probe, 0) + 1
        sighting.is_repeated = count <= most
        sighting.delay_us = max(0, line.arrival_us - sighting.first_arrival_us)
        return sighting

    def rename(self, known: KernelLine, line: KernelLine) -> Sighting | None:
        """The record seen as `known` is the log's `line`: note its probe, and know it by both from now on.

        None when it was seen too long ago to be remembered.
        """
        identity, other = _identity(known), _identity(line)
        if identity is None or other is None:
            return None
        sighting = self._sightings.get(identity)
        if sighting is not None:
            sighting.seen[line.probe] = sighting.seen.get(line.probe, 0) + 1
            sighting.delay_us = max(0, line.arrival_us - sighting.first_arrival_us)
            self._sightings[other] = sighting
        return sighting

    def home_of(self, line: KernelLine) -> OpenFault | None:
        """The fault that the record seen as `line` led to; None when it led to none."""
        identity = _identity(line)
        sighting = self._sightings.get(identity) if identity is not None else None
        return standing(sighting.home) if sighting is not None else None


def _identity(line: KernelLine) -> _Identity | None:
    """What the same record has in common wherever it is heard; None without a kernel time."""
    if line.kernel_us is None:
        return None
    return line.boot_id, line.kernel_us, line.text.partition("\n")[0]
