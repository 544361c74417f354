"""`xidwatch explain CODE|LINE`: what a code means, or what a pasted kernel line says and means.

Takes `79`, `xid 79`, `sxid 20034`, or one or more lines of a kernel log in any of the usual forms.
A plain number from 10000 on is an SXid: the driver numbers them so. Works without a daemon.
"""

from __future__ import annotations

import json
import re
import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TextIO

from daemon.catalog import Entry, Meaning, codes, lookup, meaning
from daemon.decoded import Context, Fault, Part
from daemon.event import Kind
from daemon.grammar import find, strip_prefix
from daemon.text import clean
from probes.errors import UserError
from probes.line import Origin
from xidwatch.decode import to_dict
from xidwatch.terminal import Style

_FIRST_SXID = 10_000
_CODE = re.compile(r"(?:(s?xid)[\s:#]*)?([0-9]+)", re.IGNORECASE | re.ASCII)
_LABELS = {Kind.XID: "Xid", Kind.SXID: "SXid"}
_LONGEST_NUMBER = 10
_MOST_LINES = 1000
_WIDEST = 100
_SHOWN_TEXT = 300
_SHOWN_NAME = 64

Row = tuple[str, str]
"""Label and text of one line of the answer."""


@dataclass(frozen=True, slots=True)
class Line:
    """A pasted line that says something."""

    decoded: Fault | Context
    text: str
    """The message behind the log prefix."""
    origin: Origin
    """Who printed it, as far as the prefix says."""


def run(argument: str, *, as_json: bool, out: TextIO, colour: bool) -> int:
    """Write the answer to `out` and give back the exit code.

    Raises UserError when the argument is neither a code of the catalogue nor a line that says anything.
    """
    style = Style(colour)
    if code := _CODE.fullmatch(argument.strip()):
        entry = _entry(code[1], code[2])
        _write_json(_entry_json(entry), out) if as_json else _write_entry(entry, out, style)
        return 0
    line = _decode(argument)
    decoded = line.decoded
    if isinstance(decoded, Context):
        _write_json(_context_json(decoded), out) if as_json else _write_context(decoded, out, style)
    elif as_json:
        _write_json(_line_json(decoded, line), out)
    else:
        _write_fault(decoded, line.origin, out, style)
    return 0


# -- what was asked ----------------------------------------------------------------------------


def _entry(prefix: str | None, digits: str) -> Entry:
    if len(digits) > _LONGEST_NUMBER:
        raise UserError(f"{digits[:_LONGEST_NUMBER]}… is no Xid or SXid: it is too long", hint=_known())
    code = int(digits)
    by_size = Kind.SXID if code >= _FIRST_SXID else Kind.XID
    kind = Kind(prefix.lower()) if prefix else by_size
    entry = lookup(kind, code)
    if entry is not None:
        return entry
    hint = _known()
    if kind is not by_size and lookup(by_size, code) is not None:
        hint = f"there is an {_LABELS[by_size]} {code}: `xidwatch explain {code}`"
    raise UserError(f"{_LABELS[kind]} {code} is not in the catalogue of this version", hint=hint)


def _known() -> str:
    xids, sxids = codes(Kind.XID), codes(Kind.SXID)
    return (
        f"it knows Xid {xids[0]} to {xids[-1]} and {len(sxids)} SXids from {sxids[0]} to {sxids[-1]}; "
        "a whole kernel line in quotes works for any number"
    )


def _decode(argument: str) -> Line:
    """What the argument says: of several lines, the first that says most."""
    said = list(_said(argument))
    if not said:
        raise UserError(
            f"cannot explain {clean(argument.strip(), 60)!r}: neither a code nor a line of the NVIDIA driver"
            if argument.strip()
            else "nothing to explain",
            hint="give a number (79), `sxid 20034`, or a whole kernel line in quotes",
        )
    return min(said, key=_says_less)


def _said(argument: str) -> Iterator[Line]:
    """What each line says, and what they say as one record (a lost GPU comes as three lines of one)."""
    lines = [line for line in argument.strip().split("\n", _MOST_LINES)[:_MOST_LINES] if line.strip()]
    for line in [*lines, "\n".join(lines)] if len(lines) > 1 else lines:
        text, origin = strip_prefix(line.strip())
        decoded = find(text)
        if decoded is not None:
            yield Line(decoded, text, origin)


def _says_less(line: Line) -> tuple[bool, bool, bool]:
    """Sort key: the line that opens a fault comes before those that belong to it."""
    if isinstance(line.decoded, Context):
        return (True, False, False)
    return (False, line.decoded.part is Part.CONTINUATION, line.decoded.pci is None)


