"""Typed fields of an Xid's text, code by code.

One function per form of text, one table from code to function: a code that gains a decoder gains
one row. Numbers people count are ints; addresses, registers and class ids are hex strings, because
JSON readers lose 64-bit integers. A field that the text does not hold is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from daemon import pci
from daemon.decoded import Word

Value = int | str | bool | list[str] | dict[str, str]
Fields = dict[str, Value]

PRINTED_SEVERITY = "printed_severity"
"""Key of the line's own verdict, a `Word`."""

_HEX = "[0-9a-fA-F]"
_CAUSED_BY = re.compile(r" caused by previous Xid ([0-9]{1,6})\Z")
_CHANNEL = re.compile(rf"(?:Ch|ChID|ChId|Channel ID|[Cc]hannel) (?:0x)?({_HEX}{{1,8}})(?!\w)")
_SM = re.compile(
    r"Graphics SM (Warp|Global) Exception on "
    r"\(GPC ([0-9]{1,4}), TPC ([0-9]{1,4})(?:, SM ([0-9]{1,4}))?\): ?([^\n]{0,200})"
)
_ESR = re.compile(rf"(0x{_HEX}{{1,8}})=(0x{_HEX}{{1,8}})")
_NAMED = re.compile(rf"\b(ChID|ChId|channel|Class|Offset|Data|ErrorCode) (?:0x)?({_HEX}{{1,16}})\b")
_FAULT_ADDRESS = re.compile(rf"faulted @ 0x({_HEX}{{1,8}})_({_HEX}{{8}})")
_FAULT_ENGINE = re.compile(r"ENGINE ((?:[A-Z0-9_]{1,32} ){1,4})faulted")
_FAULT_TYPE = re.compile(r"Fault is of type ([A-Z0-9_]{1,48}) ([A-Z0-9_]{1,48})")
_INTR = re.compile(rf"\bintr0? (?:0x)?({_HEX}{{1,8}})\b")
_ROW = re.compile(rf"\b[Rr]ow \((0x{_HEX}{{1,16}})\)")
_PAGE = re.compile(rf"\b[Pp]age [^(]{{0,80}}\((0x{_HEX}{{1,16}})\)")
_CONTAINMENT = re.compile(r"(Contained|Uncontained): ([^(.\n]{1,64})(?:\(([^)\n]{0,80})\))?")
_RESET = re.compile(r"(D-)?RST: (Yes|No)")
_PHYSICAL = re.compile(rf"physAddr: (0x{_HEX}{{1,16}})")
_NVLINK4_VERDICT = re.compile(r"\b(non-?)?fatal error detected on link\b", re.IGNORECASE)
_NVLINK4_LINK = re.compile(r"\blink (-?[0-9]{1,4})(?![0-9])")
_NVLINK4_REMOTE = re.compile(r"\bto remote (PCI:[0-9a-fA-F:.]{5,24})")
_WORD = re.compile(rf"0x{_HEX}{{1,8}}")
_NVLINK5 = re.compile(
    r"([A-Z][A-Z0-9_/]{1,60}) +(Fatal|Non-?fatal) +(XC[0-9]{1,3}) +i([0-9]{1,3}) +Link +(-?[0-9]{1,4})"
    r" *\(([^)\n]{0,200})\)",
    re.IGNORECASE,
)
_RPC = re.compile(
    r"Timeout after ([0-9]{1,6})s of waiting for RPC response from GPU([0-9]{1,4}) GSP!"
    rf"(?: Expected function ([0-9]{{1,6}}) \(([^)\n]{{0,64}})\)(?: sequence ([0-9]{{1,10}}))?"
    rf"(?: \((0x{_HEX}{{1,16}}) (0x{_HEX}{{1,16}})\))?)?"
)
_GSP_EXCEPTION = re.compile(
    rf"GSP task exception: ([^(\n]{{1,80}}?) \(cause:(0x{_HEX}{{1,16}})\) @ pc:(0x{_HEX}{{1,16}})"
    r"(?:, partition:([0-9#]{1,12}))?(?:, task:([0-9]{1,6}))?"
)
_CONTEXT_SWITCH = re.compile(rf"\berrorString ([^,\n]{{1,80}}), Info (0x{_HEX}{{1,8}})")
_ECC_COUNT = re.compile(r"\b(DRAM|LTC|MMU|PCIE):([0-9]{1,6})\b")
_RECOVERY = re.compile(
    rf"GPU recovery action changed from (0x{_HEX}{{1,8}}) \(([^)\n]{{0,64}})\)"
    rf" to (0x{_HEX}{{1,8}}) \(([^)\n]{{0,64}})\)"
)


