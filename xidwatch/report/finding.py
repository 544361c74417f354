"""What a report says of one incident beside its summary: whose fault, why, what it hit, the lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from daemon.event import Blame, Event
from daemon.text import clean
from xidwatch.event_row import short_pci

_FAULT_OF = {
    Blame.APPLICATION: "the application",
    Blame.HARDWARE: "the hardware",
    Blame.DRIVER: "the driver",
    Blame.FABRIC: "the fabric (NVLink, NVSwitch)",
    Blame.UNKNOWN: "not known",
}
_EMPTY_REASONS = frozenset(
    {"nothing of this incident was printed before it", "it is the only event of this incident"}
)
"""What `daemon.incidents` says of a primary cause where there is nothing to weigh."""
_MOST_REASONS = 3
_MOST_NAMED = 6
_MOST_LINES = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """An incident with what stands behind it."""

    incident: Event
    state: str
    """`open`, `recovered` or `closed`; "" when the incident does not say."""
    facts: tuple[tuple[str, str], ...]
    """Label and sentence, in the order in which they are to be read. Sentences are clean, not escaped."""
    lines: tuple[str, ...]
    """The first lines of the primary cause, as the driver printed them; clean, not escaped."""

    @property
    def is_open(self) -> bool:
        """Nothing shows that it is over."""
        return self.state in ("", "open")


def find(incident: Event, events: Mapping[str, Event]) -> Finding:
    """`events` by id: those the report holds, from which the lines of the primary cause come."""
    primary = events.get(str((incident.detail.get("primary") or {}).get("id")))
    return Finding(
        incident=incident,
        state=clean(str(incident.detail.get("state", "")), 20),
        facts=tuple((label, clean(text, 600)) for label, text in _facts(incident) if text),
        lines=tuple(clean(line, 300) for line in primary.lines[:_MOST_LINES]) if primary is not None else (),
    )


def _facts(incident: Event) -> Iterator[tuple[str, str]]:
    detail = incident.detail
    yield "fault of", _FAULT_OF[incident.blame]
    yield "because", "; ".join(_reasons(detail))
    yield "hit", _reach(detail.get("blast_radius") or {})
    yield "over after", str(detail.get("waiting_for") or "")


def _reasons(detail: Mapping[str, Any]) -> list[str]:
    causes = [str(why) for why in (detail.get("primary") or {}).get("why") or ()]
    raised = [str(each.get("why")) for each in detail.get("escalations") or ()]
    found = [why for why in dict.fromkeys([*raised, *causes]) if why not in _EMPTY_REASONS]
    return found[:_MOST_REASONS]


def _reach(radius: Mapping[str, Any]) -> str:
    """`GPU 91:00; process python3[446]`."""
    parts = []
    for label, found in (
        ("GPU", [short_pci(str(pci)) for pci in radius.get("gpus") or ()]),
        ("NVSwitch", [short_pci(str(pci)) for pci in radius.get("nvswitches") or ()]),
        ("process", [_process(each) for each in radius.get("processes") or ()]),
    ):
        if found:
            more = f" and {len(found) - _MOST_NAMED:,} more" if len(found) > _MOST_NAMED else ""
            parts.append(f"{label} {', '.join(found[:_MOST_NAMED])}{more}")
    return "; ".join(parts) + (", perhaps more" if parts and radius.get("processes_is_minimum") else "")


def _process(process: Mapping[str, Any]) -> str:
    name, pid = process.get("name"), process.get("pid")
    return f"{name or ''}[{pid}]" if pid is not None else str(name or "")
