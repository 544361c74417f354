"""Kernel records for tests of the pipeline, and a pipeline that notes what it publishes."""

from __future__ import annotations

from collections.abc import Iterable

from daemon.event import Event, Kind
from daemon.pipeline import Pipeline
from probes.line import KernelLine, LostRecords, Origin

BOOT = "11111111-2222-3333-4444-555555555555"
EPOCH_US = 1_769_079_600_000_000
GPU = "0000:91:00"
OTHER_GPU = "0000:1b:00"
UUID = "GPU-11111111-2222-3333-4444-555555555555"


def record(
    text: str,
    at_us: int,
    *,
    arrival_us: int | None = None,
    origin: Origin = Origin.KERNEL,
    seq: int | None = None,
    boot_id: str = BOOT,
    probe: str = "kmsg",
) -> KernelLine:
    """A record of kernel time `at_us`, read as it was printed unless `arrival_us` says otherwise."""
    arrival = at_us if arrival_us is None else arrival_us
    return KernelLine(
        text=text,
        origin=origin,
        boot_id=boot_id,
        seq=seq,
        kernel_us=at_us,
        arrival_us=arrival,
        wall_us=EPOCH_US + arrival,
        wall_is_estimate=False,
        probe=probe,
    )


def lost(first: int | None, last: int | None, at_us: int) -> LostRecords:
    """A range of lost records, noticed at `at_us`."""
    count = last - first + 1 if first is not None and last is not None else None
    return LostRecords(BOOT, first, last, count, at_us, EPOCH_US + at_us, "kmsg")


def xid(code: int, rest: str, gpu: str = GPU) -> str:
    """The driver's line of an Xid."""
    return f"NVRM: Xid (PCI:{gpu}): {code}, {rest}"


class Heard:
    """Feeds a pipeline and keeps every revision it publishes, in order; but for incidents, which have
    their own (`tests.support.incidents`)."""

    def __init__(
        self, pipeline: Pipeline | None = None, *, real_gpus: Iterable[str] = (GPU, OTHER_GPU)
    ) -> None:
        self.pipeline = pipeline or Pipeline(node="test-node")
        self.revisions: list[Event] = []
        for gpu in real_gpus:
            self.say(f"NVRM: GPU at PCI:{gpu}: {UUID}", 0)

    def say(self, text: str, at_us: int, **how: object) -> list[Event]:
        """Feed one line; the revisions it led to."""
        return self.take(record(text, at_us, **how))  # type: ignore[arg-type]  # passed on as given

    def take(self, item: KernelLine | LostRecords) -> list[Event]:
        """Feed one record; the revisions it led to."""
        news = self.kept(self.pipeline.feed(item))
        self.revisions += news
        return news

    def kept(self, news: Iterable[Event]) -> list[Event]:
        """What of the news is noted."""
        return [event for event in news if event.kind is not Kind.INCIDENT]

    def pass_time(self, until_us: int) -> list[Event]:
        """Tick at every deadline up to `until_us`; the revisions that were due."""
        news: list[Event] = []
        while (deadline := self.pipeline.next_deadline()) is not None and deadline <= until_us:
            news += self.kept(self.pipeline.tick(deadline))
        self.revisions += news
        return news

    def events(self) -> list[Event]:
        """The last revision of every event, in the order in which the events were first published."""
        newest = {event.id: event for event in self.revisions}
        return list(newest.values())
