"""Killing the write path of a daemon, and the model of what may be seen afterwards.

`KernelLog` is a log as a boot prints it, and knows which faults stand in it. `WritePath` runs the real
probe, pipeline and store on it, in a process that is killed and started again. `Model` holds what every
start and every reader may rely on:

* what was told as stored is in the journal, at that revision or a later one;
* cursors grow from one item to the next, also across kills, and none is given out twice;
* the journal is sound, and agrees with itself: the events it holds, with those still open in its state,
  are exactly the faults of the records up to its resume point, no more and no fewer.
"""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

from daemon import journal
from daemon.event import Event, Item, Kind
from daemon.pipeline import Pipeline, Snapshot
from tests.support.daemon import ROOT, clean_environment
from tests.support.faulty_disk import FaultyDisk
from tests.support.waiting import DEADLINE_S

BOOT = "11111111-2222-3333-4444-555555555555"
_START_S = 1.0
_LONG_AFTER_US = 3_600_000_000
_FAULT = tuple[str | None, int | None]
"""Device and code."""

_THIRTEEN = [
    "Graphics SM Warp Exception on (GPC 1, TPC 4, SM 0): Misaligned Address",
    "Graphics Exception: ESR 0x519730=0x500000f 0x519734=0x0 0x519728=0x1f81fb60 0x51972c=0x1174",
    "Graphics Exception: channel 0x0000000a, Class 0000cbc0, Offset 00000510, Data 0017e2ac",
]
_GPUS = tuple(f"0000:{bus:02x}:00" for bus in (0x1B, 0x43, 0x52, 0x9D, 0xC3, 0xD1))


class KernelLog:
    """The records of one boot, numbered from 0, and the faults that they tell of."""

    def __init__(self, rng: random.Random, faults: int) -> None:
        self.records: list[bytes] = []
        """As /dev/kmsg gives them."""
        self.faults: list[tuple[_FAULT, frozenset[int]]] = []
        """Each occurrence: whose, and the numbers of its records."""
        self.pauses: list[int] = []
        """How many records stand before each place where the kernel may pause: the lines of a fault come
        together."""
        self._time_us = 10_000_000
        for number, gpu in enumerate(_GPUS):
            self._print(f"NVRM: GPU at PCI:{gpu}: GPU-11111111-2222-3333-4444-{number:012d}")
        for number in range(faults):
            # The next one comes after the lines of this one are told apart by their silence.
            self._time_us += rng.choice([20_000, 40_000, 40_000, 150_000, 1_100_000])
            if rng.random() < 0.2:
                self._print(f"usb 1-1: new high-speed USB device number {number}")
            self._fault(rng, number)
            self.pauses.append(len(self.records))

    def occurrences(self, *, upto: int) -> Counter[_FAULT]:
        """How often each fault is told by the records up to this number: one line of it is enough."""
        return Counter(fault for fault, records in self.faults if min(records) <= upto)

    def _fault(self, rng: random.Random, number: int) -> None:
        gpu = _GPUS[number % len(_GPUS)]
        code, pid, lines = rng.choice(
            [
                (43, 500, ["Ch 00000008"]),
                (13, 700, _THIRTEEN),
                (13, 700, _THIRTEEN),
                (31, 800 + number // 60, ["Ch 00000008, intr 00000000."]),
                (48, 900, ["DBE (double bit error) ECC Error has occurred"]),  # fatal: brought to the disk
            ]
        )
        *opening, last = lines
        prefix = f"NVRM: Xid (PCI:{gpu}): {code},"
        records = [self._print(f"{prefix} {text}") for text in opening]
        records.append(self._print(f"{prefix} pid={pid}, name=test, {last}"))
        self.faults.append(((f"{gpu}.0", code), frozenset(records)))

    def _print(self, text: str) -> int:
        seq = len(self.records)
        self._time_us += 10
        self.records.append(b"4,%d,%d,-;%s\n" % (seq, self._time_us, text.encode()))
        return seq


class WritePath:
    """Runs the write path on a state directory, time and again. A context manager that ends it."""

    def __init__(self, folder: Path, disk: FaultyDisk) -> None:
        """`disk`: what it meets; its clock is put on by a second for each start, which takes a daemon about
        that long and a fork no time."""
        self.disk = disk
        self.state_dir = folder / "state"
        self.acks = folder / "acks"
        self.boot_id = BOOT
        self.checkpoint_bytes = 256 * 1024
        """So little that a short log meets checkpoints, too."""
        self._records = folder / "records"
        self._pauses: list[int] = []
        self._printed = 0
        self._starts = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.write_path_program"],
            cwd=ROOT,
            env=clean_environment() | dict(disk.environment()),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate(timeout=DEADLINE_S)

    def begin(self, log: KernelLog) -> None:
        """An empty state directory, and a boot that prints this log from now on."""
        shutil.rmtree(self.state_dir, ignore_errors=True)
        self.acks.write_bytes(b"")
        self.boots(log, BOOT)

    def boots(self, log: KernelLog, boot_id: str) -> None:
        """Another boot on the state that is there: it prints this log from now on."""
        self.boot_id = boot_id
        self._records.write_bytes(b"".join(log.records))
        self._pauses = log.pauses
        self._printed = 0

    def start(self, seed: int, *, lives_s: float = DEADLINE_S) -> None:
        """Start it where the log stands; `seed` decides how the rest is printed. It is killed after `lives_s`
        unless it has come to the end of the log by then."""
        order = {
            "state": str(self.state_dir),
            "records": str(self._records),
            "acks": str(self.acks),
            "boot_id": self.boot_id,
            "pauses": [at for at in self._pauses if at > self._printed],
            "shown": self._printed,
            "seed": seed,
            "checkpoint_bytes": self.checkpoint_bytes,
            "lives_s": lives_s,
        }
        self._starts += 1
        self.disk.steps_clock(self._starts * _START_S)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def has_ended(self, wait_s: float = 0.0) -> bool:
        """Whether it has ended by then."""
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], wait_s)[0])

    def end(self) -> bool:
        """Wait until it has ended; True when it came to the end of the log, False when it was killed."""
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        assert answer, "the program has ended"
        status = int(answer)
        for line in self.acks.read_bytes().split(b"\n")[:-1]:
            if line.startswith(b"printed "):
                self._printed = max(self._printed, int(line.split()[1]))
        # While nobody hears it the kernel ends what it has begun to say.
        self._printed = next((at for at in self._pauses if at >= self._printed), 0) if self._printed else 0
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL, f"it was ended by signal {os.WTERMSIG(status)}"
            return False
        assert status == 0, "it failed; its traceback is on stderr"
        return True

    def run(self, seed: int, *, lives_s: float = DEADLINE_S) -> bool:
        """Start it and wait until it has ended; see there."""
        self.start(seed, lives_s=lives_s)
        return self.end()


