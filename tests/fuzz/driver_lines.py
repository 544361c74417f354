"""A model of what the driver prints: lines with the values that they were written from.

The forms are those of open-gpu-kernel-modules (515.43.04 to 595.45.04) and of captured lines. Where the
driver itself is ambiguous, which it is for a process name that holds a comma, the model leaves it out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from daemon.decoded import Part, Word
from daemon.event import Kind, Mig
from tests.fuzz.choices import LOG_CHARACTERS, Choices

MAX_NUMBER: Final = 2**32 - 1
NAME_CHARACTERS: Final = LOG_CHARACTERS.replace(",", "").replace("'", "").replace("\\", "")
CAUSED_BY: Final = " caused by previous Xid {}"
"""Printed from 570.123 on."""


@dataclass(frozen=True, slots=True)
class Written:
    """A line, and what is to be read from it."""

    text: str
    expected: Mapping[str, object]
    """Attributes of the decoded fault."""
    detail: Mapping[str, object] = field(default_factory=dict)
    """Fields among its details."""
    is_told: bool = True
    """False for a line that only belongs to a fault, and is none by itself."""


@dataclass(frozen=True, slots=True)
class Text:
    """What stands behind code and process."""

    code: int
    text: str
    detail: Mapping[str, object] = field(default_factory=dict)
    part: Part = Part.WHOLE
    word: Word | None = None


def driver_line(choices: Choices) -> Written:
    """Some line of the driver."""
    return choices.one_of((_xid, _xid, _xid, _sxid, _other))(choices)


def _xid(choices: Choices) -> Written:
    said = choices.one_of(TEXTS)(choices)
    shown_device, pci = device(choices)
    shown_mig, mig = choices.one_of((_whole_gpu, _gpu_instance, _compute_instance))(choices)
    shown_process, pid, name = _process(choices)
    text, detail = said.text, said.detail
    if text and choices.flag():
        cause = choices.number(999)
        text, detail = text + CAUSED_BY.format(cause), {**detail, "caused_by_xid": cause}
    drill = choices.flag()
    marker = "xidwatch-drill: xid" if drill else "NVRM: Xid"
    return Written(
        f"{marker} ({shown_device}{shown_mig}): {said.code}, {shown_process}{text}",
        {
            "kind": Kind.XID,
            "code": said.code,
            "pci": pci,
            "mig": mig,
            "pid": pid,
            "process_name": name,
            "text": text,
            "part": said.part,
            "word": said.word,
            "drill": drill,
            "nvswitch": None,
        },
        detail,
    )


def device(choices: Choices) -> tuple[str, str]:
    """A PCI address as it is printed, and as it is kept."""
    domain, bus, number = choices.number(0xFFFF), choices.number(0xFF), choices.number(0x1F)
    function = choices.number(7)
    place, pci = f"{bus:02x}:{number:02x}", f"{domain:04x}:{bus:02x}:{number:02x}"
    return choices.one_of(
        (
            (f"PCI:{domain:04x}:{place}", f"{pci}.0"),
            (f"{domain:04x}:{place}", f"{pci}.0"),
            (f"PCI:{domain:04x}:{place}.{function}", f"{pci}.{function}"),
            (f"PCI:{domain:08X}:{place.upper()}.{function}", f"{pci}.{function}"),
            (f"PCI:00{bus:02x}:{number:02x}", f"0000:{bus:02x}:{number:02x}.0"),
        )
    )


def _whole_gpu(_: Choices) -> tuple[str, Mig | None]:
    return "", None


def _gpu_instance(choices: Choices) -> tuple[str, Mig | None]:
    gi = choices.number(99)
    return f" GPU-I:{gi:02}", Mig(gi, None)


def _compute_instance(choices: Choices) -> tuple[str, Mig | None]:
    gi, ci = choices.number(99), choices.number(99)
    return f" GPU-I:{gi:02} GPU-CI:{ci:02}", Mig(gi, ci)


def _process(choices: Choices) -> tuple[str, int | None, str | None]:
    """The process as it is printed, its pid, its name."""
    pid = choices.number(MAX_NUMBER)
    name = choices.word(NAME_CHARACTERS, 15).strip(" ") or "a"
    if name == "<unknown>" or name.startswith("<"):
        name = "a" + name[1:]
    return choices.one_of(
        (
            ("", None, None),
            (f"pid={pid}, name={name}, ", pid, name),
            (f"pid='{pid}', name={name}, ", pid, name),
            (f"pid='{pid}', name='{name}', ", pid, name),
            (f"pid={pid}, ", pid, None),
            ("pid='<unknown>', name=<unknown>, ", None, None),
            ("pid=<unknown>, name=<unknown>, ", None, None),
            (f"pid='<unknown>', name={name}, ", None, name),
            (f"name={name}, ", None, name),
        )
    )


# -- the texts of some codes --------------------------------------------------------------------


def _sm_exception(choices: Choices) -> Text:
    scope = choices.one_of(("Warp", "Global"))
    gpc, tpc, sm = choices.number(99), choices.number(99), choices.number(9)
    said = choices.one_of(("Misaligned Address", "Out Of Range Address", "Multiple Warp Errors"))
    return Text(
        13,
        f"Graphics SM {scope} Exception on (GPC {gpc}, TPC {tpc}, SM {sm}): {said}",
        {"exception_scope": scope.lower(), "gpc": gpc, "tpc": tpc, "sm": sm},
        Part.OPENING,
    )


def _error_status(choices: Choices) -> Text:
    registers = {
        f"0x{choices.number(0xFFFFFF):x}": f"0x{choices.number(MAX_NUMBER):x}"
        for _ in range(choices.between(1, 4))
    }
    shown = " ".join(f"{register}={value}" for register, value in registers.items())
    return Text(13, f"Graphics Exception: ESR {shown}", {"esr": registers}, Part.OPENING)


def _channel_exception(choices: Choices) -> Text:
    channel, class_id = choices.number(0xFFFF), choices.number(0xFFFF)
    offset, data = choices.number(MAX_NUMBER), choices.number(MAX_NUMBER)
    return Text(
        13,
        f"Graphics Exception: ChID {channel:04x}, Class {class_id:08x}, Offset {offset:08x}, Data {data:08x}",
        {
            "channel": channel,
            "class_id": f"0x{class_id:x}",
            "method_offset": f"0x{offset:x}",
            "method_data": f"0x{data:x}",
        },
        Part.CLOSING,
    )


def _mmu_fault(choices: Choices) -> Text:
    channel, intr, gpc = choices.number(MAX_NUMBER), choices.number(MAX_NUMBER), choices.number(15)
    high, low = choices.number(0xFFFF), choices.number(MAX_NUMBER)
    kind = choices.one_of(("FAULT_PDE", "FAULT_PTE", "FAULT_RO_VIOLATION"))
    access = choices.one_of(("ACCESS_TYPE_VIRT_WRITE", "ACCESS_TYPE_READ", "ACCESS_TYPE_PHYS_ATOMIC"))
    return Text(
        choices.one_of((31, 108)),
        f"Ch {channel:08x}, intr {intr:08x}. MMU Fault: ENGINE GRAPHICS GPC{gpc} GPCCLIENT_T1_8 "
        f"faulted @ 0x{high:x}_{low:08x}. Fault is of type {kind} {access}",
        {
            "channel": channel,
            "intr": f"0x{intr:x}",
            "engine": "GRAPHICS",
            "client": "GPCCLIENT_T1_8",
            "gpc": gpc,
            "fault_address": f"0x{high << 32 | low:x}",
            "fault_type": kind,
            "access_type": access,
        },
    )


def _on_channel(choices: Choices) -> Text:
    channel = choices.number(MAX_NUMBER)
    return Text(choices.one_of((43, 45, 8)), f"Ch {channel:08x}", {"channel": channel})


def _row_remapped(choices: Choices) -> Text:
    row = choices.number(2**48)
    return Text(
        63,
        f"Row Remapper: New row (0x{row:016x}) marked for remapping, reset gpu to activate.",
        {"row_address": f"0x{row:x}", "repair": "pending"},
    )


def _containment(choices: Choices) -> Text:
    contained, reset, drain = choices.flag(), choices.flag(), choices.flag()
    unit = choices.one_of(("SM", "L2 SLICE", "LTC TAG"))
    place = f"0x{choices.number(255):x},0x{choices.number(255):x}"
    yes = {True: "Yes", False: "No"}
    return Text(
        94 if contained else 95,
        f"{'C' if contained else 'Unc'}ontained: {unit} ({place}). RST: {yes[reset]}, D-RST: {yes[drain]}",
        {
            "contained": contained,
            "unit": unit,
            "unit_location": place,
            "reset_required": reset,
            "drain_and_reset_required": drain,
        },
    )


def _rpc_timeout(choices: Choices) -> Text:
    waited, gpu, function = choices.number(999_999), choices.number(9_999), choices.number(999_999)
    name = choices.one_of(("GSP_RM_CONTROL", "GSP_RM_ALLOC", "FREE"))
    words = [f"0x{choices.number(2**63):x}", f"0x{choices.number(2**63):x}"]
    return Text(
        119,
        f"Timeout after {waited}s of waiting for RPC response from GPU{gpu} GSP! "
        f"Expected function {function} ({name}) ({words[0]} {words[1]}).",
        {
            "timeout_s": waited,
            "rm_gpu": gpu,
            "rpc_function": function,
            "rpc_function_name": name,
            "rpc_data": words,
        },
    )


def _nvlink5(choices: Choices) -> Text:
    word = choices.one_of((Word.FATAL, Word.NONFATAL))
    unit = choices.one_of(("NETIR_LINK_EVT", "RLW_REMAP", "RLW_TAGSTATE", "MSE", "TLW_RX"))
    link, xc, injected = choices.between(-1, 17), choices.number(1), choices.flag()
    numbers = [choices.number(MAX_NUMBER) for _ in range(choices.one_of((4, 6)))]
    words = [f"0x{number:08x}" for number in numbers]
    blank = " " * choices.between(1, 3)
    return Text(
        choices.between(144, 150),
        f"{unit}{blank}{word.value.capitalize()}{blank}XC{xc} i{int(injected)} Link {link:02} "
        f"({' '.join(words)})",
        {
            "unit": unit,
            "xc": f"XC{xc}",
            "injected": injected,
            "link": link,
            "words": words,
            "reason": numbers[0] >> 20 & 0x3F,
            "subcode_before_r575": numbers[0] >> 5 & 0x1F,
            "subcode_from_r575": numbers[0] & 0x7F,
            "error_status": words[1],
        },
        word=word,
    )


def _recovery_action(choices: Choices) -> Text:
    named = ("None", "GPU Reset Required", "Node Reboot Required", "Drain P2P", "Drain and Reset")
    before, now = choices.number(4), choices.number(4)
    return Text(
        154,
        f"GPU recovery action changed from 0x{before:x} ({named[before]}) to 0x{now:x} ({named[now]})",
        {
            "recovery_from": before,
            "recovery_from_word": named[before],
            "recovery_to": now,
            "recovery_to_word": named[now],
        },
    )


def _fallen_off(_: Choices) -> Text:
    return Text(79, "GPU has fallen off the bus.")


def _of_any_code(choices: Choices) -> Text:
    """A text of no known form. It begins with words that no text of the driver's begins with."""
    code = choices.one_of((1, 46, 62, 79, 119, 154, 999, MAX_NUMBER, choices.number(MAX_NUMBER)))
    said = choices.word(LOG_CHARACTERS, 120, least=0).replace("caused by", "")
    text = f"Some internal halt {said}".rstrip()
    known_parts = (13, 48, 63, 64, 74, 92, 136, 140, *range(144, 151), 155, 156, 157, 160, 161)
    return Text(46 if code in known_parts else code, text)


