"""A journal with as many events as are asked for, written by the journal's own writing side.

The events are copies of what a real daemon made of real lines, of eight GPUs and several codes; every
copy has an id, a process and a cursor of its own. One in a hundred is an incident. None is fatal, one in
a thousand is an Xid 63, so that filters can ask for much, for little and for nothing.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from benchmarks.figure import Plan
from daemon.event import Event, Item, Kind, Process, event_id, from_dict
from daemon.journal import Change, Journal
from tests.support.daemon import Daemon
from tests.support.kernel_log import FakeKernelLog
from tests.support.waiting import wait_for

GPUS = tuple(f"0000:{0x18 + number:02x}:00" for number in range(8))
COMMON = (31, 43, 48)
"""Xids of which most events are: two mild ones and a critical one, which makes incidents."""
RARE = 63
ONE_IN = 1_000
INCIDENT_IN = 100
BATCH = 1_000
AGE_MS = 3_600_000
"""How long ago the first event got its cursor: a million of them fit between that and now."""


def announce(log: FakeKernelLog, gpus: Sequence[str] = GPUS) -> None:
    """The driver's line for each GPU, from which the daemon learns that it is real, and its UUID."""
    for gpu in gpus:
        log.write(f"NVRM: GPU at PCI:{gpu}: GPU-{gpu.replace(':', '')}0-0000-0000-0000-000000000000")


def xid_line(gpu: str, code: int, pid: int) -> str:
    """A line that is a whole fault of its own."""
    return f"NVRM: Xid (PCI:{gpu}): {code}, pid={pid}, name=python3, Ch 00000008"


def kept_models(plan: Plan) -> Sequence[Event]:
    """What a real daemon makes of one line of each code on each GPU, incidents among them."""
    directory = plan.directory / "models"
    directory.mkdir()
    with FakeKernelLog(directory / "kmsg") as log:
        daemon = Daemon(directory, kmsg=log.path, flags=("--ebpf", "off", "--gpu", "off")).start()
        try:
            announce(log)
            for code in (*COMMON, RARE):
                for gpu in GPUS:
                    log.write(xid_line(gpu, code, 5000))
            wanted = (len(COMMON) + 1) * len(GPUS)

            def whole() -> bool:
                kinds = [event["kind"] for event in daemon.events()]
                return kinds.count("xid") == wanted and "incident" in kinds

            wait_for(whole, "one event of each code and GPU")
            return [from_dict(event) for event in daemon.events()]
        finally:
            daemon.stop()


class Filling:
    """A new journal in a state directory that no daemon holds."""

    def __init__(self, state_dir: Path, models: Sequence[Event], count: int) -> None:
        """Writes `count` events."""
        self.state_dir = state_dir
        self._events = _copies(models)
        self._next = self._first = time.time_ns() // 1_000_000 - AGE_MS
        with closing(Journal.open(state_dir)) as journal:
            journal.commit(Change(first_cursor=self._first))
            for begin in range(0, count, BATCH):
                journal.commit(self.change(min(BATCH, count - begin)))
                journal.checkpoint_if_due()
        self.middle = self._first + count // 2
        """The cursor of the event in the middle."""

    def change(self, count: int = 1) -> Change:
        """The next so many events, as the daemon would hand them to the journal."""
        items = [Item.of(self._next + step, next(self._events), stored=True) for step in range(count)]
        self._next += count
        return Change(items=items)


def _copies(models: Sequence[Event]) -> Iterator[Event]:
    """Events without end, each a new fault like one of the models."""
    incidents = itertools.cycle([event for event in models if event.kind is Kind.INCIDENT])
    xids = [event for event in models if event.kind is Kind.XID]
    rare = itertools.cycle([event for event in xids if event.code == RARE])
    common = itertools.cycle([event for event in xids if event.code in COMMON])
    for number in itertools.count():
        if number % ONE_IN == ONE_IN // 2:
            model = next(rare)
        elif number % INCIDENT_IN == INCIDENT_IN // 4:
            model = next(incidents)
        else:
            model = next(common)
        process = Process(10_000 + number, "python3") if model.kind is Kind.XID else None
        yield replace(model, id=event_id(model.boot_id, number, "filling"), process=process)
