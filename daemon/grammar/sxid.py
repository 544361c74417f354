"""An SXid line: the NVSwitch driver's head, its Severity line, its Data line.

`nvidia-nvswitch3: SXid (PCI:0000:a9:00.0): 20034, Fatal, Link 30 LTSSM Fault Up (First)`; a
hardware error goes on with `Severity …` and one or two `Data {…}` lines of the same code
(open-gpu-kernel-modules 595.45.04, error_nvswitch.c).
"""

from __future__ import annotations

import re
from typing import Any

from daemon.decoded import Fault, Part, Word
from daemon.event import Kind
from daemon.grammar.fields import PRINTED_SEVERITY
from daemon.grammar.head import Head, parse_head

_MARKER = re.compile(r"nvidia-nvswitch([0-9]{0,4}): SXid ")
_VERDICT = re.compile(r"(Fatal|Non-?fatal)(?:,|\Z)", re.IGNORECASE)
_LINK = re.compile(r"\bLink (-?[0-9]{1,4})(?=[^0-9])")
_INSTANCE = re.compile(r"\b(instance|chiplet)=([0-9]{1,6})\b")
_SEVERITY = re.compile(
    r"Severity (?:([0-9]{1,6}) (?:Engine instance (?:([0-9]{1,6}) "
    r"(?:Sub-engine instance ([0-9]{2,6})\b)?)?)?)?"
)
"""Each number with what follows it, or in its printed width: a cut line gives what is whole."""
_WORD = re.compile(r"0x(?:[0-9a-fA-F]{8,16}(?!\w)|[0-9a-fA-F]{1,8}(?=[,}]))")


def is_sxid(text: str) -> bool:
    """True when the message carries the marker of an SXid, well-formed or not."""
    return _MARKER.match(text) is not None


def decode_sxid_line(text: str) -> Fault | None:
    """The fault of a message with the driver's marker; None when it has none or is malformed."""
    marker = _MARKER.match(text)
    if marker is None:
        return None
    return decode_sxid(text[marker.end() :], int(marker[1]) if marker[1] else None)


def decode_sxid(message: str, nvswitch: int | None, *, drill: bool = False) -> Fault | None:
    """The fault in what follows the marker; None when the device or the code does not parse."""
    head = parse_head(message)
    if head is None:
        return None
    if head.rest.startswith("Severity "):
        return _fault(head, nvswitch, Part.CONTINUATION, _severity(head.rest), drill=drill)
    if head.rest.startswith("Data {"):
        words = {"data": _WORD.findall(head.rest, 0, 512)}
        return _fault(head, nvswitch, Part.CONTINUATION, words, drill=drill)
    return _fault(head, nvswitch, Part.OPENING, _head_fields(head.rest), drill=drill)


def _fault(head: Head, nvswitch: int | None, part: Part, detail: dict[str, Any], *, drill: bool) -> Fault:
    if head.code is None:
        detail["code_text"] = head.digits
    verdict = detail.get(PRINTED_SEVERITY)
    return Fault(
        kind=Kind.SXID,
        code=head.code,
        name=None,
        pci=head.pci,
        nvswitch=nvswitch,
        mig=None,
        pid=None,
        process_name=None,
        text=head.rest,
        part=part,
        word=verdict if isinstance(verdict, Word) else None,
        detail=detail,
        drill=drill,
    )


def _head_fields(text: str) -> dict[str, Any]:
    detail: dict[str, Any] = {}
    if match := _VERDICT.match(text):
        detail[PRINTED_SEVERITY] = Word.FATAL if match[1].lower() == "fatal" else Word.NONFATAL
    if match := _LINK.search(text, 0, 256):
        detail["link"] = int(match[1])
    detail |= {match[1]: int(match[2]) for match in _INSTANCE.finditer(text, 0, 512)}
    if text.rstrip().endswith("(First)"):
        detail["first"] = True
    return detail


def _severity(text: str) -> dict[str, Any]:
    match = _SEVERITY.match(text)
    if match is None:
        return {}
    keys = ("severity_level", "engine_instance", "sub_engine_instance")
    return {key: int(value) for key, value in zip(keys, match.groups(), strict=True) if value}
