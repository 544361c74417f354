"""When a saved log begins, as its first lines show it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import tzinfo
from itertools import chain, islice
from typing import IO

from probes.log_formats import LogLine, parse
from probes.replay import export, lines, unpacking
from probes.replay.timestamps import SECOND_US, Assumptions, Stamps

_MOST_LINES = 200
"""Lines looked at: a log may begin with remarks, or with lines that were cut."""


def begins(source: unpacking.Source, zone: tzinfo, year: int | None, now_us: int) -> int | None:
    """Wall time of the first line that carries one, to the second, in µs since the Unix epoch.

    For a log of kernel times, which ends when the file was last written, that time: it is later than the
    beginning of any log that tells of the same boot and carries wall times, which is to be read first.
    None when the first lines are no log. Raises what `unpacking.BROKEN` lists.
    """
    written_us = source.written_us if 0 < source.written_us <= now_us else now_us
    stamps = Stamps(zone=zone, zone_is_given=True, year=year, written_us=written_us, assumed=Assumptions())
    is_log = False
    for line in islice(_lines(source.stream), _MOST_LINES):
        if line is None:
            continue
        wall = stamps.read(line.stamp) if line.stamp is not None else None
        if wall is not None:
            # Of two that begin in the same second, the one that names its boot: ids are made of the name.
            return wall.us - wall.us % SECOND_US + (not line.boot_id)
        is_log = is_log or line.kernel_us is not None
    return written_us if is_log else None


def _lines(stream: IO[bytes]) -> Iterator[LogLine | None]:
    head = stream.peek(len(export.HEAD)) if isinstance(stream, io.BufferedReader) else b""
    if head.startswith(export.HEAD):
        return export.entries(stream)
    return (parse(line) for line in chain.from_iterable(lines.lines(stream)))
