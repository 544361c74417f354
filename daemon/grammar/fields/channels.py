"""Channels: the one a text begins with, its push buffer (32), its context switch (109)."""

from __future__ import annotations

import re

from daemon.grammar.fields.registers import pbdma_interrupts
from daemon.grammar.fields.values import HEX, HEX_8, Fields, hexadecimal

_CHANNEL = re.compile(rf"(?:Ch|ChID|ChId|Channel ID|[Cc]hannel) {HEX_8}")
_INTR = re.compile(rf"\bintr0? {HEX_8}")
_CONTEXT_SWITCH = re.compile(rf"\berrorString ([^,\n]{{1,80}}),(?: Info (0x{HEX}{{1,8}})\b)?")


def channel(text: str) -> Fields:
    """The channel that a text of any code may begin with: `Ch 00000008`, `channel 0x0000000a`."""
    match = _CHANNEL.match(text)
    return {"channel": int(match[1], 16)} if match else {}


def interrupt(text: str) -> Fields:
    """31, 32: the interrupt status register."""
    match = _INTR.search(text, 0, 256)
    return {"intr": hexadecimal(match[1])} if match else {}


def push_buffer(text: str) -> Fields:
    """32: the interrupt status of the unit that reads the command stream, its known bits named."""
    found = interrupt(text)
    if isinstance(status := found.get("intr"), str):
        found["intr_bits"] = pbdma_interrupts(int(status, 16))
    return found


def context_switch(text: str) -> Fields:
    """109: the error and its info word."""
    match = _CONTEXT_SWITCH.search(text, 0, 256)
    if match is None:
        return {}
    return {"error": match[1], **({"info": match[2]} if match[2] else {})}
