"""`xidwatch replay FILE…`: the events of saved logs, as if they had been heard live, and a report on them.

Files are read in the order given (oldest first is best), `-` is standard input. Nothing is written but
the report, and no daemon is needed. Raises UserError for what the user can mend, above all when not one
of the files could be read.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TextIO
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from daemon.pipeline import Pipeline
from daemon.playback import Playback
from daemon.since import parse_since
from daemon.text import clean
from probes import replay
from probes.errors import UserError
from probes.line import KernelLine
from probes.replay.coverage import Boot, Coverage
from xidwatch.report import as_json, html, markdown, notes, summary, text
from xidwatch.report.collect import Collection
from xidwatch.report.summary import Report
from xidwatch.terminal import PLAIN, Style, for_stream

UNNAMED = "saved log"
"""Stands as the node of events that are from no one knows where."""

_FIRST_YEAR, _LAST_YEAR = 1990, 2200


class ReportFormat(StrEnum):
    """How the report is written."""

    TEXT = "text"
    JSON = "json"
    MARKDOWN = "markdown"
    HTML = "html"


_BY_SUFFIX = {
    ".json": ReportFormat.JSON,
    ".md": ReportFormat.MARKDOWN,
    ".html": ReportFormat.HTML,
    ".htm": ReportFormat.HTML,
}


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for, as typed; None: not given."""

    files: Sequence[str]
    format: str | None = None
    output: Path | None = None
    since: str | None = None
    until: str | None = None
    utc_offset: str | None = None
    timezone: str | None = None
    year: str | None = None
    node: str | None = None
    allow_drills: bool = False


@dataclass(frozen=True, slots=True)
class Window:
    """The time asked for, µs since the Unix epoch."""

    since_us: int
    until_us: int


def run(options: Options, out: TextIO) -> int:
    """Write the report to `out`, or to the file asked for; 0. Raises UserError."""
    form = _format(options)
    _refuse_to_overwrite(options)
    zone, is_given = _zone(options)
    settings = replay.Settings(zone=zone, zone_is_given=is_given, year=_year(options.year))
    report = examine(
        options.files,
        settings,
        _window(options),
        node=options.node,
        allow_drills=options.allow_drills,
    )
    if not report.coverage.kernel:
        raise _nothing_read(report.coverage)
    style = for_stream(out) if options.output is None else PLAIN
    content = _WRITERS[form](report, style)
    if options.output is None:
        _print(content, out)
        return 0
    try:
        options.output.write_text(content, encoding="utf-8")
    except OSError as error:
        raise _cannot_write(str(options.output), error) from None
    print(f"{report.headline}\nwritten to {options.output}", file=out)
    return 0


def _print(content: str, out: TextIO) -> None:
    try:
        out.write(content)
        out.flush()
    except BrokenPipeError:
        raise  # whoever read it has read enough: the command line says so with its exit code
    except OSError as error:
        raise _cannot_write("the report", error) from None


def _cannot_write(name: str, error: OSError) -> UserError:
    reason = (error.strerror or str(error)).lower()
    return UserError(f"cannot write {name}: {reason}", hint="name another --output")


def _refuse_to_overwrite(options: Options) -> None:
    """The logs are what cannot be had again."""
    if options.output is None or not options.output.exists():
        return
    for name in options.files:
        if Path(name).exists() and options.output.samefile(name):
            raise UserError(f"--output: {name} is one of the logs to be read", hint="name another --output")


def examine(
    files: Sequence[str],
    settings: replay.Settings,
    window: Window,
    *,
    node: str | None,
    allow_drills: bool = False,
) -> Report:
    """Read the files and report on them. What cannot be read is in the report's coverage.

    `node` None: the host that the logs name, if they name one only.
    """
    coverage = Coverage()
    playback = Playback(partial(Pipeline, node=node or UNNAMED, allow_drills=allow_drills))
    collection = Collection()
    last: KernelLine | None = None
    for line in replay.read(replay.sources(files, settings), settings, coverage):
        if line.wall_us < window.since_us:
            coverage.outside += 1
            collection.add(playback.learn(line))
        elif line.wall_us > window.until_us:
            coverage.outside += 1
        else:
            collection.add(playback.play(line))
            last = line
    quiet_us = 0
    if last is not None and coverage.last_wall_us is not None:
        quiet_us = min(coverage.last_wall_us, window.until_us) - last.wall_us
    if last is not None and (booted := _boot_after(last, coverage)) is not None:
        collection.add(playback.next_boot(booted.id))
    collection.add(playback.end(quiet_us))
    let_go = collection.let_go.total()
    node = node or (coverage.hosts[0] if len(coverage.hosts) == 1 else None)
    return summary.summarise(
        [replace(event, node=node or UNNAMED) for event in collection.faults()],
        [replace(event, node=node or UNNAMED) for event in collection.incidents()],
        coverage,
        node=node,
        notes=notes.notes(coverage, forged=playback.forged, let_go=let_go, zone=settings.zone),
        let_go=let_go,
    )


