"""The kernel log of a boot that is over: the lines before a crash that no daemon lived to read.

Two places may have them. journald keeps the log of earlier boots, up to what reached the disk, with the
boot id on every record. pstore keeps the last kilobytes before a panic, and no boot id: a dump is taken
to be of the wanted boot when it was written after the last thing known of that boot and before this boot
began. Both are read where they exist; a record that is in both is given once.

Nothing here raises for what is missing on this machine: `found` says what was read and what could not be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from probes import replay
from probes.command import CommandError, output_of
from probes.line import KernelLine
from probes.replay import Coverage, Source, Unreadable
from probes.replay.files import sources as open_files

PSTORE_DIRS = (Path("/sys/fs/pstore"), Path("/var/lib/systemd/pstore"))
"""Where the kernel shows dumps, and where systemd-pstore puts them when it clears the former."""

JOURNAL_DEADLINE_S = 60.0
_MOST_DUMPS = 256
_FIELDS = "MESSAGE,_TRANSPORT,SYSLOG_FACILITY,_SOURCE_MONOTONIC_TIMESTAMP,_BOOT_ID"


@dataclass(frozen=True, slots=True)
class Places:
    """Where to look; tests name other places."""

    pstore: Sequence[Path] = PSTORE_DIRS
    journalctl: str = "journalctl"
    deadline_s: float = JOURNAL_DEADLINE_S


@dataclass(slots=True)
class Found:
    """What was read. Complete once the lines have been."""

    read_from: list[str] = field(default_factory=list)
    """Names of the sources that gave at least a line."""
    problems: list[str] = field(default_factory=list)
    """What could not be read, as clauses."""


def read(
    boot_id: str, *, after_us: int, before_us: int, found: Found, places: Places | None = None
) -> Iterator[KernelLine]:
    """The driver's records of that boot, in the order they were printed, all with its boot id.

    `after_us` and `before_us`: wall times, µs since the Unix epoch, of the last thing known of that boot
    and of the beginning of this one. Blocks while it reads: run it in a thread.
    """
    places = places or Places()
    coverage = Coverage()
    settings = replay.Settings()
    files = _journal_and_dumps(boot_id, after_us, before_us, found, places)
    for line in replay.read(files, settings, coverage):
        if line.boot_id != boot_id:
            if not line.boot_id.startswith("replay-"):
                continue  # journalctl answers for exactly one boot, but a fake or a wrapper may not
            line = replace(line, boot_id=boot_id)  # noqa: PLW2901 (the same record under its right name)
        yield line
    for file in coverage.files:
        if file.messages:
            found.read_from.append(file.name)
        if file.problem not in (None, replay.EMPTY):
            found.problems.append(f"{file.name}: {file.problem}")


def dumps(directories: Iterable[Path], *, after_us: int, before_us: int) -> list[Path]:
    """The pstore dumps written in that time, in the order their parts were printed."""
    found: list[tuple[int, Path]] = []
    for directory in directories:
        try:
            # systemd-pstore puts each dump into a directory of its own, beside the parts it was made of.
            paths = [path for path in directory.rglob("dmesg-*") if path.is_file()]
        except OSError:
            continue
        for path in paths:
            try:
                written_us = path.stat().st_mtime_ns // 1000
            except OSError:
                continue
            if after_us <= written_us <= before_us:
                found.append((written_us, path))
    found.sort()
    return [path for _, path in found[-_MOST_DUMPS:]]


def _journal_and_dumps(
    boot_id: str, after_us: int, before_us: int, found: Found, places: Places
) -> Iterator[Source | Unreadable]:
    command = [places.journalctl, "-k", "-b", boot_id.replace("-", ""), "-o", "json", "-q", "--no-pager"]
    try:
        with output_of([*command, f"--output-fields={_FIELDS}"], deadline_s=places.deadline_s) as stream:
            yield Source("journalctl", stream, before_us)
    except CommandError as error:
        found.problems.append(str(error))
    yield from open_files(
        [str(path) for path in dumps(places.pstore, after_us=after_us, before_us=before_us)]
    )
