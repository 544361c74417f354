"""`xidwatch explain CODE|LINE`: what a code means, or what a pasted kernel line says and means.

Takes `79`, `xid 79`, `sxid 20034`, or one or more lines of a kernel log in any of the usual forms.
A plain number from 10000 on is an SXid: the driver numbers them so. A code gets its whole page, a
line what it says and what to do now. Works without a daemon.
"""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Iterator
from typing import Any, TextIO

from daemon.catalog import Entry, Meaning, bucket_text, detail, meaning, page
from daemon.code_pages import HEADINGS, blocks
from daemon.decoded import Context, Fault, Part
from daemon.event import Kind
from daemon.explanation import LABELS, entry_json, explain, line_json, page_of
from daemon.tables import version
from daemon.text import clean
from probes.errors import UserError
from probes.line import Origin
from xidwatch.terminal import Style

_WIDEST = 100
_SHOWN_TEXT = 300
_SHOWN_NAME = 64

Row = tuple[str, str]
"""Label and text of one line of the answer."""


def run(argument: str, *, as_json: bool, out: TextIO, colour: bool, driver: str | None = None) -> int:
    """Write the answer to `out` and give back the exit code.

    `driver` is the driver version whose meanings are wanted; None is the current one. Raises UserError
    when the argument is neither a code of the catalogue nor a line that says anything.
    """
    if driver is not None and version(driver) is None:
        raise UserError(f"{clean(driver, 60)!r} is no driver version", hint="such as 535.161.08, or 575")
    found = explain(argument, driver)
    if as_json:
        _write_json(entry_json(found) if isinstance(found, Entry) else line_json(found, driver), out)
        return 0
    style = Style(colour)
    if isinstance(found, Entry):
        _write_entry(found, out, style)
    elif isinstance(found.decoded, Context):
        _write_context(found.decoded, out, style)
    else:
        _write_fault(found.decoded, found.origin, driver, out, style)
    return 0


# -- for people --------------------------------------------------------------------------------


def _write_entry(entry: Entry, out: TextIO, style: Style) -> None:
    out.write(_heading(entry.kind, str(entry.code), entry.name, style))
    _write_rows([*_meaning_rows(entry, style), *_nvidia_rows(entry)], out, style)
    if (about := page(entry.kind, entry.code)) is not None:
        for heading, text in about.sections():
            _write_section(heading, text, out, style)


def _write_fault(fault: Fault, origin: Origin, driver: str | None, out: TextIO, style: Style) -> None:
    means = meaning(fault, driver)
    number = str(fault.detail.get("code_text", "?")) if fault.code is None else str(fault.code)
    out.write(_heading(fault.kind, clean(number, 32), means.name, style))
    _write_rows([*_meaning_rows(means, style), *_fault_rows(fault, origin, driver)], out, style)
    if (about := page_of(fault)) is not None:
        _write_section(HEADINGS["now"], about.now, out, style)
        out.write(style.dim(f"\n  more: xidwatch explain {fault.kind} {fault.code}") + "\n")


def _write_context(context: Context, out: TextIO, style: Style) -> None:
    out.write(style.bold("No fault: the driver says which GPU this is") + "\n")
    rows = [("gpu", context.pci), ("uuid", context.uuid), ("serial", context.serial)]
    _write_rows([(label, clean(text)) for label, text in rows if text], out, style)


def _heading(kind: Kind, number: str, name: str | None, style: Style) -> str:
    label = f"{LABELS[kind]} {number}" if kind in LABELS else kind.replace("_", " ")
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


def _nvidia_rows(entry: Entry) -> Iterator[Row]:
    """What NVIDIA's own catalogue asks for."""
    for label, bucket in (("nvidia", entry.nvidia_action), ("then", entry.nvidia_investigation)):
        if bucket:
            yield (label, f"{bucket}: {bucket_text(bucket) or ''}")


def _fault_rows(fault: Fault, origin: Origin, driver: str | None) -> Iterator[Row]:
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
    for key, value in detail(fault, driver).items():
        yield (key, clean(value if isinstance(value, str) else json.dumps(value), _SHOWN_TEXT))


def _write_rows(rows: list[Row], out: TextIO, style: Style) -> None:
    """Labels in one column, texts wrapped in the next."""
    room = max(len(label) for label, _ in rows) + 2
    width = _width()
    for label, text in rows:
        wrapped = textwrap.wrap(text, max(width - room - 2, 20)) or [""]
        out.write(f"  {style.dim(label)}{' ' * (room - len(label))}{wrapped[0]}\n")
        out.writelines(f"  {' ' * room}{line}\n" for line in wrapped[1:])


def _write_section(heading: str, text: str, out: TextIO, style: Style) -> None:
    """A section of a page, its paragraphs and items wrapped."""
    out.write(f"\n  {style.bold(heading)}\n")
    for is_item, block in blocks(text):
        first, rest = ("  - ", "    ") if is_item else ("  ", "  ")
        out.write(textwrap.fill(block, _width(), initial_indent=first, subsequent_indent=rest) + "\n")


def _width() -> int:
    return min(shutil.get_terminal_size((_WIDEST, 24)).columns, _WIDEST)


# -- for programs ------------------------------------------------------------------------------


def _write_json(value: dict[str, Any], out: TextIO) -> None:
    out.write(json.dumps(value) + "\n")