TEXTS: Final[Sequence[Callable[[Choices], Text]]] = (
    _fallen_off,
    _sm_exception,
    _error_status,
    _channel_exception,
    _mmu_fault,
    _on_channel,
    _row_remapped,
    _containment,
    _rpc_timeout,
    _nvlink5,
    _recovery_action,
    _of_any_code,
)


# -- SXids, and what is no Xid ------------------------------------------------------------------


def _sxid(choices: Choices) -> Written:
    switch, code = choices.number(9_999), choices.number(MAX_NUMBER)
    shown_device, pci = device(choices)
    expected: dict[str, object] = {
        "kind": Kind.SXID,
        "code": code,
        "pci": pci,
        "nvswitch": switch,
        "mig": None,
        "pid": None,
        "process_name": None,
    }
    head = f"nvidia-nvswitch{switch}: SXid ({shown_device}): {code:05}, "
    form = choices.number(2)
    if form == 0:
        return _sxid_head(choices, head, expected)
    expected |= {"part": Part.CONTINUATION, "word": None}
    if form == 1:
        level, engine, sub = choices.number(9), choices.number(999), choices.number(99)
        text = f"Severity {level} Engine instance {engine:02} Sub-engine instance {sub:02}"
        detail = {"severity_level": level, "engine_instance": engine, "sub_engine_instance": sub}
        return Written(head + text, expected | {"text": text}, detail)
    words = [f"0x{choices.number(MAX_NUMBER):08x}" for _ in range(choices.between(1, 8))]
    text = f"Data {{{', '.join(words)}}}"
    return Written(head + text, expected | {"text": text}, {"data": words})