def _boot_after(last: KernelLine, coverage: Coverage) -> Boot | None:
    """The newest boot, if the log shows that it began after that line."""
    newest = max(coverage.boots, key=lambda boot: boot.first_wall_us or 0, default=None)
    if newest is None or newest.id == last.boot_id or not newest.is_begun:
        return None
    return newest if (newest.first_wall_us or 0) >= last.wall_us else None


_WRITERS: Mapping[ReportFormat, Callable[[Report, Style], str]] = {
    ReportFormat.TEXT: text.write,
    ReportFormat.JSON: lambda report, style: as_json.write(report),
    ReportFormat.MARKDOWN: lambda report, style: markdown.write(report),
    ReportFormat.HTML: lambda report, style: html.write(report),
}


def _nothing_read(coverage: Coverage) -> UserError:
    """One sentence for one file, the first of them for several."""
    troubled = [file for file in coverage.files if file.problem is not None]
    if not troubled:
        return UserError("there is nothing to replay", hint="name a saved log, or - for standard input")
    first = troubled[0]
    left = len(troubled) - 1
    others = (
        f", and the {f'{left:,} others' if left > 1 else 'other file'} gave nothing either" if left else ""
    )
    return UserError(f"cannot replay {clean(first.name, 200)}: {first.problem}{others}", hint=first.hint)


def _format(options: Options) -> ReportFormat:
    if options.format is not None:
        try:
            return ReportFormat(options.format)
        except ValueError:
            raise UserError(
                f"--format: {options.format!r} is none", hint=f"one of {', '.join(ReportFormat)}"
            ) from None
    suffix = options.output.suffix.lower() if options.output is not None else ""
    return _BY_SUFFIX.get(suffix, ReportFormat.TEXT)


def _zone(options: Options) -> tuple[tzinfo, bool]:
    """The zone of times that name none; by default this machine's, which is then a guess."""
    if options.timezone is not None and options.utc_offset is not None:
        raise UserError("--timezone and --utc-offset say the same thing", hint="give one of them")
    if options.timezone is not None:
        try:
            return ZoneInfo(options.timezone), True
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise UserError(
                f"--timezone: {clean(options.timezone, 60)!r} is not known here",
                hint="for example Europe/Berlin, or UTC",
            ) from None
    if options.utc_offset is not None:
        return _offset(options.utc_offset), True
    return _local_zone(), False


def _offset(written: str) -> tzinfo:
    try:
        moment = datetime.fromisoformat(f"2000-01-01T00:00:00{'Z' if written in ('0', 'Z') else written}")
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise UserError(
            f"--utc-offset: {clean(written, 20)!r} is no offset", hint="for example +02:00 or -0700"
        )
    return moment.tzinfo


def _local_zone() -> tzinfo:
    local = datetime.now().astimezone()
    if local.utcoffset() == timedelta(0) and local.tzname() == "UTC":
        return UTC
    try:
        # /etc/localtime is a link into the zone database: it knows summer time, a bare offset does not.
        return ZoneInfo(str(Path("/etc/localtime").resolve()).partition("zoneinfo/")[2])
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return local.tzinfo or UTC


def _year(written: str | None) -> int | None:
    if written is None:
        return None
    if not (written.isascii() and written.isdigit() and _FIRST_YEAR <= int(written[:9]) <= _LAST_YEAR):
        raise UserError(f"--year: {clean(written, 20)!r} is no year", hint="for example --year 2025")
    return int(written)


def _window(options: Options) -> Window:
    now_us = time.time_ns() // 1000

    def bound(name: str, written: str | None, otherwise: int) -> int:
        if written is None:
            return otherwise
        if written.isascii() and written.isdigit():
            raise UserError(
                f"{name}: a saved log has no cursors", hint="write for example 7d or 2026-11-22T11:20Z"
            )
        return parse_since(written, now_us=now_us, name=name).time_us

    return Window(bound("--since", options.since, -sys.maxsize), bound("--until", options.until, sys.maxsize))
