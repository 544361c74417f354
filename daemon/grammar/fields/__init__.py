"""Typed fields of an Xid's text, code by code.

One function per form of text, one table from code to function: a code that gains a decoder gains
one row. Numbers people count are ints; addresses, registers and class ids are hex strings, because
JSON readers lose 64-bit integers. What each field means is in `meanings.FIELDS`.

A field that the text does not hold is left out, and so is one that a cut may have shortened: a number
counts as whole when something follows it, or when the driver prints it in a fixed width. Only where
the driver's own text ends with a number of any width does its last field have to be taken as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from daemon.grammar.fields.channels import channel, context_switch, push_buffer
from daemon.grammar.fields.firmware import (
    firmware_crash,
    initialisation,
    pmu_words,
    recovery_action,
    rpc_timeout,
    security_fault,
    subsystem_timeout,
)
from daemon.grammar.fields.graphics import class_method, graphics_exception
from daemon.grammar.fields.meanings import FIELDS
from daemon.grammar.fields.memory import (
    containment,
    ecc_escape,
    error_storm,
    repair,
    retirement,
    uncorrectable,
    uncorrectable_detail,
)
from daemon.grammar.fields.mmu import mmu_fault, remote_fault
from daemon.grammar.fields.nvlink import nvlink4, nvlink5
from daemon.grammar.fields.values import PRINTED_SEVERITY, Fields, Value

__all__ = ["DECODERS", "FIELDS", "PRINTED_SEVERITY", "Fields", "Value", "fields"]

_CAUSED_BY = re.compile(r" caused by previous Xid ([0-9]{1,6})\Z")


def fields(code: int | None, text: str) -> Fields:
    """Everything that this version can read from the text of Xid `code`."""
    found = channel(text)
    decoder = DECODERS.get(code) if code is not None else None
    if decoder is not None:
        found |= decoder(text)
    if match := _CAUSED_BY.search(text, max(0, len(text) - 40)):
        found["caused_by_xid"] = int(match[1])
    return found


DECODERS: dict[int, Callable[[str], Fields]] = {
    13: graphics_exception,
    31: mmu_fault,
    32: push_buffer,
    48: uncorrectable,
    61: pmu_words,
    62: pmu_words,
    63: retirement,
    64: retirement,
    69: class_method,
    74: nvlink4,
    92: error_storm,
    94: containment,
    95: containment,
    108: mmu_fault,
    109: context_switch,
    110: security_fault,
    119: rpc_timeout,
    120: firmware_crash,
    136: nvlink4,
    137: remote_fault,
    140: ecc_escape,
    143: initialisation,
    **dict.fromkeys(range(144, 151), nvlink5),
    154: recovery_action,
    155: nvlink5,
    **dict.fromkeys((156, 157, 160, 161), repair),
    171: uncorrectable_detail,
    172: uncorrectable_detail,
    175: subsystem_timeout,
}
"""Xid code → decoder of its text."""