def fields(code: int | None, text: str) -> Fields:
    """Everything that this version can read from the text of Xid `code`."""
    found = channel(text)
    decoder = DECODERS.get(code) if code is not None else None
    if decoder is not None:
        found |= decoder(text)
    if match := _CAUSED_BY.search(text, max(0, len(text) - 40)):
        found["caused_by_xid"] = int(match[1])
    return found


def channel(text: str) -> Fields:
    """The channel that a text of any code may begin with: `Ch 00000008`, `channel 0x0000000a`."""
    match = _CHANNEL.match(text)
    return {"channel": int(match[1], 16)} if match else {}


def graphics_exception(text: str) -> Fields:
    """13: the SM and what it did, or the error status registers, or the method that caused it."""
    if match := _SM.match(text):
        place: Fields = {"exception": match[5], "exception_scope": match[1].lower()}
        place |= {"gpc": int(match[2]), "tpc": int(match[3])}
        return place | ({"sm": int(match[4])} if match[4] else {})
    if text.startswith("Graphics Exception: ESR "):
        registers = {match[1]: match[2] for match in _ESR.finditer(text, 0, 512)}
        return {"esr": registers} if registers else {}
    if text.startswith("Graphics Exception"):
        return class_method(text) or {"exception": text.partition(": ")[2][:200] or text[:200]}
    return {}


def class_method(text: str) -> Fields:
    """13, 69: channel, class, and the method's offset and data."""
    found: Fields = {}
    for match in _NAMED.finditer(text, 0, 512):
        match match[1]:
            case "ChID" | "ChId" | "channel":
                found["channel"] = int(match[2], 16)
            case "ErrorCode":
                found["error_code"] = hexadecimal(match[2])
            case name:
                found[f"method_{name.lower()}" if name != "Class" else "class_id"] = hexadecimal(match[2])
    return found


def mmu_fault(text: str) -> Fields:
    """31, 137: which unit touched which address, and how."""
    found: Fields = {}
    if match := _INTR.search(text, 0, 256):
        found["intr"] = hexadecimal(match[1])
    if match := _FAULT_ENGINE.search(text, 0, 512):
        engine, *units = match[1].split()
        found["engine"] = engine
        if units:
            found["client"] = units[-1]
        if gpc := next((unit for unit in units if re.fullmatch("GPC[0-9]{1,4}", unit)), None):
            found["gpc"] = int(gpc.removeprefix("GPC"))
    if match := _FAULT_ADDRESS.search(text, 0, 512):
        found["fault_address"] = f"0x{int(match[1], 16) << 32 | int(match[2], 16):x}"
    if match := _FAULT_TYPE.search(text, 0, 512):
        found |= {"fault_type": match[1], "access_type": match[2]}
    return found


def retirement(text: str) -> Fields:
    """63, 64: the DRAM row or page that was, or could not be, taken out of use."""
    found: Fields = {}
    if match := _ROW.search(text, 0, 512):
        found["row_address"] = hexadecimal(match[1])
    if match := _PAGE.search(text, 0, 512):
        found["page_address"] = hexadecimal(match[1])
    return found


def containment(text: str) -> Fields:
    """94, 95: whether the error stayed contained, where it was, and what the driver asks for."""
    found: Fields = {}
    if match := _CONTAINMENT.match(text):
        found |= {"contained": match[1] == "Contained", "unit": match[2].strip()}
        if match[3]:
            found["unit_location"] = match[3]
    if match := _PHYSICAL.search(text, 0, 512):
        found["physical_address"] = hexadecimal(match[1])
    for match in _RESET.finditer(text, 0, 512):
        found["drain_and_reset_required" if match[1] else "reset_required"] = match[2] == "Yes"
    return found