def _sxid_head(choices: Choices, head: str, expected: Mapping[str, object]) -> Written:
    printed, word = choices.one_of((("Fatal", Word.FATAL), ("Non-fatal", Word.NONFATAL)))
    link, first = choices.number(99), choices.flag()
    text = f"{printed}, Link {link:02} LTSSM Fault Up{' (First)' if first else ''}"
    detail: dict[str, object] = {"link": link, **({"first": True} if first else {})}
    return Written(head + text, {**expected, "text": text, "part": Part.OPENING, "word": word}, detail)


def _other(choices: Choices) -> Written:
    shown_device, pci = device(choices)
    shown_device = shown_device.removeprefix("PCI:")
    if len(shown_device) < len("0000:00:00"):  # the oldest spelling stands in Xids only
        shown_device, pci = "0000:91:00.0", "0000:91:00.0"
    status = f"0x{choices.number(255):x}:0x{choices.number(255):x}:{choices.number(9_999)}"
    version = f"{choices.between(100, 999)}.{choices.number(999)}.{choices.number(99):02}"
    minor = choices.number(999_999)
    forms: tuple[tuple[Kind, str | None, str, Part, dict[str, object]], ...] = (
        (Kind.GPU_LOST, "GPU_LOST", f"GPU {shown_device}: GPU has fallen off the bus.", Part.WHOLE, {}),
        (
            Kind.NVRM,
            "RM_INIT_ADAPTER_FAILED",
            f"GPU {shown_device}: RmInitAdapter failed! ({status})",
            Part.OPENING,
            {"init_status": status},
        ),
        (
            Kind.NVRM,
            "RM_INIT_ADAPTER_FAILED",
            f"GPU {shown_device}: rm_init_adapter failed, device minor number {minor}",
            Part.CLOSING,
            {"minor": minor},
        ),
        (
            Kind.DRIVER_LOADED,
            None,
            f"loading NVIDIA UNIX x86_64 Kernel Module  {version}  Fri May 31 09:35:42 UTC 2024",
            Part.WHOLE,
            {"driver_version": version},
        ),
        (Kind.NVRM, "MALFORMED_XID", f"Xid ({shown_device}): many, x", Part.WHOLE, {}),
    )
    kind, name, message, part, detail = choices.one_of(forms)
    expected: dict[str, object] = {
        "kind": kind,
        "name": name,
        "part": part,
        "code": None,
        "pid": None,
        "text": message,
    }
    if kind is not Kind.DRIVER_LOADED:
        expected["pci"] = pci
    return Written(f"NVRM: {message}", expected, detail)
