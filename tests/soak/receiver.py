"""What sinks send to: a receiver in a process of its own, which counts what it takes and refuses some."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.soak.place import Orders, Place
from tests.support.receiver import Answer, Received, Receiver

REFUSED: Final = 0.05
"""Share of deliveries that are answered with 503: they have to come again."""
HOOK: Final = "/hook"
KINDS: Final = ("xid", "sxid", "nvrm", "driver_loaded", "overflow", "gap")
"""What the webhook is sent: all that the model has."""


@dataclass(slots=True)
class Taken:
    """What the receiver took."""

    ids: Counter[str] = field(default_factory=Counter)
    """How often each event came at the webhook and was taken."""
    missed: int = 0
    """Bodies that said that retention had overtaken the sink."""
    posts: Counter[str] = field(default_factory=Counter)
    """By path, and `refused`."""


def receiving(place: Place, orders: Orders) -> Taken:
    """Take what comes to `place.port` until it has to leave. `reached` counts the events at the webhook."""
    taken, chance = Taken(), orders.chance()
    receiver = Receiver()
    receiver.port = place.port

    def answer(received: Received) -> Answer:
        if chance.random() < REFUSED:
            taken.posts["refused"] += 1
            return Answer(status=503)
        taken.posts[received.path] += 1
        if received.path == HOOK:
            taken.ids.update(received.ids)
            taken.missed += received.json["missed"] is not None
            orders.reached.value = len(taken.ids)
        # They are counted: an hour of them need not be kept.
        receiver.received.clear()
        receiver.taken.clear()
        return Answer()

    receiver.answer = answer
    with receiver:
        orders.leave.wait()
    return taken


def sinks(directory: Path, url: str) -> Path:
    """The file of `--on-event`: one sink of each type."""
    kinds = ", ".join(f'"{kind}"' for kind in KINDS)
    file = directory / "sinks.toml"
    file.write_text(
        f'''
[[sink]]
name = "all"
type = "webhook"
url = "{url}{HOOK}"
severity = "info"
kind = [{kinds}]
drills = true
updates = "none"
per-minute = 600

[[sink]]
name = "alerts"
type = "alertmanager"
url = "{url}"
severity = "fatal"
resend = "10s"

[[sink]]
name = "program"
type = "command"
command = ["/bin/sh", "-c", "cat >/dev/null"]
severity = "fatal"
per-minute = 30
''',
        encoding="utf-8",
    )
    return file
