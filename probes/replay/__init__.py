"""Saved logs read as if they were heard live: files in, `KernelLine` records out.

Contract:

* Every common way to save a kernel log is understood, and told apart line by line (`formats`).
* Records come in the order of the files. Each has a boot id (the kernel's own where the log gives it,
  else `replay-N`), a kernel time and a wall time. Where the log has no kernel time, the time of the replay
  stands in for it (`boots`): faults are told apart by it. A wall time that is not in the log is filled in
  and marked as an estimate (`timestamps`).
* A line that stands in two places is handed on once (`duplicates`).
* Origin is what the format proves, and `unknown` where it proves nothing.
* Memory does not grow with the files. What cannot be read is noted in `Coverage`, never raised.

A log that has only kernel time is anchored at its end: its last line is taken to be as old as the
file. Its records wait for that, at most `MOST_WAITING` of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, tzinfo

from probes.line import KernelLine, Origin
from probes.replay.boots import ReplayTime, Timeline
from probes.replay.coverage import Boot, Coverage, FileCoverage
from probes.replay.duplicates import Duplicates, Place
from probes.replay.files import Source, Unreadable, sources
from probes.replay.reading import FileReader, Record
from probes.replay.timestamps import SECOND_US, Stamps, WallTime

__all__ = ["Coverage", "FileCoverage", "Settings", "Source", "Unreadable", "read", "sources"]

PROBE = "replay"
EMPTY = "is empty"
"""The problem of a file without a line."""

MOST_WAITING = 20_000
"""Records that wait for their wall time (some 20 MB)."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a log leaves out and the person may know."""

    zone: tzinfo = UTC
    """Zone of the times that name none."""
    zone_is_given: bool = False
    """False: the zone is a guess, and such times are estimates."""
    year: int | None = None
    """Year of the first time without one; None: the newest that is not in the future."""


def read(
    files: Iterable[Source | Unreadable], settings: Settings, coverage: Coverage
) -> Iterator[KernelLine]:
    """The driver's records in these files. `coverage` says what was read once the iteration has ended."""
    replay = _Replay(coverage)
    for file in files:
        found = FileCoverage(file.name)
        coverage.files.append(found)
        if isinstance(file, Unreadable):
            found.problem, found.hint = file.reason, file.hint
            continue
        now_us = time.time_ns() // 1000
        written_us = file.written_us if 0 < file.written_us <= now_us else now_us
        stamps = Stamps(
            zone=settings.zone,
            zone_is_given=settings.zone_is_given,
            year=settings.year,
            written_us=written_us,
            assumed=coverage.assumed,
        )
        reader = FileReader(file, stamps, replay.timeline, found)
        for line in replay.lines(reader.records(), written_us):
            found.messages += 1
            yield line
        if not found.understood and found.problem is None:
            found.problem = "holds no line of a kernel log" if found.lines else EMPTY
    for boot in coverage.boots:
        boot.fill_in_wall_times()


class _Replay:
    """What all files share: the timeline, the replay's own clock, the lines already told."""

    def __init__(self, coverage: Coverage) -> None:
        self.timeline = Timeline(coverage.boots)
        self._coverage = coverage
        self._time = ReplayTime()
        self._duplicates = Duplicates()

    def lines(self, records: Iterator[Record], written_us: int) -> Iterator[KernelLine]:
        """The records of one file as lines of the kernel's log, each with its wall time."""
        first_boot = len(self._coverage.boots)
        waiting: list[Record] = []
        for record in records:
            waiting.append(record)
            if _has_wall_time(waiting[0]) and _has_wall_time(record):
                yield from self._tell(waiting, written_us)
                waiting.clear()
            elif len(waiting) >= MOST_WAITING:
                _anchor(self._coverage.boots[first_boot:], written_us)
                yield from self._tell(waiting, written_us)
                waiting.clear()
        _anchor(self._coverage.boots[first_boot:], written_us)
        yield from self._tell(waiting, written_us)

    def _tell(self, records: Sequence[Record], written_us: int) -> Iterator[KernelLine]:
        for record in records:
            line = self._line(record, written_us)
            if line is not None:
                self._coverage.messages += 1
                self._coverage.unproved += line.origin is Origin.UNKNOWN
                self._coverage.estimated += line.wall_is_estimate
                yield line

    def _line(self, record: Record, written_us: int) -> KernelLine | None:
        """The record as a line of the kernel's log; None when another place has told it already."""
        boot, kernel_us = record.boot, record.line.kernel_us
        wall = record.wall or _estimated(boot, kernel_us, written_us)
        place = Place(
            source=record.place,
            text=record.text,
            kernel_us=kernel_us,
            wall_us=wall.us,
            is_rough=record.wall is None,
            boot_id=boot.id if boot.is_named else None,
        )
        if self._duplicates.is_known(place):
            self._coverage.duplicates += 1
            return None
        arrival_us = self._time.of(boot, kernel_us, wall)
        return KernelLine(
            text=record.text,
            origin=record.line.origin,
            boot_id=boot.id,
            seq=record.line.seq,
            kernel_us=arrival_us if kernel_us is None else kernel_us,
            arrival_us=arrival_us,
            wall_us=wall.us,
            wall_is_estimate=wall.is_estimate,
            probe=PROBE,
        )


def _has_wall_time(record: Record) -> bool:
    """False while only the end of the log can tell when the record was printed."""
    return record.wall is not None or record.line.kernel_us is None or record.boot.offset_us is not None


def _estimated(boot: Boot, kernel_us: int | None, written_us: int) -> WallTime:
    """The wall time of a record that carries none."""
    if kernel_us is not None and boot.offset_us is not None:
        return WallTime(boot.offset_us + kernel_us, True, 1)
    return WallTime(boot.last_wall_us or written_us, True, SECOND_US)


def _anchor(boots: Sequence[Boot], end_us: int) -> None:
    """Give each boot without a wall time the latest one it can have: the last ends where the file does,
    each other where the next one begins."""
    for boot in reversed(boots):
        if boot.offset_us is None and boot.last_kernel_us is not None:
            boot.offset_us = end_us - boot.last_kernel_us
        if boot.offset_us is not None:
            end_us = boot.offset_us
        elif boot.first_wall_us is not None:
            end_us = boot.first_wall_us
