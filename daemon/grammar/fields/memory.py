"""ECC and the repair of memory: 48, 63, 64, 92, 94, 95, 140, 156, 157, 160, 161, 171, 172.

Forms: open-gpu-kernel-modules 595.45.04 (94, 95, 140, GSP's 48 and 172), its successor with
events/gpu/ras (63, 64, 92, 156 to 161), and lines people published (48, 171, 172).
"""

from __future__ import annotations

import re

from daemon.grammar.fields.values import HEX, LONGEST_TEXT, Fields, hexadecimal

_UNIT_48 = re.compile(
    r"detected on GPU in (?:the )?([A-Za-z0-9 _/-]{1,40}?)(?= at |\.| location )|(GSP-RISCV) unc"
)
_UNIT_171 = re.compile(r"([A-Za-z0-9 _/-]{1,40}), Uncorrectable [DS]RAM [Ee]rror")
_PLACE = re.compile(
    r"\b(FBPA|GPC|TPC|LTS|FPB|FBP|[Cc]hannel|(?:logical )?partition|subpartition|location) "
    r"([0-9]{1,6})(?:(?=[,. ])|\b(\Z))"
)
_PLACE_KEYS = {"channel": "memory_channel", "logical partition": "partition", "fpb": "fbp"}
_PHYSICAL = re.compile(rf"\bphysAddr:? (0x{HEX}{{1,16}})(?:(?=[,. ])|\b(\Z))")
_ROW = re.compile(
    rf"\b[Rr]ow (?:Remapper(?: Error)?: )?\((0x{HEX}{{1,16}})\)|"
    rf"\bRetirement failed .{{1,80}} at (0x{HEX}{{16}})(?!\w)"
)
_PAGE = re.compile(rf"\b[Pp]age [^(]{{0,80}}\((0x{HEX}{{1,16}})\)")
_PENDING = re.compile(
    r"to activate|[Rr]emapping pending|already pending|[Nn]ew (?:page retired|retired page)"
)
_FAILED = re.compile(
    r"[Rr]ow [Rr]emapp(?:er Error|ing failure|ing failed)|Retirement failed|[Uu]nable to ret|"
    r"[Bb]lacklisting failed|Repairing \w{1,16} failed|[Ff]ailed to persist"
)
_REASON = re.compile(
    r"Row Remapper Error: \(0x[0-9a-fA-F]{1,16}\) - ([^\n]{1,80})|failed due to ([^\n]{1,80}?) at 0x"
)
_CONTAINMENT = re.compile(r"(Contained|Uncontained): (?:([^(.\n]{1,64})(?:\(([^)\n]{0,80})\)|(?=\.)))?")
_RESET = re.compile(r"(D-)?RST: (Yes|No)\b")
_STORM = re.compile(r"interrupts in (\w{1,32}) at |(SM) SBE ")
_ECC_COUNT = re.compile(r"\b(?:(DRAM|LTC|MMU):([0-9]{1,6})(?=,)|(PCIE):([0-9]{1,6})\b)")
_ACTIVATION = re.compile(r"\bPerform ([^\n]{1,40}) to activate")


def uncorrectable(text: str) -> Fields:
    """48: the unit whose memory failed, and where in it. Repeats for each channel name only that."""
    found: Fields = {}
    if match := _UNIT_48.search(text, 0, LONGEST_TEXT):
        found["unit"] = match[1] or match[2]
    return found | _physical(text) | (_place(text) if found else {})


def uncorrectable_detail(text: str) -> Fields:
    """171, 172: the memory (HBM, GDDR) or the unit (SM ICACHE) of the 48 beside it, and where."""
    match = _UNIT_171.match(text)
    return {"unit": match[1], **_place(text, last=True), **_physical(text, last=True)} if match else {}


def retirement(text: str) -> Fields:
    """63, 64: the DRAM row or page, and whether taking it out of use is pending or failed."""
    found: Fields = {}
    if match := _ROW.search(text, 0, LONGEST_TEXT):
        found["row_address"] = hexadecimal(match[1] or match[2])
    if match := _PAGE.search(text, 0, LONGEST_TEXT):
        found["page_address"] = hexadecimal(match[1])
    return found | _repair_state(text)


def repair(text: str) -> Fields:
    """156, 157, 160, 161: the TPC, memory channel or L2 slice that was, or could not be, replaced."""
    state = _repair_state(text)
    if not state and text.startswith("Retiring "):
        state = {"repair": "pending"}
    found = _place(text) | state
    if match := _ACTIVATION.search(text, 0, LONGEST_TEXT):
        found["activated_by"] = match[1]
    return found


def error_storm(text: str) -> Fields:
    """92: the unit that reports too many corrected errors."""
    match = _STORM.search(text, 0, LONGEST_TEXT)
    return {"unit": match[1] or match[2], **_place(text)} if match else {}


def containment(text: str) -> Fields:
    """94, 95: whether the error stayed contained, where it was, and what the driver asks for."""
    found: Fields = {}
    if match := _CONTAINMENT.match(text):
        found["contained"] = match[1] == "Contained"
        if match[2]:
            found["unit"] = match[2].strip()
        if match[3]:
            found["unit_location"] = match[3]
    found |= _physical(text)
    for match in _RESET.finditer(text, 0, LONGEST_TEXT):
        found["drain_and_reset_required" if match[1] else "reset_required"] = match[2] == "Yes"
    return found


def ecc_escape(text: str) -> Fields:
    """140: uncorrectable errors by place."""
    return {
        f"{(match[1] or match[3]).lower()}_errors": int(match[2] or match[4])
        for match in _ECC_COUNT.finditer(text, 0, LONGEST_TEXT)
    }


def _place(text: str, *, last: bool = False) -> Fields:
    """Numbered units. One at the very end of the text counts if `last`: the driver's text ends so."""
    found: Fields = {}
    for match in _PLACE.finditer(text, 0, LONGEST_TEXT):
        if match[3] is not None and not last:
            continue
        name = match[1].lower()
        found[_PLACE_KEYS.get(name, name)] = int(match[2])
    return found


def _physical(text: str, *, last: bool = False) -> Fields:
    match = _PHYSICAL.search(text, 0, LONGEST_TEXT)
    if match is None or (match[2] is not None and not last):
        return {}
    return {"physical_address": hexadecimal(match[1])}


def _repair_state(text: str) -> Fields:
    found: Fields = {}
    if _FAILED.search(text, 0, LONGEST_TEXT):
        found["repair"] = "failed"
        if match := _REASON.search(text, 0, LONGEST_TEXT):
            found["failure"] = match[1] or match[2]
    elif _PENDING.search(text, 0, LONGEST_TEXT):
        found["repair"] = "pending"
    return found
