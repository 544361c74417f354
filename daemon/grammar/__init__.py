"""The line grammar: what one kernel log message says, before anyone knows what it means.

Pure functions over one message. No input makes them raise, and their cost grows with the length of
the line and no faster. A message that is none of the driver's is refused by its first characters,
before any pattern is tried.

* `decode` takes a message as the kernel printed it: the marker stands at its start.
* `find` is for live use: the driver prints with KERN_CONT, so its text can be glued to an
  unfinished line of someone else. Only a complete Xid, SXid or lost GPU is looked for there.
* `strip_prefix` takes the log prefix off a line of a saved log.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache

from daemon.decoded import Context, Decoded, Fault
from daemon.event import Kind
from daemon.grammar.nvrm import GSP_DUMP, decode_nvrm, malformed
from daemon.grammar.prefix import MARKERS, strip_prefix
from daemon.grammar.sxid import decode_sxid, decode_sxid_line, is_sxid
from daemon.grammar.xid import decode_xid

__all__ = ["GSP_DUMP", "decode", "find", "strip_prefix"]

_NVRM = "NVRM: "
_XID = "NVRM: Xid "
_DRILL = "xidwatch-drill: "
_GLUED = re.compile("NVRM: (?=Xid |GPU |The |fallen )|nvidia-nvswitch")
_MOST_GLUED = 8
"""Places tried in one record; text that repeats the marker more often is made to waste time."""

_REMEMBERED = 128
"""Texts whose meaning is kept: every probe brings a line, and a fault that repeats brings its own again."""

_SURE = frozenset({Kind.XID, Kind.SXID, Kind.GPU_LOST})


def decode(text: str) -> Fault | Context | None:
    """What the message says; None when it is nothing that the grammar knows.

    An Xid needs its marker at the start, a parenthesised device that parses, and a decimal code.
    """
    if not text.startswith(MARKERS):
        return None
    if text.startswith(_XID) and (fault := decode_xid(text[len(_XID) :])) is not None:
        return fault
    if text.startswith(_NVRM):
        return decode_nvrm(text[len(_NVRM) :])
    if text.startswith(_DRILL):
        return _decode_drill(text[len(_DRILL) :])
    return decode_sxid_line(text) or (malformed("SXid", text) if is_sxid(text) else None)


@lru_cache(maxsize=_REMEMBERED)
def find(text: str) -> Fault | Context | None:
    """`decode`, and if that finds no Xid, SXid or lost GPU, also behind other text of the record.

    Such a fault has `glued` set: any text may stand before it, so its origin cannot be proved.
    """
    decoded = decode(text)
    if isinstance(decoded, Fault) and decoded.kind in _SURE:
        return decoded
    if "NVRM: " not in text and "nvidia-nvswitch" not in text:
        return decoded
    places = (match.start() for match in _GLUED.finditer(text, 1))
    for _, place in zip(range(_MOST_GLUED), places, strict=False):
        fault = decode(text[place:])
        if isinstance(fault, Fault) and fault.kind in _SURE:
            return replace(fault, glued=True)
    return decoded


def _decode_drill(message: str) -> Decoded:
    """The test line of `xidwatch drill`: the driver's form behind a marker of our own."""
    if message.startswith("xid "):
        return decode_xid(message[len("xid ") :], drill=True)
    if message.startswith("sxid "):
        return decode_sxid(message[len("sxid ") :], None, drill=True)
    return None
