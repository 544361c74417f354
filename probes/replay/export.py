"""`journalctl -o export`: blocks of fields, one block an entry, told apart by an empty line.

A field is `NAME=text`, or, when its value is no plain text (a message of several lines), `NAME`, a
64-bit little-endian length, the bytes and a newline. So the stream has to be read as bytes and cannot
be cut at newlines (systemd's "Journal Export Formats").
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import IO

from probes.log_formats import Format, LogLine, from_journal_fields
from probes.replay.lines import LONGEST_LINE

HEAD = b"__CURSOR="
"""How every export begins."""

_WANTED = frozenset(
    {
        b"__REALTIME_TIMESTAMP",
        b"_SOURCE_MONOTONIC_TIMESTAMP",
        b"_BOOT_ID",
        b"_HOSTNAME",
        b"_TRANSPORT",
        b"SYSLOG_FACILITY",
        b"MESSAGE",
    }
)
_LENGTH = struct.Struct("<Q")


def entries(stream: IO[bytes]) -> Iterator[LogLine | None]:
    """Each entry; None for a block that is no journal entry. Ends where the stream is cut."""
    fields: dict[str, str] = {}
    while line := stream.readline(LONGEST_LINE):
        if line == b"\n":
            if fields:
                yield from_journal_fields(fields, Format.JOURNAL_EXPORT)
            fields = {}
            continue
        name, equals, value = line.removesuffix(b"\n").partition(b"=")
        if not equals and line.endswith(b"\n"):
            value = _binary(stream)
        else:
            _skip_rest(stream, line)
        if name in _WANTED:
            fields[name.decode("ascii")] = value.decode("utf-8", "replace")
    if fields:
        yield from_journal_fields(fields, Format.JOURNAL_EXPORT)


def _binary(stream: IO[bytes]) -> bytes:
    """The value of a field with a length; what is beyond the longest line is passed over."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return b""
    (length,) = _LENGTH.unpack(head)
    value = stream.read(min(length, LONGEST_LINE))
    left = length - len(value) + 1  # and its newline
    while left > 0 and (passed := stream.read(min(left, LONGEST_LINE))):
        left -= len(passed)
    return value


def _skip_rest(stream: IO[bytes], line: bytes) -> None:
    while line and not line.endswith(b"\n"):
        line = stream.readline(LONGEST_LINE)
