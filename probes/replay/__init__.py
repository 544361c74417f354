"""Saved logs read as if they were heard live: files in, `KernelLine` records out.

Contract:

* Every common way to save a kernel log is understood, and told apart line by line (`probes.log_formats`).
* Records come in the order of the files, and those within a file of sections in the order of their boots.
  Each has a boot id (the kernel's own where the log gives it, else `replay-N`), a kernel time and a wall
  time. Where the log has no kernel time, the time of the replay stands in for it (`boots`): faults are told
  apart by it. A wall time that is not in the log is filled in and marked as an estimate (`timestamps`).
* A line that stands in two places is handed on once (`duplicates`).
* Origin is what the format proves, and `unknown` where it proves nothing.
* Memory does not grow with the files. What cannot be read is noted in `Coverage`, never raised.

A log that has only kernel time takes its wall times from another log of the same boot (`alignment`), or
is anchored at its end: its last line is taken to be as old as the file. Its records wait for that, at most
`MOST_WAITING` of them.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, tzinfo
from functools import partial
from typing import IO

from probes.line import KernelLine, Origin
from probes.log_formats import Format
from probes.replay import files as opening
from probes.replay import order
from probes.replay.alignment import Sighting, match
from probes.replay.boots import ReplayTime, Timeline
from probes.replay.coverage import Boot, Coverage, FileCoverage
from probes.replay.duplicates import Duplicates, Place
from probes.replay.reading import FileReader, Record
from probes.replay.timestamps import SECOND_US, Stamps, WallTime
from probes.replay.unpacking import Source, Unreadable

__all__ = ["Coverage", "FileCoverage", "Settings", "Source", "Unreadable", "read", "sources"]

PROBE = "replay"
EMPTY = "it is empty"
"""The problem of a file without a line."""

NO_LOG = "it holds no line of a kernel log"
"""The problem of a file in no format known here."""
OTHERS_ONLY = "it holds lines of other programs only, none of the kernel's"
"""The problem of a log that cannot tell of faults."""

MOST_WAITING = 20_000
"""Records that wait for their wall time (some 20 MB)."""


COMPUTED = frozenset({Format.DMESG_CTIME, Format.DMESG_ISO, Format.DMESG_RELTIME})
COMPUTED_SLACK_US = 120 * SECOND_US
"""dmesg computes these times from that of the boot: they drift off as the clock is set (dmesg(1), -T)."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a log leaves out and the person may know."""

    zone: tzinfo = UTC
    """Zone of the times that name none."""
    zone_is_given: bool = False
    """False: the zone is a guess, and such times are estimates."""
    year: int | None = None
    """Year of the first time without one; None: the newest that is not in the future."""


