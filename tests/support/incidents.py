"""A node's log told line by line, and what the pipeline makes of it: events and incidents."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from daemon.event import Event, Kind
from daemon.pipeline import Pipeline, Snapshot
from tests.support.records import BOOT, GPU, OTHER_GPU, Heard

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE


def pipeline() -> Pipeline:
    """A pipeline that takes drills."""
    return Pipeline(node="test-node", allow_drills=True)


class Node(Heard):
    """Feeds lines at seconds of kernel time, lets time pass between them as a daemon would."""

    def __init__(
        self, real_gpus: Iterable[str] = (GPU, OTHER_GPU, "0000:3b:00", "0000:5d:00"), boot: str = BOOT
    ) -> None:
        super().__init__(pipeline(), real_gpus=())
        self.boot = boot
        for n, gpu in enumerate(real_gpus):
            self.hear(0, f"NVRM: GPU at PCI:{gpu}: GPU-{n:08x}-2222-3333-4444-555555555555")

    def kept(self, news: Iterable[Event]) -> list[Event]:
        """Everything, incidents too."""
        return list(news)

    def hear(self, at_s: float, text: str, **how: object) -> None:
        """One line, printed and read at `at_s` seconds since boot."""
        at_us = round(at_s * SECOND)
        self.pass_time(at_us)
        self.say(text, at_us, **{"boot_id": self.boot, **how})

    def wait(self, until_s: float) -> None:
        """Nothing is printed until `until_s`."""
        self.pass_time(round(until_s * SECOND))

    def restart(self, *, boot: str | None = None, now_s: float = 0.0) -> None:
        """Another process takes up the state; after a reboot with `boot`, another boot id."""
        saved = self.pipeline.snapshot()
        self.boot = boot or self.boot
        self.pipeline = pipeline()
        self.take_up(saved, now_s)

    def take_up(self, saved: Snapshot, now_s: float) -> None:
        """Restore a saved state."""
        self.revisions += self.pipeline.restore(saved, boot_id=self.boot, now_us=round(now_s * SECOND))

    def incidents(self) -> list[Event]:
        """The last revision of every incident that was not merged into another, in order."""
        return [
            event
            for event in self.events()
            if event.kind is Kind.INCIDENT and event.detail["state"] != "closed"
        ]

    def incident(self) -> Event:
        """The only incident."""
        incidents = self.incidents()
        assert len(incidents) == 1, [event.summary for event in incidents]
        return incidents[0]

    def faults(self) -> list[Event]:
        """The last revision of every event that is not an incident."""
        return [event for event in self.events() if event.kind is not Kind.INCIDENT]

    def loose(self) -> list[int | None]:
        """Codes of the events that belong to no incident."""
        return [event.code for event in self.faults() if event.incident is None]


def roles(incident: Event) -> list[tuple[int | None, str]]:
    """Code and role of each member, in the order of the log."""
    return [(member["code"], member["role"]) for member in incident.detail["members"]]


def primary(incident: Event) -> Any:
    """Code of the primary cause; its kind where it has none."""
    cause = incident.detail["primary"]
    return cause["code"] if cause["code"] is not None else cause["kind"]
