"""The catalogue's tables: every Xid 1 to 176, every SXid, and the events that have no code.

Read once, when first asked for, from the CSV files in `daemon/data`. Their columns:

* `before`: the row holds for driver versions below this one; empty for the current meaning.
* `name`: NVIDIA's own symbol, for Xids without its common prefix `ROBUST_CHANNEL_`.
* `action_text`: one sentence; `@key` stands for the shared sentence of that key in `advice.csv`.
* `note`: what else is worth knowing about the code; may be empty.
* `nvidia_action`, `nvidia_investigation`: the immediate and the investigatory action of NVIDIA's Xid
  catalogue (2025-10-29) in its own bucket words, which `buckets.csv` puts into plain sentences; empty
  where NVIDIA gives none, as for every SXid.

What a line adds to its code is in `daemon.catalog`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

from daemon.event import Action, Blame, Kind, Severity
from daemon.tables import Version, rows, version


@dataclass(frozen=True, slots=True)
class Meaning:
    """What an event takes from the catalogue."""

    name: str | None
    """Symbolic name; None for a code that is not in the catalogue."""
    summary: str
    """One short plain sentence, at most 100 characters, without a full stop."""
    severity: Severity
    blame: Blame
    action: Action
    action_text: str
    """One sentence: the first step, and what follows it."""


@dataclass(frozen=True, slots=True)
class Entry(Meaning):
    """One code as the catalogue has it, before a line says more."""

    kind: Kind
    """xid or sxid."""
    code: int
    note: str
    """What else is worth knowing; "" when there is nothing."""
    nvidia_action: str = ""
    """NVIDIA's immediate action in its own bucket word (`RESET_GPU`); "" where it gives none."""
    nvidia_investigation: str = ""
    """NVIDIA's investigatory action in its own bucket word; "" where it gives none."""


def lookup(kind: Kind, code: int, driver_version: str | None = None) -> Entry | None:
    """The catalogue's entry, as the given driver uses the number; None for an unknown code or another kind.

    Without a driver version, or with one that does not parse, it is the current meaning.
    """
    current, older = _tables()
    if driver_version is not None and (kind, code) in older:
        running = version(driver_version)
        for before, entry in older[kind, code]:
            if running is not None and running < before:
                return entry
    return current.get((kind, code))


def codes(kind: Kind) -> tuple[int, ...]:
    """Every code of the catalogue, ascending; empty for kinds that have none."""
    return tuple(sorted(code for its_kind, code in _tables()[0] if its_kind is kind))


def bucket_text(bucket: str) -> str | None:
    """What NVIDIA's bucket word asks for, in one plain sentence; None for an unknown word."""
    return _buckets().get(bucket)


def meaning_of(kind: Kind, name: str | None = None) -> Meaning:
    """What an event without a code means: its kind's general meaning when the name has none of its own."""
    named = _named()
    found = named.get((kind, name)) or named.get((kind, None), _ANYTHING)
    return found if found.name == name else replace(found, name=name)


_ANYTHING = Meaning(
    None,
    "Something happened that this version has no words for",
    Severity.WARNING,
    Blame.UNKNOWN,
    Action.CONTACT_SUPPORT,
    "Read the lines of this event.",
)

_Current = Mapping[tuple[Kind, int], Entry]
_Older = Mapping[tuple[Kind, int], list[tuple[Version, Entry]]]


@cache
def _tables() -> tuple[_Current, _Older]:
    """Current meanings, and older ones with the driver version that ended them, oldest first."""
    advice = {row["key"]: row["text"] for row in rows("advice.csv")}
    current: dict[tuple[Kind, int], Entry] = {}
    older: dict[tuple[Kind, int], list[tuple[Version, Entry]]] = {}
    for kind, file in ((Kind.XID, "xid.csv"), (Kind.SXID, "sxid.csv")):
        for row in rows(file):
            text = row["action_text"]
            entry = Entry(
                name=row["name"],
                summary=row["summary"],
                severity=Severity(row["severity"]),
                blame=Blame(row["blame"]),
                action=Action(row["action"]),
                action_text=advice[text[1:]] if text.startswith("@") else text,
                kind=kind,
                code=int(row["code"]),
                note=row["note"],
                nvidia_action=row.get("nvidia_action", ""),
                nvidia_investigation=row.get("nvidia_investigation", ""),
            )
            before = version(row["before"])
            if before is None:
                current[kind, entry.code] = entry
            else:
                older.setdefault((kind, entry.code), []).append((before, entry))
    for meanings in older.values():
        meanings.sort(key=lambda pair: pair[0])
    return current, older


@cache
def _named() -> Mapping[tuple[Kind, str | None], Meaning]:
    return {
        (Kind(row["kind"]), row["name"] or None): Meaning(
            row["name"] or None,
            row["summary"],
            Severity(row["severity"]),
            Blame(row["blame"]),
            Action(row["action"]),
            row["action_text"],
        )
        for row in rows("named.csv")
    }


@cache
def _buckets() -> Mapping[str, str]:
    return {row["bucket"]: row["text"] for row in rows("buckets.csv")}
