"""NVIDIA's rules for the words of NVLink errors: which of them ask for what.

* Xid 144 to 150 (NVLink 5): one row of `nvlink5.csv` for unit, sub-code, reason and error status,
  from the sheet "Xid 144-150 Decode" of NVIDIA's Xid catalogue. The sub-code has two layouts; the
  driver's version decides, or, where it is not known, the layout in which the words fit the unit that
  the line names.
* Xid 74 (NVLink up to 4): each set bit of the words has a reading in `nvlink4.csv`, from NVIDIA's
  workflow for it. Words 2, 6 and 7 have none.

Words that NVIDIA's tables do not list have no rule. Nothing here raises, whatever the line holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from daemon.tables import Version, rows, version

R575: Version = (575,)
"""The first driver branch with the sub-code in bits 6:0."""

_WORDS = 5
"""Words of a 74 that have readings, counted from the first."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What NVIDIA's table says of one kind of NVLink 5 error."""

    subcode: int
    """In the layout that fits."""
    action: str
    """Immediate action, a bucket word: `IGNORE`, `RESET_GPU` or `XID_154_EVAL`."""
    action_if_fatal: str
    """Immediate action if the line says Fatal, for errors that can be promoted; "" for others."""
    investigation: str
    """Investigatory action, a bucket word."""
    severity: str
    """`Non-fatal`, `Link Fatal` or `Fatal`."""
    origin: str
    """`HW`, `SW`, `FW`, `HW/SW` or ""."""


def rule(code: int, detail: Mapping[str, Any], driver_version: str | None = None) -> Rule | None:
    """NVIDIA's rule for the decoded fields of an Xid 144 to 150; None when there is none."""
    unit, reason, status = (detail.get(key) for key in ("unit", "reason", "error_status"))
    if not isinstance(unit, str) or not isinstance(reason, int) or not isinstance(status, str):
        return None
    for key in _layouts(driver_version):
        found = _rules().get((code, key, unit.upper(), detail.get(key), reason, int(status, 16)))
        if found is not None:
            return found
    return None


def subcode(detail: Mapping[str, Any], driver_version: str | None) -> int | None:
    """The sub-code by the layout of this driver; None without a version or without words."""
    layouts = _layouts(driver_version)
    value = detail.get(layouts[0]) if len(layouts) == 1 else None
    return value if isinstance(value, int) else None


def readings(words: object) -> list[str]:
    """What NVIDIA says of each set bit of the words of a 74: `word 1 bit 16: possibly hardware …`."""
    if not isinstance(words, list):
        return []
    known = _readings()
    return [
        f"word {place} bit {bit}: {known[place, bit]}"
        for place, word in enumerate(words[:_WORDS], 1)
        for bit in _bits(word)
        if (place, bit) in known
    ]


def _layouts(driver_version: str | None) -> tuple[str, ...]:
    running = version(driver_version) if driver_version else None
    if running is None:
        return ("subcode_from_r575", "subcode_before_r575")
    return ("subcode_from_r575",) if running >= R575 else ("subcode_before_r575",)


def _bits(word: object) -> Iterator[int]:
    value = int(word, 16) if isinstance(word, str) else 0
    return (bit for bit in range(32) if value >> bit & 1)


_Key = tuple[int, str, str, object, int, int]


@cache
def _rules() -> Mapping[_Key, Rule]:
    """By code, layout, unit, sub-code, reason and error status.

    A unit whose name changed with R575 stands as `OLD/NEW` in the table; some lines print it whole.
    """
    found: dict[_Key, Rule] = {}
    for row in rows("nvlink5.csv"):
        for layout in ("subcode_before_r575", "subcode_from_r575"):
            value = int(row[layout])
            entry = Rule(
                value,
                row["action"],
                row["action_if_fatal"],
                row["investigation"],
                row["severity"],
                row["origin"],
            )
            for unit in {row["unit"], *row["unit"].split("/")}:
                key = (
                    int(row["code"]),
                    layout,
                    unit.upper(),
                    value,
                    int(row["reason"]),
                    int(row["error_status"], 16),
                )
                found.setdefault(key, entry)
    return found


@cache
def _readings() -> Mapping[tuple[int, int], str]:
    return {
        (int(row["word"]), int(bit)): row["reading"]
        for row in rows("nvlink4.csv")
        for bit in row["bits"].split()
    }
