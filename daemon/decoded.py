"""What the line grammar makes of one kernel log message, before anyone knows what it means.

`grammar.decode(text)` returns a `Fault`, a `Context`, or None. The catalogue adds the meaning,
the pipeline joins the lines of one fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from daemon.event import Kind, Mig


class Part(StrEnum):
    """The place of a line among the lines of its fault."""

    WHOLE = "whole"
    """A fault of one line."""
    OPENING = "opening"
    """More lines of the fault follow; the fault may also end here, or open with several such lines."""
    CLOSING = "closing"
    """The last line of a fault that other lines opened; on its own it is a whole fault."""
    CONTINUATION = "continuation"
    """Belongs to a fault already open on the device; on its own it tells too little to be one
    (an SXid's Severity and Data lines, the lines of a GSP dump)."""


class Word(StrEnum):
    """The line's own verdict, which beats any table."""

    FATAL = "fatal"
    NONFATAL = "nonfatal"


@dataclass(frozen=True, slots=True)
class Fault:
    """A line that tells of a fault, or of a part of one."""

    kind: Kind
    """xid, sxid, gpu_lost, nvrm or driver_loaded."""
    code: int | None
    """Xid or SXid number below 2**32; None for other kinds and for numbers beyond (`detail.code_text`)."""
    name: str | None
    """For kinds without a code, what the line tells: `RM_INIT_ADAPTER_FAILED`, `MALFORMED_XID` …"""
    pci: str | None
    """Device as `dddd:bb:dd.f`, lower-case hex; None when the line names none."""
    nvswitch: int | None
    """N of `nvidia-nvswitchN`; None when the line is not about an NVSwitch."""
    mig: Mig | None
    pid: int | None
    """Channel owner in the host's pid namespace; None when absent or `<unknown>`."""
    process_name: str | None
    text: str
    """The rest of the message, after code and process, as printed."""
    part: Part
    word: Word | None = None
    """Fatal or Nonfatal as printed in an SXid or NVLink line."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """Typed fields of the text, each with its unit in the name (`link`, `caused_by_xid`, `channel`)."""
    glued: bool = False
    """Found behind other text of the same record: its origin cannot be proved."""
    drill: bool = False
    """The line carries the mark of `xidwatch drill`."""


@dataclass(frozen=True, slots=True)
class Context:
    """A line that is no fault but teaches something that later events need."""

    pci: str | None
    """GPU it speaks of; None for a serial number line, which belongs to the GPU line right before it."""
    uuid: str | None = None
    serial: str | None = None
    """Board serial number; None when absent or `[N/A]`."""


Decoded = Fault | Context | None
