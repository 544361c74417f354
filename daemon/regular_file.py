"""Files that somebody names in a setting, read whole: never waited for, and never larger than expected.

A pipe in a file's place would hold its reader until somebody writes into it, and a device may have no end.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

OPEN_TO_OTHERS: Final = stat.S_IROTH | stat.S_IWOTH
"""Bits of a mode: every user of the machine may read or write the file."""


class UnfitFileError(Exception):
    """It is there, and not to be read. The message goes on behind the file's name: `is no regular file`."""


class TooLongError(UnfitFileError):
    """It is longer than its reader expects."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a file held, and what it was when that was read."""

    data: bytes
    status: os.stat_result
    """As it was opened."""
    changed: bool
    """It was written while it was read: the data may be of two versions."""


def read(path: Path, most_bytes: int) -> Content:
    """All of a file. Raises OSError, UnfitFileError for one that is none, and TooLongError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            is_directory = stat.S_ISDIR(status.st_mode)
            raise UnfitFileError("is a directory" if is_directory else "is no regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(most_bytes + 1)
        changed = signature(os.fstat(descriptor)) != signature(status)
    finally:
        os.close(descriptor)
    if len(data) > most_bytes:
        raise TooLongError(f"is longer than {most_bytes} bytes")
    return Content(data, status, changed)


def signature(status: os.stat_result) -> tuple[int, ...]:
    """What is another when a file was replaced, written, or given other rights. The last one is the time of
    that change in ns; the clock of a file system has ticks, so a change within one may look like none."""
    return (
        status.st_dev,
        status.st_ino,
        status.st_mode,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