def sources(
    names: Sequence[str], settings: Settings | None = None, *, stdin: IO[bytes] | None = None
) -> Iterator[Source | Unreadable]:
    """The logs in these files and folders, oldest first; standard input stays where it was named."""
    settings = settings or Settings()
    begins = partial(order.begins, zone=settings.zone, year=settings.year, now_us=time.time_ns() // 1000)
    return opening.sources(names, stdin=stdin, begins=begins)


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
        for line in replay.lines(reader, written_us):
            found.messages += 1
            yield line
        if not found.kernel and found.problem is None:
            found.problem, found.hint = _without_a_log(found)
    for boot in coverage.boots:
        boot.fill_in_wall_times()


class _Replay:
    """What all files share: the timeline, the replay's own clock, the lines already told."""

    def __init__(self, coverage: Coverage) -> None:
        self.timeline = Timeline(coverage.boots)
        self._coverage = coverage
        self._time = ReplayTime()
        self._duplicates = Duplicates()
        self._told: set[str] = set()
        """Boots by whose id a line was handed on."""

    def lines(self, reader: FileReader, written_us: int) -> Iterator[KernelLine]:
        """The records of one file as lines of the kernel's log, each with its wall time.

        They wait for the end of the file while something further on may say when they were printed, or
        which boot they belong to; those of a file of sections too, for its sections are in no order.
        """
        waiting: list[Record] = []
        for record in reader.records():
            waiting.append(record)
            may_go = not reader.has_sections and _has_wall_time(waiting[0]) and _has_wall_time(record)
            if may_go:
                yield from self._tell(waiting, written_us)
                waiting.clear()
            elif len(waiting) >= MOST_WAITING:
                self._settle(waiting, written_us)
                yield from self._tell(waiting, written_us)
                waiting.clear()
        self._settle(waiting, written_us)
        yield from self._tell(waiting, written_us)

    def _settle(self, waiting: list[Record], written_us: int) -> None:
        """Give the boots of these records their wall times, and bring the boots in order."""
        self._align(waiting)
        _anchor(self._coverage.boots, written_us)
        began = {id(record.boot): _began_us(record.boot) for record in waiting}
        if None not in began.values():
            waiting.sort(key=lambda record: began[id(record.boot)] or 0)

    def _align(self, waiting: Sequence[Record]) -> None:
        """Find the boots of records without a wall time by the lines that other logs have in common."""
        rough, seen = _rough_and_seen(waiting)
        for records in rough:
            for text in {record.text for record in records}:
                seen[text] += [
                    Sighting(place.boot, place.kernel_us, place.wall_us)
                    for place in self._duplicates.of(text)
                    if place.slack_us == 0
                ]
            boot = records[0].boot
            found = match(((record.text, record.line.kernel_us or 0) for record in records), seen)
            if found is None:
                continue
            if found.boot is boot or boot.id in self._told:  # its id has gone out: it has to stay
                boot.offset_us = found.offset_us
                continue
            self.timeline.merge(boot, found.boot, found.offset_us)
            for record in waiting:
                if record.boot is boot:
                    record.boot = found.boot
            for sightings in seen.values():
                sightings[:] = [
                    each._replace(boot=found.boot) if each.boot is boot else each for each in sightings
                ]

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
            slack_us=_slack_us(record),
            boot=boot,
        )
        if self._duplicates.is_known(place):
            self._coverage.duplicates += 1
            return None
        self._told.add(boot.id)
        arrival_us = self._time.of(boot, record.place, kernel_us, wall)
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


def _rough_and_seen(
    waiting: Sequence[Record],
) -> tuple[Sequence[Sequence[Record]], defaultdict[str, list[Sighting]]]:
    """The records that carry kernel times alone, boot by boot, and where the others saw which line."""
    rough: defaultdict[int, list[Record]] = defaultdict(list)
    seen: defaultdict[str, list[Sighting]] = defaultdict(list)
    for record in waiting:
        if record.wall is not None:
            seen[record.text].append(Sighting(record.boot, record.line.kernel_us, record.wall.us))
        elif record.boot.offset_us is None and record.line.kernel_us is not None:
            rough[id(record.boot)].append(record)
    return list(rough.values()), seen


def _without_a_log(found: FileCoverage) -> tuple[str, str | None]:
    """Why a file gave nothing, and what to do."""
    if not found.lines:
        return EMPTY, None
    if found.other_programs:
        return OTHERS_ONLY, "save the kernel's log: journalctl -k -o json, or dmesg -x"
    return NO_LOG, "docs/replay.md names the formats; best is journalctl -k -o json"


def _slack_us(record: Record) -> int | None:
    """How far the wall time of a record may be off; None when the log gives none."""
    if record.wall is None:
        return None
    return COMPUTED_SLACK_US if record.line.format in COMPUTED else 0


def _has_wall_time(record: Record) -> bool:
    """False while only the end of the log can tell when the record was printed."""
    return record.wall is not None or record.line.kernel_us is None or record.boot.offset_us is not None


def _estimated(boot: Boot, kernel_us: int | None, written_us: int) -> WallTime:
    """The wall time of a record that carries none."""
    if kernel_us is not None and boot.offset_us is not None:
        return WallTime(boot.offset_us + kernel_us, True, 1)
    return WallTime(boot.last_wall_us or written_us, True, SECOND_US)


def _began_us(boot: Boot) -> int | None:
    """When a boot begins, as far as the logs show it; None when no line of it has a time."""
    if boot.offset_us is not None and boot.first_kernel_us is not None:
        return boot.offset_us + boot.first_kernel_us
    return boot.first_wall_us


def _anchor(boots: Sequence[Boot], written_us: int) -> None:
    """Give each boot without a wall time the latest one it can have: the last of a section ends where the
    file does, each other where the next one of its section begins."""
    section, end_us = -1, written_us
    for boot in reversed(boots):
        if boot.section != section:
            section, end_us = boot.section, written_us
        if boot.offset_us is None and boot.last_kernel_us is not None:
            boot.offset_us, boot.is_anchored = end_us - boot.last_kernel_us, True
        end_us = _began_us(boot) or end_us
