"""31, 108 and 137: which unit touched which address, and how."""

from __future__ import annotations

import re

from daemon.grammar.fields.channels import interrupt
from daemon.grammar.fields.values import HEX, HEX_8, LONGEST_TEXT, Fields, hexadecimal

_ENGINE_MASK = re.compile(rf"\bengmask {HEX_8}")
_FAULT_ADDRESS = re.compile(rf"faulted @ 0x({HEX}{{1,8}})_({HEX}{{8}})(?!\w)")
_FAULT_ENGINE = re.compile(r"ENGINE ((?:[A-Z0-9_]{1,32} ){1,4})faulted")
_GPC = re.compile(r"GPC([0-9]{1,4})")
_FAULT_TYPE = re.compile(r"Fault is of type ([A-Z0-9_]{1,48}) (?:([A-Z0-9_]{1,48})(\Z)?)?")
_ACCESS_TYPES = frozenset(
    f"ACCESS_TYPE_{space}{access}"
    for space in ("", "VIRT_", "PHYS_")
    for access in ("READ", "WRITE", "ATOMIC", "PREFETCH")
)
"""What the driver's text ends with; anything else at its very end may be cut."""
_PRIVILEGE = re.compile(
    r"([A-Z][A-Z0-9_]{1,60}) interrupt hit on link (-?[0-9]{1,4}) on GPU([0-9]{1,4}): ([^\n]{1,80})"
)


def mmu_fault(text: str) -> Fields:
    """31, 108: engine, client, address (64 bits), type of fault and of access."""
    found = interrupt(text)
    if match := _ENGINE_MASK.search(text, 0, 256):
        found["engine_mask"] = hexadecimal(match[1])
    if match := _FAULT_ENGINE.search(text, 0, LONGEST_TEXT):
        engine, *units = match[1].split()
        found["engine"] = engine
        if units:
            found["client"] = units[-1]
        if gpc := next((unit for unit in map(_GPC.fullmatch, units) if unit), None):
            found["gpc"] = int(gpc[1])
    if match := _FAULT_ADDRESS.search(text, 0, LONGEST_TEXT):
        found["fault_address"] = f"0x{int(match[1], 16) << 32 | int(match[2], 16):x}"
    if match := _FAULT_TYPE.search(text, 0, LONGEST_TEXT):
        found["fault_type"] = match[1]
        if match[2] and (match[3] is None or match[2] in _ACCESS_TYPES):
            found["access_type"] = match[2]
    return found


def remote_fault(text: str) -> Fields:
    """137: the NVLink unit and link on which a peer refused an access; or a fault like 31's."""
    match = _PRIVILEGE.match(text)
    if match is None:
        return mmu_fault(text)
    return {"unit": match[1], "link": int(match[2]), "rm_gpu": int(match[3]), "error": match[4]}
