"""The lines of a saved log, from a stream of bytes. Memory is bounded, whatever the stream holds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import IO

CHUNK_BYTES = 1 << 20
LONGEST_LINE = 64 * 1024
"""Bytes of a line that are looked at; a kernel record has at most 8 KiB, its journal entry a few KiB
more. The rest is skipped."""

_SAMPLE = 64 * 1024
_MOST_ODD = 0.1
_CARRIAGE_RETURNS = re.compile(r"\r+(?=\n|\Z)")
"""Before a newline: one of Windows, two of a serial console that was saved there."""


def lines(stream: IO[bytes]) -> Iterator[list[str]]:
    """The lines of a stream, some thousand at a time, without their newlines.

    Bytes that are no UTF-8 become U+FFFD, as in a record read live; NUL bytes, which a file holds where
    the machine lost power, are left out. Raises what `unpacking.BROKEN` lists.
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
    if "\r" in text:
        text = _CARRIAGE_RETURNS.sub("", text)
    return text.split("\n")


def looks_binary(sample: Sequence[str]) -> bool:
    """True when so much in the first lines of a file is no printable text that it is no log."""
    text = "".join(sample)[:_SAMPLE]
    odd = sum(
        character == "\ufffd" or (character < " " and character not in "\t\x0c\x1b") for character in text
    )
    return odd > len(text) * _MOST_ODD
