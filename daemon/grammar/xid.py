"""An Xid line: head, process, text, and the place of the line within its fault."""

from __future__ import annotations

import re
from typing import Any

from daemon.decoded import Fault, Part, Word
from daemon.event import Kind
from daemon.grammar.fields import PRINTED_SEVERITY, fields
from daemon.grammar.head import parse_head, split_process

_CLOSING_13 = re.compile(r"Graphics Exception: (?:ChID|ChId|Ch|channel|Channel ID) (?:0x)?[0-9a-fA-F]{1,8}, ")
_OPENING_13 = re.compile(r"Graphics (?:SM (?:Warp|Global) Exception|Exception(?: on|:)) ")


def decode_xid(message: str, *, drill: bool = False) -> Fault | None:
    """The fault in what follows `NVRM: Xid `; None when the device or the code does not parse."""
    head = parse_head(message)
    if head is None:
        return None
    pid, process_name, text = split_process(head.rest)
    detail: dict[str, Any] = {**fields(head.code, text)}
    if head.code is None:
        detail["code_text"] = head.digits
    verdict = detail.get(PRINTED_SEVERITY)
    return Fault(
        kind=Kind.XID,
        code=head.code,
        name=None,
        pci=head.pci,
        nvswitch=None,
        mig=head.mig,
        pid=pid,
        process_name=process_name,
        text=text,
        part=_part(head.code, text),
        word=verdict if isinstance(verdict, Word) else None,
        detail=detail,
        drill=drill,
    )


def _part(code: int | None, text: str) -> Part:
    """Only 13 comes in several Xid lines: places and registers first, the channel last.

    Every `Graphics Exception` that names no channel opens (`MISSING_INLINE_DATA`, `Shader Program
    Header 11 Error`, `ESR …`); the forms of older GPUs (bare words, `Ch 00000001`) stand alone.
    """
    if code != 13:
        return Part.WHOLE
    if _CLOSING_13.match(text):
        return Part.CLOSING
    return Part.OPENING if _OPENING_13.match(text) else Part.WHOLE
