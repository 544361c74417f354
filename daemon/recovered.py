"""Which lines of the log were lost to the reader of /dev/kmsg, and heard through eBPF all the same.

A line that eBPF heard is recovered when it was printed while records were lost, the log has been read
further, and that line was not among what was read. Whether the kernel printed it is another question:
what nobody has proved is told apart, since anyone who may write to the log can overrun it too. Owned by the
pipeline.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from daemon.fault import OpenFault
from daemon.log_reading import LogReading
from daemon.occurrence import standing
from daemon.witness import Sighting
from probes.bpf.probe import NAME as BPF
from probes.kmsg import NAME as KMSG
from probes.line import KernelLine, LostRecords, Origin

_REMEMBERED = 4096
_GAPS = 64


@dataclass(frozen=True, slots=True)
class _Heard:
    stamp_us: int
    sighting: Sighting
    nth: int
    """Which of the records of its time and text it is."""


@dataclass(frozen=True, slots=True)
class _Gap:
    since_us: int
    until_us: int
    event: OpenFault


class Recovered:
    """The lines heard through eBPF that the log may yet show, and the last gaps. Times: CLOCK_MONOTONIC."""

    def __init__(self, reading: LogReading) -> None:
        self._reading = reading
        self._heard: deque[_Heard] = deque(maxlen=_REMEMBERED)
        self._gaps: deque[_Gap] = deque(maxlen=_GAPS)

    def heard(self, line: KernelLine, sighting: Sighting) -> None:
        """eBPF brought a line that told of a fault."""
        stamp_us = line.arrival_us if line.printed_us is None else line.printed_us
        self._heard.append(_Heard(stamp_us, sighting, sighting.seen.get(BPF, 0)))

    def lost(self, record: LostRecords, event: OpenFault) -> None:
        """/dev/kmsg has lost records, of which `event` tells."""
        since_us = -1 if self._reading.end_us is None else self._reading.end_us
        if self._gaps and (last := self._gaps[-1]).since_us == since_us and last.event is event:
            self._gaps.pop()  # the same storm
        self._gaps.append(_Gap(since_us, record.arrival_us, event))

    def due(self) -> Sequence[tuple[OpenFault, bool]]:
        """The gap event of each line that is now known to be recovered, and whether that line is proved."""
        found = []
        while self._heard and self._reading.is_past(self._heard[0].stamp_us):
            heard = self._heard.popleft()
            gap = self._gap_at(heard.stamp_us)
            if gap is not None and heard.sighting.seen.get(KMSG, 0) < heard.nth:
                found.append((gap.event, _is_proved(heard.sighting.home)))
        return found

    def _gap_at(self, stamp_us: int) -> _Gap | None:
        return next((gap for gap in self._gaps if gap.since_us <= stamp_us <= gap.until_us), None)


def _is_proved(home: OpenFault | None) -> bool:
    home = standing(home)
    return home is not None and home.event.origin == Origin.KERNEL
