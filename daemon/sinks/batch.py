"""What one delivery carries, and its public JSON: the same for a webhook's body and a command's input.

`{"schema": 1, "type", "sink", "node", "sent", "events": […], "missed", "skipped": […]}`. `type` is
`events` or `test`; `events` are in cursor order and have the public form of an event. `missed` is
`{"first", "last"}`, cursors that retention deleted before this sink came for them, or null. `skipped`
names what this sink gave up: `[{"cursor", "id", "reason"}]`. Keys are only ever added.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from daemon.event import SCHEMA, Item, rfc3339
from daemon.page import Missed


@dataclass(frozen=True, slots=True)
class Node:
    """Where this runs, and what time it is there."""

    name: str
    wall_us: Callable[[], int]
    """Wall clock, µs since the Unix epoch."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """An event that the receiver would not take, and that this sink gave up."""

    cursor: int
    id: str
    reason: str
    """What the receiver said the last time."""

    def to_dict(self) -> dict[str, Any]:
        """Its public form."""
        return {"cursor": self.cursor, "id": self.id, "reason": self.reason}

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> Skipped:
        """The inverse. Raises KeyError, TypeError or ValueError on anything else."""
        return cls(int(data["cursor"]), str(data["id"]), str(data["reason"]))


@dataclass(frozen=True, slots=True)
class Batch:
    """One delivery."""

    sink: str
    node: str
    sent_us: int
    """Wall clock, µs since the Unix epoch."""
    items: Sequence[Item] = ()
    missed: Missed | None = None
    skipped: Sequence[Skipped] = ()
    is_test: bool = False
    """True for the test alarm that a person asked for."""

    def to_json(self) -> str:
        """One line of ASCII JSON, made of the JSON each item already has."""
        head = {
            "schema": SCHEMA,
            "type": "test" if self.is_test else "events",
            "sink": self.sink,
            "node": self.node,
            "sent": rfc3339(self.sent_us),
        }
        missed = self.missed
        tail = {
            "missed": missed and {"first": missed.first, "last": missed.last},
            "skipped": [each.to_dict() for each in self.skipped],
        }
        events = ", ".join(item.json for item in self.items)
        return f'{json.dumps(head)[:-1]}, "events": [{events}], {json.dumps(tail)[1:]}'


def sentence_of_missed(missed: Missed) -> str:
    """For people."""
    return f"items of cursors {missed.first} to {missed.last} were deleted before they could be sent"
