"""Files of the journal that a power failure or a dying disk has torn: what is gone is heard again, or said.

The kernel log still holds what the journal has lost: a start goes on from what the journal knows, so the
end is the same as if nothing had happened. What cannot be read is set aside, and said.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from daemon import journal
from daemon.journal import FILE_NAME, Journal
from tests.support.fault_lab import Happened, fault, rounds
from tests.support.faulty_disk import Action, Calls, FaultyDisk, build
from tests.support.write_path import KernelLog, Model, WritePath

FAULTS = 30
FRAMES = 60
"""Of the WAL when the journal is left."""
WAL_HEADER, FRAME_HEADER, PAGE = 32, 24, 4096
"""Bytes (https://sqlite.org/fileformat2.html#walformat)."""
FRAME = FRAME_HEADER + PAGE


class Torn:
    """A journal as a kill has left it, to be torn in one way after the other."""

    def __init__(self, folder: Path, disk: FaultyDisk, write_path: WritePath) -> None:
        self.log = KernelLog(random.Random(1), FAULTS)
        self.path = write_path
        self.model = Model(self.log, write_path)
        self._left = folder / "left"
        # Nothing is folded into the file before it was brought to the disk: a tear in the WAL then costs
        # what was written last, and nothing else.
        write_path.checkpoint_bytes = 1 << 40
        write_path.begin(self.log)
        disk.count(write_path.state_dir / FILE_NAME, Calls.WRITE)
        disk.at(FRAMES * 2, Action.KILL_BEFORE)  # a frame is written in two calls
        assert not write_path.run(1)
        disk.works()
        self.model.check()
        shutil.copytree(write_path.state_dir, self._left)
        self.items = self.model.kept()

    def file(self, suffix: str = "") -> Path:
        """One of its files, as the next start will find it."""
        return Path(f"{self.path.state_dir / FILE_NAME}{suffix}")

    def again(self) -> None:
        """As the kill has left it."""
        shutil.rmtree(self.path.state_dir)
        shutil.copytree(self._left, self.path.state_dir)

    def run_to_the_end(self) -> None:
        """Start it, and let it come to the end of the log: each fault is counted once, at new cursors."""
        assert self.path.run(1)
        kept = self.model.kept()
        assert len(kept) >= len(self.items)
        assert all(kept[event_id].cursor >= item.cursor for event_id, item in self.items.items())

    def is_set_aside(self) -> bool:
        """Whether a journal was set aside under another name."""
        return any(self.path.state_dir.glob(f"{FILE_NAME}.broken-*"))


@pytest.fixture
def torn(tmp_path: Path) -> Iterator[Torn]:
    """One journal, to be torn."""
    disk = FaultyDisk(tmp_path, build(tmp_path))
    with WritePath(tmp_path, disk) as write_path:
        yield Torn(tmp_path, disk, write_path)
    disk.close()


@pytest.mark.parametrize("is_cut", [True, False], ids=["cut", "garbled"])
@fault(
    "the journal's log ends early, or is garbage from there, at every page and in the middle of every page",
    promise=1,
    promised="what is left is as it was some commits before; the rest is heard again; nothing is told twice",
)
def test_a_log_of_the_journal_that_ends_early_costs_nothing_that_can_be_heard_again(
    torn: Torn, is_cut: bool, happened: Happened
) -> None:
    size = torn.file("-wal").stat().st_size
    cuts = [cut for frame in range(WAL_HEADER, size, FRAME) for cut in (frame, frame + FRAME // 2)]
    runs = rounds(short=4, long=len(cuts))
    lost = []
    for number, cut in enumerate(cuts):
        torn.again()
        with torn.file("-wal").open("r+b") as wal:
            if is_cut:
                wal.truncate(cut)
            else:
                wal.seek(cut)
                wal.write(b"\xa5" * (size - cut))
        torn.file("-shm").unlink(missing_ok=True)
        kept = torn.model.kept()
        lost.append(len(torn.items) - len(kept))
        assert kept.keys() <= torn.items.keys()
        if number % (len(cuts) // runs) == 0:
            torn.run_to_the_end()
    assert max(lost) > 0
    assert lost[-1] <= lost[0]
    happened(
        f"{len(cuts)} times {'cut' if is_cut else 'garbled'}, up to {max(lost)} events gone: the journal was"
        " sound after each and agreed with itself, and all was heard again from the kernel log"
    )


BREAKS: Mapping[str, Callable[[Torn], object]] = {
    "its last four pages are zeros": lambda torn: overwritten(torn.file(), last=4 * PAGE),
    "every page but the first is garbage": lambda torn: overwritten(torn.file(), last=-PAGE, by=b"\xa5"),
    "it is a text": lambda torn: torn.file().write_bytes(b"not a journal\n" * 500),
    "it is the database of another program": lambda torn: another_database(torn.file()),
}
"""Ways in which a journal cannot be read any more."""


def overwritten(path: Path, *, last: int, by: bytes = b"\0") -> None:
    """Overwrite the last bytes of a file; below zero: all but the first so many."""
    size = path.stat().st_size
    count = last if last > 0 else size + last
    with path.open("r+b") as file:
        file.seek(size - count)
        file.write(by * count)


def another_database(path: Path) -> None:
    """What someone else keeps."""
    path.unlink()
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE theirs (x)")


@pytest.mark.parametrize("what", BREAKS)
@fault(
    "the journal is broken: pages of zeros, of garbage, a text, the database of another program",
    promise=2,
    promised="set aside as it is, and said; whoever comes with an older cursor is told what he missed",
)
def test_a_broken_journal_is_set_aside_and_said(torn: Torn, what: str, happened: Happened) -> None:
    with closing(Journal.open(torn.path.state_dir)) as opened:  # folds the WAL into the file
        newest = opened.marks().newest
    BREAKS[what](torn)
    content = torn.file().read_bytes()
    torn.run_to_the_end()
    asides = [path.read_bytes() for path in torn.path.state_dir.glob(f"{FILE_NAME}.broken-*")]
    assert content in asides
    with journal.read_only(torn.path.state_dir) as reader:
        missed = reader.page(newest - 1).missed
        assert missed is not None
        assert missed.first == newest
    happened(f"{what}: set aside as it was; all {len(torn.items)} events were heard again; the loss was told")


@pytest.mark.parametrize("content", [None, b"", b"\xff" * 32_768], ids=["gone", "empty", "garbage"])
@fault(
    "the journal's shared memory file is gone, empty, or garbage",
    promise=1,
    promised="nothing is lost",
)
def test_the_shared_memory_file_is_not_needed(torn: Torn, content: bytes | None, happened: Happened) -> None:
    torn.file("-shm").unlink(missing_ok=True)
    if content is not None:
        torn.file("-shm").write_bytes(content)
    assert torn.model.kept().keys() == torn.items.keys()
    torn.run_to_the_end()
    assert not torn.is_set_aside()
    happened(f"all {len(torn.items)} events are there")
