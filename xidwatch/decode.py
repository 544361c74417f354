"""`xidwatch decode`: what the daemon would make of each line of a saved log.

One line of ASCII JSON for every line of input, in order: an object with the keys of an event that
one line can give (always all of them), or `null` for a line that is no fault, among them the lines
that only name a GPU and the lines of a GSP dump. Input is split at `\\n` only; bytes that are no UTF-8
are shown as `\\xNN`. A kmsg, dmesg or journal prefix is understood. Who printed a line is reported as
`origin` and decides nothing: a saved log proves nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO, TextIO

from daemon.decoded import Fault
from daemon.grammar import GSP_DUMP, decode, strip_prefix
from daemon.line_json import to_dict

LONGEST_LINE = 64 * 1024
"""Bytes of a line that are looked at; a kernel record has at most 8 KiB. The rest is skipped."""


def run(stdin: BinaryIO, stdout: TextIO) -> int:
    """Decode every line of `stdin` onto `stdout` until its end; 0. Raises BrokenPipeError.

    Each answer is flushed at once, so that `dmesg --follow | xidwatch decode` is live.
    """
    for line in _lines(stdin):
        print(json.dumps(decode_line(line)), file=stdout, flush=True)
    return 0


def decode_line(line: str) -> dict[str, Any] | None:
    """The JSON object of one log line, or None."""
    text, origin = strip_prefix(line)
    decoded = decode(text)
    if not isinstance(decoded, Fault) or decoded.name == GSP_DUMP:
        return None
    return to_dict(decoded, text, origin)


def _lines(stdin: BinaryIO) -> Iterator[str]:
    while chunk := stdin.readline(LONGEST_LINE):
        line = chunk
        while not chunk.endswith(b"\n") and (chunk := stdin.readline(LONGEST_LINE)):
            pass  # the rest of a line that is too long
        yield line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8", "backslashreplace")
