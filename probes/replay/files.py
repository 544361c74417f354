"""The files and folders a person hands over, as streams of bytes.

What cannot be read is told as a sentence (`Unreadable`), and the others are read all the same. Files are
read in the order in which what they tell began, whatever the order of their names: a shell lists rotated
logs newest first. A file that grows is read up to the end that it had when it was opened.
"""

from __future__ import annotations

import io
import os
import re
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from probes.replay.unpacking import (
    BROKEN,
    PSTORE_NAME,
    Begins,
    Source,
    Unreadable,
    is_log_member,
    open_stream,
    reason,
)

STDIN = "-"
_KMSG_DEVICE = os.makedev(1, 11)
_PSTORE_HEAD = re.compile(rb"([A-Z][a-z]+#[0-9]+) Part([0-9]+)\s")


def sources(
    names: Sequence[str], *, stdin: IO[bytes] | None = None, begins: Begins | None = None
) -> Iterator[Source | Unreadable]:
    """The files and the logs within them: oldest first as `begins` says, without it in the order given.

    The parts of one pstore dump come in the order they were printed.
    """
    for name in _in_order(_by_beginning(list(_without_folders(names)), begins)):
        if isinstance(name, Unreadable):
            yield name
            continue
        try:
            if name == STDIN:
                stream = stdin or (sys.stdin.buffer if sys.stdin is not None else None)
                if stream is None:
                    yield Unreadable("stdin", "it is closed")
                    continue
                yield from open_stream("stdin", _Unclosable(stream), time.time_ns() // 1000)
                continue
            yield from _opened(name, begins)
        except BROKEN as error:
            yield Unreadable(name, reason(error))


class _Unclosable(io.RawIOBase):
    """Standard input, which whoever reads it must not close."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]  # typeshed: WriteableBuffer
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _opened(name: str, begins: Begins | None) -> Iterator[Source | Unreadable]:
    with open(name, "rb", opener=_opener) as file:
        status = os.fstat(file.fileno())
        is_file = stat.S_ISREG(status.st_mode)
        written_us = (status.st_mtime_ns if is_file else time.time_ns()) // 1000
        size = status.st_size if is_file else 0
        yield from open_stream(name, file, written_us, begins=begins, size=size)


def _opener(name: str, flags: int) -> int:
    """The kernel's log itself ends where nothing more is in it; opened as usual, reading would wait there."""
    try:
        is_kmsg = Path(name).stat().st_rdev == _KMSG_DEVICE
    except OSError:
        is_kmsg = False
    return os.open(name, flags | (os.O_NONBLOCK if is_kmsg else 0))


def _without_folders(names: Sequence[str]) -> Iterator[str | Unreadable]:
    """Each folder replaced by the logs in it, picked as in an archive: an unpacked sosreport, /var/log."""
    for name in names:
        if name != STDIN and Path(name).is_dir():
            yield from _in_folder(name)
        else:
            yield name


def _in_folder(name: str) -> Iterator[str | Unreadable]:
    top, nothing = Path(name), True
    closed: list[OSError] = []
    for folder, folders, files in os.walk(name, onerror=closed.append):
        folders.sort()
        for path in (Path(folder, file) for file in sorted(files)):
            # A link stands for a file that is in the folder as well, or is outside it.
            if (
                is_log_member(f"{top.name}/{path.relative_to(top)}")
                and path.is_file()
                and not path.is_symlink()
            ):
                nothing = False
                yield str(path)
    for error in closed:
        yield Unreadable(str(error.filename), reason(error))
    if nothing and not closed:
        yield Unreadable(name, "it is a directory without a kernel log", "name the log itself")


def _by_beginning(names: list[str | Unreadable], begins: Begins | None) -> list[str | Unreadable]:
    """The oldest first; what does not show when it begins stays where it is."""
    if begins is None:
        return names
    known: list[tuple[int, str]] = []
    places: list[int] = []
    for place, name in enumerate(names):
        if isinstance(name, Unreadable) or name == STDIN or not Path(name).is_file():
            continue
        began_us = _beginning(name, begins)
        if began_us is not None:
            known.append((began_us, name))
            places.append(place)
    known.sort(key=lambda each: each[0])
    ordered = list(names)
    for place, (_, name) in zip(places, known, strict=True):
        ordered[place] = name
    return ordered


def _beginning(name: str, begins: Begins) -> int | None:
    """When a file begins; None for one that is broken, or is an archive of several."""
    try:
        with open(name, "rb", opener=_opener) as file:
            for source in open_stream(name, file, os.fstat(file.fileno()).st_mtime_ns // 1000):
                return begins(source) if isinstance(source, Source) and source.name == name else None
    except BROKEN:
        pass
    return None


def _in_order(names: Sequence[str | Unreadable]) -> list[str | Unreadable]:
    """The names as given, but for parts of one pstore dump: the kernel numbers them from its end."""
    parts: dict[str, list[tuple[int, str]]] = {}
    group_of: dict[str, str] = {}
    for name in names:
        if isinstance(name, str) and (head := _pstore_part(name)):
            parts.setdefault(head[0], []).append((head[1], name))
            group_of[name] = head[0]
    ordered: list[str | Unreadable] = []
    done: set[str] = set()
    for name in names:
        group = group_of.get(name) if isinstance(name, str) else None
        if group is None:
            ordered.append(name)
        elif group not in done:
            done.add(group)
            ordered += [member for _, member in sorted(parts[group], reverse=True)]
    return ordered


def _pstore_part(name: str) -> tuple[str, int] | None:
    """Reason and part number of the dump in the file; None when it is no part of a pstore dump."""
    if not PSTORE_NAME.search(name):
        return None
    try:
        with open(name, "rb", opener=_opener) as file:
            match = _PSTORE_HEAD.match(file.read(64))
    except OSError:
        return None
    return (f"{Path(name).parent}/{match[1].decode()}", int(match[2])) if match else None
