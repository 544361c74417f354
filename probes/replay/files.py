"""The files a person hands over, as streams of bytes: plain, compressed, or members of an archive.

Everything streams: no file is held in memory or unpacked to disk. What cannot be read is told as a
sentence (`Unreadable`), and the others are read all the same.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import sys
import tarfile
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

CHUNK_BYTES = 1 << 20
LONGEST_LINE = 64 * 1024
"""Bytes of a line that are looked at; a kernel record has at most 8 KiB, its journal entry a few KiB
more. The rest is skipped."""

Bytes = IO[bytes] | io.BufferedIOBase | io.RawIOBase

STDIN = "-"
BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, gzip.BadGzipFile)
"""What reading a damaged file raises."""

_SAMPLE = 64 * 1024
_MOST_LAYERS = 4
_MOST_ODD = 0.1
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
_PSTORE_NAME = re.compile(r"dmesg-|pstore")
_PSTORE_HEAD = re.compile(rb"([A-Z][a-z]+#[0-9]+) Part([0-9]+)\s")


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


def sources(names: Sequence[str], *, stdin: IO[bytes] | None = None) -> Iterator[Source | Unreadable]:
    """Each file in the order given, the parts of one pstore dump in the order they were printed."""
    for name in _in_order(names):
        try:
            if name == STDIN:
                stream = stdin or sys.stdin.buffer
                yield from _open("stdin", _Unclosable(stream), time.time_ns() // 1000)
                continue
            path = Path(name)
            if path.is_dir():
                yield Unreadable(name, "is a directory", f"name the files in it: {name.rstrip('/')}/*")
                continue
            with path.open("rb") as file:
                yield from _open(name, file, path.stat().st_mtime_ns // 1000)
        except BROKEN as error:
            yield Unreadable(name, reason(error))


def reason(error: Exception) -> str:
    """Why reading failed, as a clause."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error, EOFError):
        return "the compressed file ends too early"
    text = str(error).strip() or type(error).__name__
    return f"damaged: {text[0].lower()}{text[1:]}"


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


def _open(name: str, raw: Bytes, written_us: int, layer: int = 0) -> Iterator[Source | Unreadable]:
    """The log streams within one stream, found by their first bytes."""
    if layer > _MOST_LAYERS:
        yield Unreadable(name, f"is packed more than {_MOST_LAYERS} times over")
        return
    stream = _buffered(raw)
    head = stream.peek(512)
    if head.startswith(b"\x1f\x8b"):
        yield from _open(name, gzip.GzipFile(fileobj=stream), written_us, layer + 1)
    elif head.startswith(b"\xfd7zXZ\0"):
        yield from _open(name, lzma.LZMAFile(stream), written_us, layer + 1)  # noqa: SIM115 (read by the caller)
    elif head.startswith(b"BZh"):
        yield from _open(name, bz2.BZ2File(stream), written_us, layer + 1)
    elif head.startswith(b"\x28\xb5\x2f\xfd"):
        yield Unreadable(name, "is compressed with zstd", f"zstd -dc {name} | xidwatch replay -")
    elif head.startswith(b"PK\x03\x04"):
        yield Unreadable(name, "is a zip archive", f"unzip -p {name} MEMBER | xidwatch replay -")
    elif head.startswith(b"LPKSHHRH"):
        yield Unreadable(
            name, "is a binary journal", f"journalctl --file {name} -k -o json | xidwatch replay -"
        )
    elif head[_TAR_MAGIC_AT : _TAR_MAGIC_AT + 5] == b"ustar":
        yield from _members(name, stream, layer + 1)
    elif name.endswith(".enc.z") and _PSTORE_NAME.search(name):
        yield _inflated(name, stream, written_us)
    else:
        yield Source(name, stream, written_us)


def _buffered(raw: Bytes) -> io.BufferedReader:
    return raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw)  # type: ignore[arg-type]  # typeshed asks for a RawIOBase; anything with readinto works


def _members(name: str, stream: io.BufferedReader, layer: int) -> Iterator[Source | Unreadable]:
    found = 0
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # not in typeshed; else every header stays in memory
            if not member.isreg() or not member.size or not is_log_member(member.name):
                continue
            content = archive.extractfile(member)
            if content is not None:
                found += 1
                yield from _open(f"{name}:{member.name}", content, int(member.mtime * 1_000_000), layer)
    if not found:
        yield Unreadable(
            name, "is an archive without a kernel log", "name the log itself: tar -xOf FILE MEMBER"
        )


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
    return Unreadable(name, "is a compressed pstore record that cannot be decompressed")


def _in_order(names: Sequence[str]) -> list[str]:
    """The names as given, but for parts of one pstore dump: the kernel numbers them from its end."""
    parts: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        if head := _pstore_part(name):
            parts.setdefault(head[0], []).append((head[1], name))
    ordered: list[str] = []
    done: set[str] = set()
    group_of = {name: group for group, members in parts.items() for _, name in members}
    for name in names:
        group = group_of.get(name)
        if group is None:
            ordered.append(name)
        elif group not in done:
            done.add(group)
            ordered += [member for _, member in sorted(parts[group], reverse=True)]
    return ordered


def _pstore_part(name: str) -> tuple[str, int] | None:
    """Reason and part number of the dump in the file; None when it is no part of a pstore dump."""
    if not _PSTORE_NAME.search(name):
        return None
    try:
        with Path(name).open("rb") as file:
            match = _PSTORE_HEAD.match(file.read(64))
    except OSError:
        return None
    return (f"{Path(name).parent}/{match[1].decode()}", int(match[2])) if match else None


# -- lines -------------------------------------------------------------------------------------


def lines(stream: IO[bytes]) -> Iterator[list[str]]:
    """The lines of a stream, some thousand at a time, without their newlines.

    Bytes that are no UTF-8 become U+FFFD, as in a record read live; NUL bytes, which a file holds where
    the machine lost power, are left out. Raises what `BROKEN` lists.
    """
    rest = b""
    skipping = False
    while chunk := stream.read(CHUNK_BYTES):
        rest += chunk
        end = rest.rfind(b"\n") + 1
        if end:
            found = _split(rest[: end - 1])
            yield found[1:] if skipping else found
            rest, skipping = rest[end:], False
        elif len(rest) > LONGEST_LINE:
            if not skipping:
                yield _split(rest[:LONGEST_LINE])
            rest, skipping = b"", True
    if rest and not skipping:
        yield _split(rest)


def _split(data: bytes) -> list[str]:
    if b"\0" in data:
        data = data.replace(b"\0", b"")
    text = data.decode("utf-8", "replace")
    if "\r\n" in text:
        text = text.replace("\r\n", "\n")
    return text.removesuffix("\r").split("\n")


def looks_binary(sample: Sequence[str]) -> bool:
    """True when so much in the first lines of a file is no printable text that it is no log."""
    text = "".join(sample)[:_SAMPLE]
    odd = sum(
        character == "\ufffd" or (character < " " and character not in "\t\x0c\x1b") for character in text
    )
    return odd > len(text) * _MOST_ODD
