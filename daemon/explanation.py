"""What a code means, or what pasted lines of a kernel log say: one truth for people and assistants.

A plain number from 10000 on is an SXid: the driver numbers them so. Of several pasted lines the
one that says most is explained.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from daemon.catalog import CodePage, Entry, Meaning, bucket_text, codes, lookup, meaning, page
from daemon.code_pages import HEADINGS
from daemon.decoded import Context, Fault, Part
from daemon.event import Kind
from daemon.grammar import find, strip_prefix
from daemon.line_json import to_dict
from daemon.text import clean
from probes.errors import UserError
from probes.line import Origin

FIRST_SXID = 10_000
"""Numbers from here on are SXids when nothing else says what they are."""
LABELS = {Kind.XID: "Xid", Kind.SXID: "SXid"}
"""How people write the kinds that have codes."""

_CODE = re.compile(r"(?:(s?xid)[\s:#]*)?([0-9]+)", re.IGNORECASE | re.ASCII)
_LONGEST_NUMBER = 10
_MOST_LINES = 1000
_HINT = "give a number (79), `sxid 20034`, or a whole kernel line in quotes"


@dataclass(frozen=True, slots=True)
class Line:
    """A pasted line that says something."""

    decoded: Fault | Context
    text: str
    """The message behind the log prefix."""
    origin: Origin
    """Who printed it, as far as the prefix says."""


def explain(argument: str, driver_version: str | None = None) -> Entry | Line:
    """The catalogue's entry for `79`, `xid 79` or `sxid 20034`; else what the pasted lines say.

    Raises UserError when it is neither a code of the catalogue nor a line that says anything.
    """
    if code := _CODE.fullmatch(argument.strip()):
        kind = Kind(code[1].lower()) if code[1] else None
        return entry_of(code[2], kind, driver_version)
    return line_of(argument)


def entry_of(digits: str, kind: Kind | None = None, driver_version: str | None = None) -> Entry:
    """The catalogue's entry of a number in decimal digits; without a kind its size decides.

    Raises UserError when the catalogue has none.
    """
    if len(digits) > _LONGEST_NUMBER:
        raise UserError(f"{digits[:_LONGEST_NUMBER]}… is no Xid or SXid: it is too long", hint=_known())
    code = int(digits)
    by_size = Kind.SXID if code >= FIRST_SXID else Kind.XID
    kind = kind or by_size
    entry = lookup(kind, code, driver_version)
    if entry is not None:
        return entry
    hint = _known()
    if kind is not by_size and lookup(by_size, code) is not None:
        hint = f"there is an {LABELS[by_size]} {code}: ask for `{LABELS[by_size].lower()} {code}`"
    raise UserError(f"{LABELS[kind]} {code} is not in the catalogue of this version", hint=hint)


def line_of(text: str) -> Line:
    """What pasted lines say: of several, the first that says most. Raises UserError when none says
    anything."""
    said = list(_said(text))
    if not said:
        raise UserError(
            f"cannot explain {clean(text.strip(), 60)!r}: neither a code nor a line of the NVIDIA driver"
            if text.strip()
            else "nothing to explain",
            hint=_HINT,
        )
    return min(said, key=_says_less)


def entry_json(entry: Entry) -> dict[str, Any]:
    """An entry as a JSON object."""
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
        "nvidia_action": nvidia_json(entry.nvidia_action),
        "nvidia_investigation": nvidia_json(entry.nvidia_investigation),
        "page": page_json(page(entry.kind, entry.code)),
    }


def nvidia_json(bucket: str) -> dict[str, str | None] | None:
    """An action of NVIDIA's catalogue: its own bucket word, and one plain sentence; None for none."""
    return {"bucket": bucket, "text": bucket_text(bucket)} if bucket else None


def page_json(found: CodePage | None) -> dict[str, str] | None:
    """The page of a code: its title, and its sections by name; None when it has none."""
    if found is None:
        return None
    texts = {name: getattr(found, name) for name in HEADINGS}
    return {"title": found.title, **{name: text for name, text in texts.items() if text}}


def line_json(line: Line, driver_version: str | None = None) -> dict[str, Any]:
    """A line as a JSON object: what `decode` says of it, its place in its fault and the code's note;
    for a line that only names a GPU, that GPU."""
    decoded = line.decoded
    if isinstance(decoded, Context):
        gpu = {"pci": decoded.pci, "uuid": decoded.uuid, "serial": decoded.serial}
        return {"kind": None, "gpu": gpu}
    return {
        **to_dict(decoded, line.text, line.origin, driver_version),
        "part": decoded.part,
        "note": _note(meaning(decoded, driver_version)),
        "page": page_json(page_of(decoded)),
    }


def page_of(fault: Fault) -> CodePage | None:
    """The page about the code of a line; None when it has none."""
    return None if fault.code is None else page(fault.kind, fault.code)


def _note(means: Meaning) -> str | None:
    return means.note or None if isinstance(means, Entry) else None


def _known() -> str:
    xids, sxids = codes(Kind.XID), codes(Kind.SXID)
    return (
        f"it knows Xid {xids[0]} to {xids[-1]} and {len(sxids)} SXids from {sxids[0]} to {sxids[-1]}; "
        "a whole kernel line in quotes works for any number"
    )


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
