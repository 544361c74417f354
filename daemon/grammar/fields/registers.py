"""Names of register values that the driver prints raw.

Only names that are published:

* the SM's error status registers (Xid 13): Linux 6.x, drivers/gpu/drm/nouveau/nvkm/engine/gr/gf100.c
  and gv100.c. A TPC's registers hold one block of 0x80 per SM: warp ESR at 0x730, global ESR at 0x734.
  Checked against the words that the driver itself prints beside them in captured lines, of an H200
  among others (0xb illegal instruction parameter, 0xe out of range address, 0xf misaligned address).
* the PBDMA's interrupt status (Xid 32): github.com/NVIDIA/open-gpu-doc, dev_pbdma of tu104 and ga100.

The place of the SM is not read from the address: the layout differs between GPU generations.
"""

from __future__ import annotations

from collections.abc import Mapping

from daemon.grammar.fields.values import Fields

_WITHIN_TPC = 0x7FF
_WARP_ESR = frozenset({0x730, 0x7B0})
_GLOBAL_ESR = frozenset({0x734, 0x7B4})

_WARP_ERROR = {
    0x01: "STACK_ERROR",
    0x02: "API_STACK_ERROR",
    0x03: "RET_EMPTY_STACK_ERROR",
    0x04: "PC_WRAP",
    0x05: "MISALIGNED_PC",
    0x06: "PC_OVERFLOW",
    0x07: "MISALIGNED_IMMC_ADDR",
    0x08: "MISALIGNED_REG",
    0x09: "ILLEGAL_INSTR_ENCODING",
    0x0A: "ILLEGAL_SPH_INSTR_COMBO",
    0x0B: "ILLEGAL_INSTR_PARAM",
    0x0C: "INVALID_CONST_ADDR",
    0x0D: "OOR_REG",
    0x0E: "OOR_ADDR",
    0x0F: "MISALIGNED_ADDR",
    0x10: "INVALID_ADDR_SPACE",
    0x11: "ILLEGAL_INSTR_PARAM2",
    0x12: "INVALID_CONST_ADDR_LDC",
    0x13: "GEOMETRY_SM_ERROR",
    0x14: "DIVERGENT",
    0x15: "WARP_EXIT",
}
"""Bits 15:0 of the warp ESR."""

_GLOBAL_ERROR = {
    0: "SM_TO_SM_FAULT",
    1: "L1_ERROR",
    2: "MULTIPLE_WARP_ERRORS",
    3: "PHYSICAL_STACK_OVERFLOW",
    4: "BPT_INT",
    5: "BPT_PAUSE",
    6: "SINGLE_STEP_COMPLETE",
    29: "ECC_SEC_ERROR",
    30: "ECC_DED_ERROR",
    31: "TIMEOUT",
}
"""Bits of the global ESR."""

_PBDMA_INTERRUPT = {
    0: "MEMREQ",
    1: "MEMACK_TIMEOUT",
    2: "MEMACK_EXTRA",
    3: "MEMDAT_TIMEOUT",
    4: "MEMDAT_EXTRA",
    5: "MEMFLUSH",
    6: "MEMOP",
    7: "LBCONNECT",
    9: "LBACK_TIMEOUT",
    10: "LBACK_EXTRA",
    11: "LBDAT_TIMEOUT",
    12: "LBDAT_EXTRA",
    13: "GPFIFO",
    14: "GPPTR",
    15: "GPENTRY",
    16: "GPCRC",
    17: "PBPTR",
    18: "PBENTRY",
    19: "PBCRC",
    20: "CLEAR_FAULTED_ERROR",
    21: "METHOD",
    22: "METHODCRC",
    23: "DEVICE",
    24: "ENG_RESET",
    25: "SEMAPHORE",
    26: "ACQUIRE",
    27: "PRI",
    30: "PBSEG",
    31: "SIGNATURE",
}
"""Bits of NV_PPBDMA_INTR_0; Ampere and later use those from 13 on."""


def error_status(registers: Mapping[str, str]) -> Fields:
    """What the SM's error status registers among `registers` (address → value, hex) say."""
    found: Fields = {}
    for address, value in registers.items():
        within, status = int(address, 16) & _WITHIN_TPC, int(value, 16)
        if within in _WARP_ESR:
            found["warp_error_code"] = f"0x{status & 0xFFFF:x}"
            if name := _WARP_ERROR.get(status & 0xFFFF):
                found["warp_error"] = name
        elif within in _GLOBAL_ESR:
            found["global_errors"] = _bits(status, _GLOBAL_ERROR)
    return found


def pbdma_interrupts(status: int) -> list[str]:
    """The set bits of a PBDMA's interrupt status, lowest first."""
    return _bits(status, _PBDMA_INTERRUPT)


def _bits(status: int, names: Mapping[int, str]) -> list[str]:
    return [names.get(bit, f"bit {bit}") for bit in range(32) if status >> bit & 1]