# -- for people --------------------------------------------------------------------------------


def _write_entry(entry: Entry, out: TextIO, style: Style) -> None:
    out.write(_heading(entry.kind, str(entry.code), entry.name, style))
    _write_rows(_meaning_rows(entry, style), out, style)


def _write_fault(fault: Fault, origin: Origin, out: TextIO, style: Style) -> None:
    means = meaning(fault)
    number = str(fault.detail.get("code_text", "?")) if fault.code is None else str(fault.code)
    out.write(_heading(fault.kind, clean(number, 32), means.name, style))
    _write_rows([*_meaning_rows(means, style), *_fault_rows(fault, origin)], out, style)


def _write_context(context: Context, out: TextIO, style: Style) -> None:
    out.write(style.bold("No fault: the driver says which GPU this is") + "\n")
    rows = [("gpu", context.pci), ("uuid", context.uuid), ("serial", context.serial)]
    _write_rows([(label, clean(text)) for label, text in rows if text], out, style)


def _heading(kind: Kind, number: str, name: str | None, style: Style) -> str:
    label = f"{_LABELS[kind]} {number}" if kind in _LABELS else kind.replace("_", " ")
    return style.bold(label) + (f"  {name}" if name else "") + "\n"


def _meaning_rows(means: Meaning, style: Style) -> list[Row]:
    rows = [
        ("summary", means.summary),
        ("severity", style.severity(means.severity, means.severity)),
        ("blame", means.blame),
        ("action", style.bold(means.action)),
        ("", means.action_text),
    ]
    if isinstance(means, Entry) and means.note:
        rows.append(("note", means.note))
    return rows


def _fault_rows(fault: Fault, origin: Origin) -> Iterator[Row]:
    if fault.pci is not None:
        place = "" if fault.nvswitch is None else f" (nvswitch{fault.nvswitch})"
        yield ("device", fault.pci + place)
    if fault.mig is not None:
        gi, ci = fault.mig.gi, fault.mig.ci
        yield ("mig", f"GPU instance {gi}" + ("" if ci is None else f", compute instance {ci}"))
    if fault.pid is not None or fault.process_name is not None:
        pid = "pid unknown" if fault.pid is None else f"pid {fault.pid}"
        yield ("process", f"{pid} {clean(fault.process_name or '', _SHOWN_NAME)}".rstrip())
    if fault.part is Part.CONTINUATION:
        yield ("part", "belongs to a fault that an earlier line opened")
    if fault.drill:
        yield ("drill", "a test line of `xidwatch drill`, not a fault")
    if origin is Origin.USERSPACE:
        yield ("origin", "written by a user process, not by the kernel: not to be believed")
    if fault.text:
        yield ("text", clean(fault.text, _SHOWN_TEXT))
    for key, value in fault.detail.items():
        yield (key, clean(value if isinstance(value, str) else json.dumps(value), _SHOWN_TEXT))


def _write_rows(rows: list[Row], out: TextIO, style: Style) -> None:
    """Labels in one column, texts wrapped in the next."""
    room = max(len(label) for label, _ in rows) + 2
    width = min(shutil.get_terminal_size((_WIDEST, 24)).columns, _WIDEST)
    for label, text in rows:
        wrapped = textwrap.wrap(text, max(width - room - 2, 20)) or [""]
        out.write(f"  {style.dim(label)}{' ' * (room - len(label))}{wrapped[0]}\n")
        out.writelines(f"  {' ' * room}{line}\n" for line in wrapped[1:])


# -- for programs ------------------------------------------------------------------------------


def _write_json(value: dict[str, Any], out: TextIO) -> None:
    out.write(json.dumps(value) + "\n")


def _entry_json(entry: Entry) -> dict[str, Any]:
    return {
        "kind": entry.kind,
        "code": entry.code,
        "name": entry.name,
        "summary": entry.summary,
        "severity": entry.severity,
        "blame": entry.blame,
        "action": entry.action,
        "action_text": entry.action_text,
        "note": _note(entry),
    }


def _note(means: Meaning) -> str | None:
    return means.note or None if isinstance(means, Entry) else None


def _line_json(fault: Fault, line: Line) -> dict[str, Any]:
    """What `xidwatch decode` says of the line, and what only this command knows."""
    note = _note(meaning(fault))
    return {**to_dict(fault, line.text, line.origin), "part": fault.part, "note": note}


def _context_json(context: Context) -> dict[str, Any]:
    return {"kind": None, "gpu": {"pci": context.pci, "uuid": context.uuid, "serial": context.serial}}
