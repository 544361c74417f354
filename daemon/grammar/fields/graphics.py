"""13 and 69: what the graphics and compute engine refused."""

from __future__ import annotations

import re

from daemon.grammar.fields.registers import error_status
from daemon.grammar.fields.values import HEX, LONGEST_TEXT, Fields, hexadecimal

_SM = re.compile(r"Graphics SM (Warp|Global) Exception on \(")
_PLACE = re.compile(r"\b(GPC|TPC|SM) ([0-9]{1,4})(?=[,)])")
_ESR = re.compile(rf"(0x{HEX}{{1,8}})=(0x{HEX}{{1,8}})\b")
_NAMED = re.compile(
    rf"\b(ChID|ChId|channel|Class|Offset|Data|ErrorCode) (?:0x)?({HEX}{{8,16}}(?!\w)|{HEX}{{1,16}}(?=[,. ]))"
)
_METHOD = ("ChID ", "ChId ", "channel ")


def graphics_exception(text: str) -> Fields:
    """13: the SM and what it did, or the error status registers, or the method that caused it."""
    if match := _SM.match(text):
        return _sm_exception(match[1].lower(), text[match.end() : LONGEST_TEXT])
    if text.startswith("Graphics Exception: ESR "):
        registers = {match[1]: match[2] for match in _ESR.finditer(text, 0, LONGEST_TEXT)}
        return {"esr": registers, **error_status(registers)} if registers else {}
    if not text.startswith("Graphics Exception"):
        return {}
    said = text.partition(": ")[2]
    if said.startswith(_METHOD):
        return class_method(text)
    return class_method(text) or {"exception": said[:200] or text[:200]}


def _sm_exception(scope: str, text: str) -> Fields:
    """`text`: what follows the parenthesis before `GPC`."""
    place, closed, exception = text.partition(")")
    found: Fields = {"exception_scope": scope}
    found |= {match[1].lower(): int(match[2]) for match in _PLACE.finditer(place + closed)}
    if exception.startswith(": ") and len(exception) > 2:
        found["exception"] = exception[2:202]
    return found


def class_method(text: str) -> Fields:
    """13, 69: channel, class, and the method's offset and data."""
    found: Fields = {}
    for match in _NAMED.finditer(text, 0, LONGEST_TEXT):
        match match[1]:
            case "ChID" | "ChId" | "channel":
                found["channel"] = int(match[2], 16)
            case "ErrorCode":
                found["error_code"] = hexadecimal(match[2])
            case name:
                found[f"method_{name.lower()}" if name != "Class" else "class_id"] = hexadecimal(match[2])
    return found