@dataclass(frozen=True, slots=True)
class Told:
    """One item as it was told to a reader."""

    cursor: int
    event_id: str
    revision: int
    stored: bool


def told(acks: Path) -> list[Told]:
    """Everything that was told, in order; an acknowledgement that a kill cut short was not given."""
    items = []
    for line in acks.read_bytes().split(b"\n")[:-1]:
        if not line.startswith(b"printed "):
            cursor, event_id, revision, stored = line.split()
            items.append(Told(int(cursor), event_id.decode(), int(revision), stored == b"1"))
    return items


class Model:
    """See the module's docstring."""

    def __init__(self, log: KernelLog, write_path: WritePath) -> None:
        self._log = log
        self._path = write_path

    def check(self) -> int:
        """Look at the journal that a kill, or an end in order, has left, at a copy: the next start is to find
        it as it is. Returns the number of events that it holds."""
        items = told(self._path.acks)
        self._check_cursors(items)
        if not (self._path.state_dir / journal.FILE_NAME).exists():
            assert not any(item.stored for item in items)
            return 0
        kept = self.kept()
        for item in items:
            if item.stored:
                assert item.event_id in kept, f"told as stored, and not there: {item}"
                assert kept[item.event_id].event.revision >= item.revision
                assert kept[item.event_id].cursor >= item.cursor
        by_cursor = {item.cursor: item for item in items}
        for one in kept.values():
            same = by_cursor.get(one.cursor)
            assert same is None or (same.event_id, same.revision) == (one.event.id, one.event.revision)
        return len(kept)

    def kept(self) -> dict[str, Item]:
        """What the next start will find, by event id; the journal is sound and agrees with itself."""
        copy = self._path.state_dir.with_name("copy")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self._path.state_dir, copy)
        check_sound(copy)
        with closing(journal.Journal.open(copy)) as opened:
            assert opened.note is None, opened.note
            kept = {item.event.id: item for item in opened.newest_items(100_000)}
            saved = opened.saved()
        self._check_counts([one.event for one in kept.values()], saved)
        return kept

    def _check_cursors(self, items: Sequence[Told]) -> None:
        for before, after in pairwise(items):
            assert before.cursor < after.cursor, f"{after} came after {before}"

    def _check_counts(self, kept: Sequence[Event], saved: journal.Saved) -> None:
        upto = -1 if saved.resume is None else saved.resume.seq
        assert upto < len(self._log.records)
        heard, written = settled(kept, saved), self._log.occurrences(upto=upto)
        assert heard == written, f"up to record {upto}: too many {heard - written}, too few {written - heard}"


def settled(kept: Iterable[Event], saved: journal.Saved, boot_id: str = BOOT) -> Counter[_FAULT]:
    """How often each fault happened: by what is kept, and what the state adds once nothing is pending."""
    events = {event.id: event for event in kept}
    pipeline = Pipeline(node="test-node")
    state = {key: text for key, text in saved.faults.items() if key not in ("gpus", "passed")}
    now_us = time.monotonic_ns() // 1000
    news = [*pipeline.restore(Snapshot(state, saved.context), boot_id=boot_id, now_us=now_us)]
    news += pipeline.tick(now_us + _LONG_AFTER_US)
    assert pipeline.counters.state_errors == 0
    for event in news:
        known = events.get(event.id)
        assert known is None or known.revision < event.revision, "the state is behind the events"
        events[event.id] = event
    assert not any(event.kind is Kind.GAP for event in events.values()), "a record was taken for lost"
    faults: Counter[_FAULT] = Counter()
    for event in events.values():
        if event.kind is not Kind.INCIDENT:
            faults[event.device, event.code] += event.count
    return faults


def check_sound(state_dir: Path) -> None:
    """SQLite finds nothing wrong in a journal that nobody has open."""
    with closing(sqlite3.connect(state_dir / journal.FILE_NAME)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
