"""Power failures: of what was written since the last sync, any part may be on the disk, and any part not.

Each sync of the process is noted, and what the file held then. When the power fails, every sector of 512
bytes that was written since is either there or not, by chance; so are the names of files that were made
since. What the kernel log held is gone: the next start is another boot.
"""

from __future__ import annotations

import random
import shutil
from contextlib import closing
from pathlib import Path

from daemon.event import Item, Severity
from daemon.journal import FILE_NAME, Journal
from tests.support.fault_lab import Happened, fault, rounds
from tests.support.faulty_disk import Calls, FaultyDisk
from tests.support.write_path import KernelLog, WritePath, check_sound, settled

FAULTS = 60
SECTOR = 512
NEXT_BOOT = "66666666-7777-8888-9999-000000000000"


class Durable:
    """What is on the disk for good. File systems keep names in order: those of the last sync are there."""

    def __init__(self, state_dir: Path) -> None:
        self.syncs = 0
        self._state_dir = state_dir
        self._files: dict[str, bytes] = {}
        self._names: set[str] = set()

    def synced(self, path: Path) -> None:
        """This file, or the names in this directory, were brought to the disk."""
        self.syncs += 1
        self._names = self._names_now()
        if path.is_file():
            self._files[path.name] = path.read_bytes()

    def write(self, where: Path) -> None:
        """The files as they are at least."""
        where.mkdir()
        for name in self._names:
            (where / name).write_bytes(self._files.get(name, b""))

    def write_after_failure(self, where: Path, rng: random.Random) -> None:
        """The files as a power failure may leave them now."""
        where.mkdir()
        arrived = rng.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        for name in rng.choice([self._names, self._names_now()]):
            path = self._state_dir / name
            old = self._files.get(name, b"")
            new = path.read_bytes() if path.exists() else old
            (where / name).write_bytes(_mixed(old, new, arrived, rng))

    def _names_now(self) -> set[str]:
        return {path.name for path in self._state_dir.glob(f"{FILE_NAME}*") if not path.match("*-shm")}


def _mixed(old: bytes, new: bytes, arrived: float, rng: random.Random) -> bytes:
    """Each sector of `new` that differs from `old`, or the old one; behind the end of that, zeros."""
    size = len(new) if rng.random() < arrived else min(len(old), len(new))
    mixed = bytearray(old[:size].ljust(size, b"\0"))
    for at in range(0, size, SECTOR):
        if rng.random() < arrived:
            mixed[at : at + SECTOR] = new[at : at + SECTOR][: size - at]
    return bytes(mixed)


def items_of(state_dir: Path) -> tuple[dict[str, Item], int]:
    """The events by their ids, and the number of the last record in the journal (-1: none)."""
    check_sound(state_dir)
    with closing(Journal.open(state_dir)) as opened:
        assert opened.note is None, opened.note
        resume = opened.saved().resume
        items = {item.event.id: item for item in opened.newest_items(100_000)}
    return items, -1 if resume is None else resume.seq


def are_kept(wanted: dict[str, Item], found: dict[str, Item]) -> bool:
    """Whether each event is there, at that revision or a later one."""
    return all(
        event_id in found and found[event_id].event.revision >= item.event.revision
        for event_id, item in wanted.items()
    )


def severe(items: dict[str, Item]) -> dict[str, Item]:
    """Those that have to survive the death of the kernel."""
    return {
        event_id: item
        for event_id, item in items.items()
        if item.event.severity.rank >= Severity.CRITICAL.rank
    }


class Machine:
    """One boot whose power fails."""

    def __init__(self, folder: Path, write_path: WritePath, disk: FaultyDisk, log: KernelLog) -> None:
        self.durable = Durable(write_path.state_dir)
        self.log = log
        self._folder = folder
        self._path = write_path
        self._disk = disk

    def run_until_power_fails(self, seed: int, lives_s: float) -> None:
        """Note every sync until then. When the WAL was brought to the disk, everything severe is there."""
        self._path.begin(self.log)
        self._disk.count(self._path.state_dir, Calls.SYNC)
        self._disk.stops_after_syncs()
        self._path.start(seed, lives_s=lives_s)
        while not self._path.has_ended(0.0005):
            if self._disk.is_stopped:
                path = self._disk.synced
                self.durable.synced(path)
                if path.name.endswith("-wal"):
                    committed, _ = items_of(self._copy(self._path.state_dir, "committed"))
                    assert are_kept(severe(committed), self.at_least())
                self._disk.go_on()
        self._path.end()

    def at_least(self) -> dict[str, Item]:
        """What is on the disk for good."""
        where = self._fresh("durable")
        self.durable.write(where)
        return items_of(where)[0]

    def boot_after_failure(self, rng: random.Random) -> int:
        """Let the power fail and another boot begin; returns how many events the failure has cost."""
        before, _ = items_of(self._copy(self._path.state_dir, "committed"))
        wanted = self.at_least()
        left = self._fresh("left")
        self.durable.write_after_failure(left, rng)
        kept, upto = items_of(self._copy(left, "looked_at"))
        assert are_kept(wanted, kept)
        shutil.rmtree(self._path.state_dir)
        shutil.copytree(left, self._path.state_dir)
        self._disk.count(self._path.state_dir, Calls.SYNC)
        log = KernelLog(rng, FAULTS)
        self._path.boots(log, NEXT_BOOT)
        assert self._path.run(rng.randrange(1 << 30))
        with closing(Journal.open(self._path.state_dir)) as opened:
            told = [item.event for item in opened.newest_items(100_000)]
            both = self.log.occurrences(upto=upto) + log.occurrences(upto=len(log.records))
            assert settled(told, opened.saved(), NEXT_BOOT) == both
        return len(before) - len(kept)

    def _fresh(self, name: str) -> Path:
        shutil.rmtree(self._folder / name, ignore_errors=True)
        return self._folder / name

    def _copy(self, state_dir: Path, name: str) -> Path:
        return shutil.copytree(state_dir, self._fresh(name), ignore=shutil.ignore_patterns("*-shm"))


@fault(
    "power fails at a random moment: any sector written since the last sync is there, or is not",
    promise=1,
    promised="every critical and fatal event is kept once it was brought to the disk; the journal is sound",
)
def test_a_power_failure_costs_nothing_that_was_brought_to_the_disk(
    tmp_path: Path, rng: random.Random, disk: FaultyDisk, happened: Happened
) -> None:
    failures = rounds(short=8, long=400)
    syncs = lost = 0
    with WritePath(tmp_path, disk) as write_path:
        for _ in range(failures):
            machine = Machine(tmp_path, write_path, disk, KernelLog(rng, FAULTS))
            machine.run_until_power_fails(rng.randrange(1 << 30), lives_s=rng.uniform(0.05, 1.0))
            lost += machine.boot_after_failure(rng)
            syncs += machine.durable.syncs
    happened(
        f"{failures:,} failures after {syncs:,} syncs: of {failures * FAULTS:,} faults no critical or fatal"
        f" one was lost after its sync; {lost:,} others were not yet on the disk"
    )
