"""The log streams within a stream of bytes: plain, compressed, or members of an archive.

Nothing is held in memory or unpacked to disk.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

from probes.replay.lines import CHUNK_BYTES

Bytes = IO[bytes] | io.BufferedIOBase | io.RawIOBase

BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, gzip.BadGzipFile)
"""What reading a damaged file raises."""

PSTORE_NAME = re.compile(r"dmesg-|pstore")
"""Names of pstore dumps."""

_UTF8_MARK = codecs.BOM_UTF8
_UTF16_MARKS = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
"""What PowerShell's `>` puts before the output of `ssh gpu-17 dmesg`."""

_MOST_LAYERS = 4
_TAR_MAGIC_AT = 257

_LOG_MEMBER = re.compile(
    r"(?:.*/)?(?:"
    r"(?:dmesg|messages|syslog|kern(?:el)?\.?log|kmsg|journalctl|journal|vmcore-dmesg|nvidia-bug-report|"
    r"console|boot\.log)[^/]*|pstore/.*)\Z"
)
"""Members of a sosreport, or of any archive of logs, that can hold the kernel's lines."""

_NOT_A_LOG = re.compile(
    r"\.(?:journal~?|conf|service|socket|py|so|json\.xsl|rules|html)\Z|"
    r"journalctl_(?:.*_)?--(?:list-boots|disk-usage|verify)|/etc/|/proc/|/usr/"
)


@dataclass(frozen=True, slots=True)
class Source:
    """One stream of log lines. Read it before the next one is asked for."""

    name: str
    """Path, and behind a colon the member of an archive."""
    stream: IO[bytes]
    written_us: int
    """When it was last written, µs since the Unix epoch."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Something that could not be read, and why."""

    name: str
    reason: str
    """One clause, lower case: `permission denied`."""
    hint: str | None = None


Begins = Callable[[Source], int | None]
"""When what a source tells began, µs since the Unix epoch; None when that is not to be seen in its first
lines."""


