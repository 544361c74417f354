"""What else the driver prints behind `NVRM: `: a lost GPU, failed initialisation, GSP dumps, context.

Names given here are part of the public schema (`name` of events of kind `nvrm` and `gpu_lost`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from daemon import pci
from daemon.decoded import Context, Fault, Part
from daemon.event import Kind

_UUID = re.compile(r"GPU-[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}(?!\w)")
_GPU_AT = re.compile(r"GPU at (PCI:[0-9a-fA-F:.]{5,24}?):? (GPU-\S{1,64})")
_SERIAL = re.compile(r"GPU Board Serial Number:\s*([0-9A-Za-z-]{0,32})")
_VERSION = re.compile(r" ([0-9]{1,4}\.[0-9][0-9.-]{0,15}) ")
_MALFORMED = re.compile(r"(s?xid)\b", re.IGNORECASE)
_STATUS = re.compile(r"\((0x[0-9a-f]{1,8}:0x[0-9a-f]{1,8}:[0-9]{1,8})\)")
_MINOR = re.compile(r"minor number ([0-9]{1,6})")
_DEVICES = re.compile(r"for ([0-9]{1,6}) device")
_ONE_OF_EVERY = re.compile(r"printing 1 of every ([0-9]{1,9})")
_INSTANCE = re.compile(r"GPU[0-9]{1,4} (?=\w{1,80}: )")
"""The driver's own number of the GPU, which from 590 on may stand before the name of the function that
prints (open-gpu-kernel-modules 595.45.04, nvlog_printf.c)."""

NamedFields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Form:
    """One line of the driver that is worth an event, or belongs to one."""

    name: str
    pattern: re.Pattern[str]
    """Matched at the start of the text behind `NVRM: `."""
    part: Part = Part.WHOLE
    fields: Callable[[str], NamedFields] = lambda _text: {}


def _number(key: str, pattern: re.Pattern[str]) -> Callable[[str], NamedFields]:
    def read(text: str) -> NamedFields:
        match = pattern.search(text, 0, 512)
        return {key: int(match[1])} if match else {}

    return read


def _init_status(text: str) -> NamedFields:
    match = _STATUS.search(text, 0, 256)
    return {"init_status": match[1]} if match else {}


_GPU = r"(?:GPU [0-9a-fA-F:.]{5,24}: )?"

FORMS: tuple[Form, ...] = (
    # One failed initialisation prints all three, in this order; the first names no device and tells
    # nothing that the second does not.
    Form(
        "RM_INIT_ADAPTER_FAILED",
        re.compile(r"RmInitAdapter: .{0,200}failed, bailing out"),
        Part.CONTINUATION,
    ),
    Form(
        "RM_INIT_ADAPTER_FAILED",
        re.compile(_GPU + r"(?:RmInitAdapter: )?RmInitAdapter failed!"),
        Part.OPENING,
        _init_status,
    ),
    Form(
        "RM_INIT_ADAPTER_FAILED",
        re.compile(_GPU + r"rm_init_adapter failed"),
        Part.CLOSING,
        _number("minor", _MINOR),
    ),
    Form(
        "PROBE_ROUTINE_FAILED",
        re.compile(r"The NVIDIA probe routine failed"),
        fields=_number("devices", _DEVICES),
    ),
    Form(
        "GSP_RPC_ERRORS_RATE_LIMITED",
        re.compile(r"(?:\w{1,80}: )?Rate limiting GSP RPC error prints"),
        fields=_number("one_of_every", _ONE_OF_EVERY),
    ),
    Form("NV_ASSERT_FAILED", re.compile(r"nvAssert(?:Ok)?Failed")),
    Form(
        "NVLINK_POST_RX_DETECT_FAILED",
        re.compile(
            r"knvlink\w{1,80}: .{0,80}(?:postRxDetLinkMask failed|Failed to update Rx Detect Link mask)"
        ),
    ),
    Form(
        "GSP_DUMP",
        re.compile(
            r" {2,}\S|GPU[0-9]{1,4} (?:GSP RPC buffer|RPC (?:event )?history|sanity check failed)|"
            r"_?kgsp(?:Log|HealthCheck|PrintGspBinBuildId|DumpMailbox)\w{0,60}:|\w{1,80}: \*{16}|\*{16}"
        ),
        Part.CONTINUATION,
    ),
)
"""In the order in which they are tried."""

GSP_DUMP = "GSP_DUMP"


def decode_nvrm(message: str) -> Fault | Context | None:
    """What a line without a well-formed Xid tells. `message` is what follows `NVRM: `."""
    if match := _MALFORMED.match(message):
        return malformed(match[1], message)
    if "fallen off the bus" in message:
        return _fault(Kind.GPU_LOST, "GPU_LOST", message, pci=pci.search(message))
    for start, read in _READERS:
        if message.startswith(start):
            return read(message)
    instance = _INSTANCE.match(message)
    start_of_form = instance.end() if instance else 0
    for form in FORMS:
        if form.pattern.match(message, start_of_form):
            address = pci.search(message) if form.part is not Part.CONTINUATION else None
            detail = form.fields(message)
            return _fault(Kind.NVRM, form.name, message, part=form.part, pci=address, detail=detail)
    return None


def malformed(marker: str, message: str) -> Fault:
    """An `Xid` or `SXid` line whose device or code does not parse: reported, never guessed at.

    The device is kept where that much can be read.
    """
    return _fault(Kind.NVRM, f"MALFORMED_{marker.upper()}", message, pci=pci.search(message))


def _fault(
    kind: Kind,
    name: str | None,
    text: str,
    *,
    part: Part = Part.WHOLE,
    pci: str | None = None,
    detail: NamedFields | None = None,
) -> Fault:
    return Fault(
        kind=kind,
        code=None,
        name=name,
        pci=pci,
        nvswitch=None,
        mig=None,
        pid=None,
        process_name=None,
        text=text,
        part=part,
        detail=detail or {},
    )


def _gpu_at(message: str) -> Context | None:
    match = _GPU_AT.match(message)
    address = pci.normalize(match[1]) if match else None
    if match is None or address is None:
        return None
    uuid = _UUID.fullmatch(match[2])
    return Context(address, uuid=f"GPU-{uuid[0][4:].lower()}" if uuid else None)


def _serial(message: str) -> Context:
    match = _SERIAL.match(message)
    return Context(None, serial=(match[1] or None) if match else None)


def _driver_loaded(message: str) -> Fault:
    version = _VERSION.search(message, 0, 256)
    detail = {"driver_version": version[1]} if version else {}
    return _fault(Kind.DRIVER_LOADED, None, message, detail=detail)


_READERS: tuple[tuple[str, Callable[[str], Fault | Context | None]], ...] = (
    ("GPU at PCI:", _gpu_at),
    ("GPU Board Serial Number:", _serial),
    ("loading ", _driver_loaded),
)
"""Start of the text behind `NVRM: ` → its reader."""
