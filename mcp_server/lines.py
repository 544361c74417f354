"""Lines from a byte stream, bounded in length and in time.

Between two lines a client may be silent for as long as it likes. A line that was begun has to be
complete within `LINE_S`, so that half a message and then silence does not hold a connection for
ever. A line that is too long is dropped, told at its end, and reading goes on behind it.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from mcp_server.request_id import BEGINNING, END, id_in

LINE_LIMIT: Final = 256 * 1024
"""Bytes of a line, without its newline."""
LINE_S: Final = 30.0
"""From the first byte of a line to its newline."""
_CHUNK: Final = 64 * 1024


class LineTooLongError(Exception):
    """The line is longer than the limit; the next call goes on behind it."""

    def __init__(self, beginning: bytes, end: bytes) -> None:
        super().__init__("the line is too long")
        self.request_id = id_in(beginning[:BEGINNING], end[-END:])
        """Whose request it was; None when that cannot be made out."""


class LineTooSlowError(Exception):
    """The line was not complete in time; the stream is of no further use."""


class ByteStream(Protocol):
    """Where lines come from; an `asyncio.StreamReader` is one."""

    async def read(self, n: int, /) -> bytes:
        """At most `n` bytes, as soon as there are any; b"" at the end, and ever after."""


class LineReader:
    """Reads lines from a stream that nobody else reads from meanwhile."""

    def __init__(self, reader: ByteStream, *, limit: int = LINE_LIMIT, within_s: float = LINE_S) -> None:
        self._reader = reader
        self._limit = limit
        self._within_s = within_s
        self._pending = bytearray()
        self._searched = 0
        self._beginning: bytes | None = None
        """Of a line that is too long and not at its end yet."""
        self._end = b""
        """What came last of it."""

    async def next(self, first_within_s: float | None = None) -> bytes:
        """The next line with its newline; at the end of input what is left, then b"".

        Raises LineTooLongError and LineTooSlowError; the latter also when nothing at all came within
        `first_within_s` seconds (None: a line may begin whenever it likes).
        """
        now = asyncio.get_running_loop().time
        begun = bool(self._pending) or self._beginning is not None
        due = now() + self._within_s if begun else None
        if due is None and first_within_s is not None:
            due = now() + first_within_s
        while (line := self._take()) is None:
            if first_within_s is not None and self._beginning is not None:
                raise self._too_long(b"")  # it is not waited for: what comes first has a deadline
            try:
                async with asyncio.timeout_at(due):
                    chunk = await self._reader.read(_CHUNK)
            except TimeoutError:
                raise LineTooSlowError from None
            if not chunk and self._beginning is not None:
                raise self._too_long(b"")
            if not chunk:
                return self._rest()
            if not begun:
                begun, due = True, now() + self._within_s
            self._pending += chunk
        return line

    def _take(self) -> bytes | None:
        """A complete line, if there is one."""
        if (end := self._pending.find(b"\n", self._searched)) >= 0:
            line = bytes(self._pending[: end + 1])
            del self._pending[: end + 1]
            self._searched = 0
            if self._beginning is not None:
                raise self._too_long(line)
            if end > self._limit:
                raise LineTooLongError(line, line)
            return line
        if self._beginning is None and len(self._pending) > self._limit:
            self._beginning = bytes(self._pending[:BEGINNING])
        if self._beginning is not None:
            self._end = (self._end + bytes(self._pending[-END:]))[-END:]
            self._pending.clear()
        self._searched = len(self._pending)
        return None

    def _too_long(self, end: bytes) -> LineTooLongError:
        """The error for the line whose beginning was kept; it is over."""
        error = LineTooLongError(self._beginning or b"", self._end + end)
        self._beginning, self._end = None, b""
        return error

    def _rest(self) -> bytes:
        rest = bytes(self._pending)
        self._pending.clear()
        self._searched = 0
        return rest