def nvlink4(text: str) -> Fields:
    """74: the link, its error words, and the peer that it could not be trained to."""
    found: Fields = {}
    if match := _NVLINK4_VERDICT.search(text, 0, 256):
        found[PRINTED_SEVERITY] = Word.NONFATAL if match[1] else Word.FATAL
    if match := _NVLINK4_LINK.search(text, 0, 256):
        found["link"] = int(match[1])
        words = _WORD.findall(text, match.end(), 512)
        if words:
            found["words"] = words
    if match := _NVLINK4_REMOTE.search(text, 0, 256):
        remote = pci.normalize(match[1])
        if remote is not None:
            found["remote_pci"] = remote
    return found


def nvlink5(text: str) -> Fields:
    """144 to 150: unit, verdict, crossbar, link (-1: none in particular) and the words as printed.

    Word 1 has two layouts: NVIDIA's sub-code is bits 9:5 before R575 and bits 6:0 from R575 on; both
    readings are given, named for the branch they hold for. Bits 25:20 are the reason.
    """
    match = _NVLINK5.match(text)
    if match is None:
        return {}
    found: Fields = {
        "unit": match[1],
        PRINTED_SEVERITY: Word.FATAL if match[2].lower() == "fatal" else Word.NONFATAL,
        "xc": match[3],
        "instance": int(match[4]),
        "link": int(match[5]),
    }
    words = _WORD.findall(match[6])
    if words:
        first = int(words[0], 16)
        found |= {
            "words": words,
            "reason": first >> 20 & 0x3F,
            "subcode_before_r575": first >> 5 & 0x1F,
            "subcode_from_r575": first & 0x7F,
        }
    if len(words) > 1:
        found["error_status"] = words[1]
    return found


def rpc_timeout(text: str) -> Fields:
    """119: how long the driver waited, and for what. `rm_gpu` is the driver's own GPU number."""
    match = _RPC.match(text)
    if match is None:
        return {}
    found: Fields = {"timeout_s": int(match[1]), "rm_gpu": int(match[2])}
    if match[3]:
        found |= {"rpc_function": int(match[3]), "rpc_function_name": match[4]}
    if match[5]:
        found["rpc_sequence"] = int(match[5])
    if match[6]:
        found["rpc_data"] = [match[6], match[7]]
    return found


def gsp_exception(text: str) -> Fields:
    """120: what the firmware task did, and where."""
    match = _GSP_EXCEPTION.match(text)
    if match is None:
        return {}
    found: Fields = {"exception": match[1], "cause": match[2], "program_counter": match[3]}
    if match[4]:
        found["partition"] = match[4]
    if match[5]:
        found["task"] = int(match[5])
    return found


def context_switch(text: str) -> Fields:
    """109: the error and its info word."""
    match = _CONTEXT_SWITCH.search(text, 0, 256)
    return {"error": match[1], "info": match[2]} if match else {}


def ecc_escape(text: str) -> Fields:
    """140: uncorrectable errors by place."""
    return {f"{match[1].lower()}_errors": int(match[2]) for match in _ECC_COUNT.finditer(text, 0, 512)}


def recovery_action(text: str) -> Fields:
    """154: the driver's own advice, before and now."""
    match = _RECOVERY.match(text)
    if match is None:
        return {}
    return {
        "recovery_from": int(match[1], 16),
        "recovery_from_word": match[2],
        "recovery_to": int(match[3], 16),
        "recovery_to_word": match[4],
    }


def hexadecimal(digits: str) -> str:
    """`0x17e2ac` for `0017e2ac` or `0x0017e2ac`."""
    return f"0x{int(digits, 16):x}"


DECODERS: dict[int, Callable[[str], Fields]] = {
    13: graphics_exception,
    31: mmu_fault,
    63: retirement,
    64: retirement,
    69: class_method,
    74: nvlink4,
    94: containment,
    95: containment,
    109: context_switch,
    119: rpc_timeout,
    120: gsp_exception,
    137: mmu_fault,
    140: ecc_escape,
    **dict.fromkeys(range(144, 151), nvlink5),
    154: recovery_action,
}
"""Xid code → decoder of its text."""