def reason(error: Exception) -> str:
    """Why reading failed, as a clause."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error, EOFError):
        return "the compressed file ends too early"
    text = str(error).strip() or type(error).__name__
    return f"damaged: {text[0].lower()}{text[1:]}"


class _UpTo(io.RawIOBase):
    """A stream up to a number of bytes: a log that something still writes to would never end."""

    def __init__(self, stream: io.BufferedReader, size: int) -> None:
        self._stream = stream
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed: WriteableBuffer
        count = self._stream.readinto(memoryview(buffer)[: self._left])
        self._left -= count
        return count


class _Utf16(io.RawIOBase):
    """UTF-16 text as UTF-8."""

    def __init__(self, stream: io.BufferedReader, encoding: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed: WriteableBuffer
        while not self._rest and (data := self._stream.read(len(buffer))):
            self._rest = self._decoder.decode(data).encode("utf-8", "replace")
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count


def open_stream(
    name: str, raw: Bytes, written_us: int, layer: int = 0, *, begins: Begins | None = None, size: int = 0
) -> Iterator[Source | Unreadable]:
    """The log streams within one stream, found by their first bytes. `size`: of a file that may grow."""
    if layer > _MOST_LAYERS:
        yield Unreadable(name, f"it is packed more than {_MOST_LAYERS} times over")
        return
    stream = _buffered(raw)
    head = stream.peek(512)
    if (unpack := _unpacker(head)) is not None:
        yield from open_stream(name, unpack(stream), written_us, layer + 1, begins=begins)
    elif (refused := _refused(name, head)) is not None:
        yield refused
    elif head[_TAR_MAGIC_AT : _TAR_MAGIC_AT + 5] == b"ustar":
        yield from _members(name, stream, layer + 1, begins)
    elif name.endswith(".enc.z") and PSTORE_NAME.search(name):
        yield _inflated(name, stream, written_us)
    elif (encoding := _UTF16_MARKS.get(head[:2])) is not None:
        stream.read(2)
        yield Source(name, io.BufferedReader(_Utf16(stream, encoding)), written_us)
    else:
        if size:
            stream = io.BufferedReader(_UpTo(stream, size), CHUNK_BYTES)
        if head.startswith(_UTF8_MARK):
            stream.read(len(_UTF8_MARK))
        yield Source(name, stream, written_us)


def _unpacker(head: bytes) -> Callable[[io.BufferedReader], Bytes] | None:
    """What unpacks a stream that begins so; None for one that is not packed."""
    if head.startswith(b"\x1f\x8b"):
        return lambda stream: gzip.GzipFile(fileobj=stream)
    if head.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMAFile
    return bz2.BZ2File if head.startswith(b"BZh") else None


def _refused(name: str, head: bytes) -> Unreadable | None:
    """Why a stream that begins so cannot be read, and what can read it."""
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return Unreadable(name, "it is compressed with zstd", f"zstd -dc {name} | xidwatch replay -")
    if head.startswith(b"PK\x03\x04"):
        return Unreadable(name, "it is a zip archive", f"unzip -p {name} MEMBER | xidwatch replay -")
    if head.startswith(b"LPKSHHRH"):
        hint = f"journalctl --file {name} -k -o json | xidwatch replay -"
        return Unreadable(name, "it is a binary journal", hint)
    return None


def _buffered(raw: Bytes) -> io.BufferedReader:
    return raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw)  # type: ignore[arg-type]  # typeshed asks for a RawIOBase; anything with readinto works


def _members(
    name: str, stream: io.BufferedReader, layer: int, begins: Begins | None
) -> Iterator[Source | Unreadable]:
    """The logs of an archive. One that can be read again is read in the order in which its logs begin:
    once to learn it, and once more for every step back in it."""
    if begins is None or not stream.seekable():
        places: list[int] | None = None
    else:
        places = _places(name, stream, layer, begins)
        stream.seek(0)
    found = 0
    while True:
        for place, member in _log_members(stream):
            if places is None or (found < len(places) and place == places[found]):
                found += 1
                yield from open_stream(f"{name}:{member.name}", member.stream, member.written_us, layer)
        if places is None or found >= len(places):
            break
        stream.seek(0)
    if not found:
        yield Unreadable(
            name, "it is an archive without a kernel log", "name the log itself: tar -xOf FILE MEMBER"
        )


def _log_members(stream: io.BufferedReader) -> Iterator[tuple[int, Source]]:
    """The members of an archive that can hold the kernel's lines, numbered, as they are packed."""
    place = 0
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # not in typeshed; else every header stays in memory
            if not member.isreg() or not member.size or not is_log_member(member.name):
                continue
            content = archive.extractfile(member)
            if content is not None:
                yield place, Source(member.name, content, int(member.mtime * 1_000_000))
                place += 1


def _places(name: str, stream: io.BufferedReader, layer: int, begins: Begins) -> list[int] | None:
    """The numbers of the logs of an archive, oldest first; None when it is damaged."""
    order: list[int] = []
    known: list[tuple[int, int]] = []
    try:
        for place, member in _log_members(stream):
            order.append(place)
            began_us = _member_beginning(f"{name}:{member.name}", member, layer, begins)
            if began_us is not None:
                known.append((began_us, place))
    except BROKEN:
        return None
    slots = sorted(place for _, place in known)
    for slot, (_, place) in zip(slots, sorted(known), strict=True):
        order[slot] = place
    return order


def _member_beginning(name: str, member: Source, layer: int, begins: Begins) -> int | None:
    try:
        for source in open_stream(name, member.stream, member.written_us, layer):
            return begins(source) if isinstance(source, Source) else None
    except BROKEN:
        pass
    return None


def is_log_member(name: str) -> bool:
    """True for a member of an archive that can hold the kernel's lines."""
    return bool(_LOG_MEMBER.match(name)) and not _NOT_A_LOG.search(name)


def _inflated(name: str, stream: io.BufferedReader, written_us: int) -> Source | Unreadable:
    """A pstore record that the kernel could not decompress: raw deflate, as fs/pstore writes it."""
    data = stream.read(CHUNK_BYTES)
    for bits in (-zlib.MAX_WBITS, zlib.MAX_WBITS):
        try:
            text = zlib.decompressobj(bits).decompress(data, CHUNK_BYTES)
        except zlib.error:
            continue
        return Source(name, io.BytesIO(text), written_us)
    return Unreadable(name, "it is a compressed pstore record that cannot be decompressed")
