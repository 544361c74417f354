"""One GPU that a node is expected to have: a value, and its public and its saved JSON form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from daemon.event import Event, rfc3339
from daemon.incidents.member import FAULT_KINDS

LAST_EVENTS = 5
"""Events kept of a GPU that was lost."""


class Presence(StrEnum):
    """Whether a GPU that is expected is there."""

    PRESENT = "present"
    LOST = "lost"
    """The kernel or NVML says that it no longer answers."""
    GONE = "gone"
    """The driver no longer lists it."""


@dataclass(frozen=True, slots=True)
class LastEvent:
    """An event heard of a GPU before it was lost; the whole of it is found by its id."""

    id: str
    time_us: int
    kind: str
    code: int | None
    severity: str
    summary: str


@dataclass(frozen=True, slots=True)
class ExpectedGpu:
    """One GPU of this node; a value. None where nothing has told."""

    pci: str
    uuid: str | None = None
    index: int | None = None
    """NVML index it had last; of a lost GPU it may have passed to another."""
    name: str | None = None
    serial: str | None = None
    presence: Presence = Presence.PRESENT
    since_us: int = 0
    """When the presence became what it is, as far as is known: first sight, loss, or return."""
    seen_us: int | None = None
    """When NVML last read something from it."""
    why: str | None = None
    """What said that it is lost or gone."""
    last_events: tuple[LastEvent, ...] = ()
    """Newest last: what was heard of it before and at the loss; kept after it came back."""
    absent_us: int | None = None
    """When the last absence that has ended began."""
    boot_id: str | None = None
    """The boot in which it was found lost; None when it is present."""

    @property
    def is_lost(self) -> bool:
        """Lost or gone: the node lacks it."""
        return self.presence is not Presence.PRESENT

    def to_json(self) -> dict[str, Any]:
        """As a public JSON object, times in RFC 3339."""
        times = {"since": self.since_us, "last_answered": self.seen_us, "absent_from": self.absent_us}
        return {
            "pci": self.pci,
            "uuid": self.uuid,
            "index": self.index,
            "name": self.name,
            "serial": self.serial,
            "presence": self.presence.value,
            **{key: None if time_us is None else rfc3339(time_us) for key, time_us in times.items()},
            "why": self.why,
            "last_events": [
                {"id": event.id, "time": rfc3339(event.time_us), "kind": event.kind, "code": event.code}
                | {"severity": event.severity, "summary": event.summary}
                for event in self.last_events
            ],
        }

    def absent(
        self,
        presence: Presence,
        since_us: int,
        why: str,
        events: Iterable[Event],
        boot_id: str | None = None,
    ) -> ExpectedGpu:
        """This GPU, lost or gone since then; what was heard of it among `events` are its last words.

        Of one that was lost before, in another way, the first loss stays what it is told by.
        """
        if self.is_lost:
            return replace(self, presence=presence, boot_id=boot_id)
        own = [e for e in events if e.device == self.pci and e.kind in FAULT_KINDS and not e.drill]
        words = tuple(
            LastEvent(e.id, e.time_us, e.kind.value, e.code, e.severity.value, e.summary)
            for e in own[-LAST_EVENTS:]
        )
        return replace(
            self, presence=presence, since_us=since_us, why=why, last_events=words, boot_id=boot_id
        )

    def back(self, since_us: int) -> ExpectedGpu:
        """This GPU, there again since then."""
        return replace(
            self,
            presence=Presence.PRESENT,
            since_us=since_us,
            why=None,
            absent_us=self.since_us,
            boot_id=None,
        )

    def differs(self, other: ExpectedGpu | None) -> bool:
        """True when something is new that is worth keeping; each look moves the time of the last answer."""
        return other is None or replace(self, seen_us=None) != replace(other, seen_us=None)

    def dump(self) -> dict[str, Any]:
        """As a JSON object, for `load`."""
        return asdict(self)

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> ExpectedGpu:
        """The GPU of a dumped object. Raises KeyError, TypeError or ValueError on anything else."""
        events = tuple(LastEvent(**event) for event in data["last_events"])
        return cls(**{**data, "presence": Presence(data["presence"]), "last_events": events})
