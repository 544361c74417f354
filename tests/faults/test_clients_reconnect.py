"""Readers that vanish and come back with cursors of all ages, while faults come and the daemon is killed.

The model is one reader that followed from the beginning: all that was ever told, with every cursor. Against
it each visit of each reader is checked: what lay between its cursor and the last thing that it was told
was told to it, in order, none twice; or was replaced by something newer; or was named as missed, and
then retention had really deleted it.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from tests.delivery.readers import (
    ListenReader,
    Pages,
    SocketEventsReader,
    SocketToolReader,
    TailReader,
    ToolReader,
)
from tests.support.daemon import Daemon
from tests.support.fault_lab import Happened, fault, rounds
from tests.support.kernel_log import FakeKernelLog
from tests.support.readers import Follower, Item, Reader, everything_kept
from tests.support.stream_promises import check_read_everything, check_read_in_order
from tests.support.waiting import DEADLINE_S, wait_for

GPUS = tuple(f"0000:{bus:02x}:00" for bus in range(0x10, 0x18))
RING, RETENTION = 64, "4MiB"
"""Small enough that most of what is told leaves the ring, and much of it the journal."""
BEFORE_THE_STORM = 1_200
"""Faults that are told before anybody else comes: more than are kept."""
QUICK_S, STEADY_S = 0.004, 0.016
"""Between two faults, before the storm and in it."""
LEAD, LED_S = 150, 0.25
"""So many faults may have been printed that a reader which goes on was not told of yet; from then on one
comes in that time. None of those readers falls behind retention so: what they miss would be missing here."""
CROWD = 60
"""Readers that come and go at the same time."""
LONGEST_STAY_S = 2.0
"""A reader that has been told all it came for leaves at once, or stays up to so long for what is new."""
LONGEST_ABSENCE_S = 3.0
GARBAGE = ("x", "-1", "1e9", "9" * 30, "0x10")


class Writer:
    """Prints faults of eight GPUs, each of a process of its own, while the block runs."""

    def __init__(self, log: FakeKernelLog, readers: Collection[Reader]) -> None:
        self._readers = readers
        self.written: list[int] = []
        """Sequence numbers."""
        self.pause_s = QUICK_S
        self._log = log
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="writer")

    def _is_ahead(self) -> bool:
        return bool(self.written) and self.written[-1] - min(map(newest_told, self._readers)) > LEAD

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.wait(LED_S if self._is_ahead() else self.pause_s):
            number = len(self.written)
            # By the kernel's clock 0.8 s lie between two faults of a GPU: none is folded into an overflow.
            self._log.time_us += 100_000
            text = f"NVRM: Xid (PCI:{GPUS[number % len(GPUS)]}): 43, pid={10_000 + number}, name=python3, "
            self.written.append(self._log.write(text.ljust(900, "x")))


_ITEM = re.compile(rb'data: \{"schema": 1, "cursor": (\d+), "id": "(\w+)", "revision": (\d+), ')


class Told(NamedTuple):
    """What matters here of an item; to read them whole would make the crowd slow."""

    cursor: int
    id: str
    revision: int


def newest_told(reader: Reader) -> int:
    """Sequence number of the last fault that a reader was told of; 0 before the first."""
    last = (item["kmsg_seq"] for item in reader.items[: -10 * LEAD : -1] if item["kind"] == "xid")
    return next(last, 0)


@dataclass
class Visit:
    """What one reader was told between coming and leaving."""

    since: str
    status: int = 0
    """0: it was cut off before it was answered."""
    items: list[Told] = field(default_factory=list)
    missed: list[tuple[int, int]] = field(default_factory=list)


class Crowd:
    """Readers of /events that come with a cursor of any age, stay a moment, vanish, and come again."""

    def __init__(self, daemon: Daemon, told: Sequence[Item], rng: random.Random) -> None:
        """`told` is what the model has been told so far; it grows."""
        self.visits: list[Visit] = []
        self._port = daemon.port
        self._told = told
        self._rng = rng
        self._leave = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="crowd")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()
        assert not self._thread.is_alive()

    def leave(self) -> None:
        """All leave, and none comes back."""
        self._leave.set()
        self._thread.join(2 * DEADLINE_S)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(CROWD):
                group.create_task(self._come_and_go())

    async def _come_and_go(self) -> None:
        while not self._leave.is_set():
            visit = Visit(self._cursor())
            with suppress(OSError, asyncio.IncompleteReadError, TimeoutError):  # the daemon was killed
                await self._visit(visit)
            if visit.status:
                self.visits.append(visit)
            await asyncio.sleep(self._rng.uniform(0, LONGEST_ABSENCE_S))

    def _cursor(self) -> str:
        """A cursor of some age."""
        told, rng = self._told, self._rng
        if not told:
            return "0"
        newest = told[-1]["cursor"]
        return rng.choice(
            [
                str(newest),
                *(str(told[-rng.randint(1, min(RING, len(told)))]["cursor"]),) * 2,
                *(str(rng.choice(told)["cursor"]),) * 3,
                str(told[0]["cursor"]),
                str(rng.randint(told[0]["cursor"] - 10_000, newest)),  # of another daemon's life, maybe
                "1",
                "0",
                str(newest + 10**12),
                rng.choice(GARBAGE),
            ]
        )

    async def _visit(self, visit: Visit) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)
        try:
            head = f"GET /events HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: {visit.since}\r\n\r\n"
            if self._rng.random() < 0.5:
                head = f"GET /events?since={visit.since} HTTP/1.1\r\nHost: localhost\r\n\r\n"
            writer.write(head.encode())
            async with asyncio.timeout(DEADLINE_S):
                visit.status = int((await reader.readline()).split()[1])
                if visit.status == 200:
                    newest = await self._hello(reader)
                    await self._read(reader, visit, until=newest)
            if visit.status == 200 and self._rng.random() < 0.3:
                async with asyncio.timeout(self._rng.uniform(0, LONGEST_STAY_S)):
                    await self._read(reader, visit, until=None)
        except IndexError:  # cut off before its first line
            pass
        finally:
            writer.transport.abort()

    async def _hello(self, reader: asyncio.StreamReader) -> int:
        while True:
            line = await _line(reader)
            if line.startswith(b'data: {"newest_cursor"'):
                return int(json.loads(line[6:])["newest_cursor"])

    async def _read(self, reader: asyncio.StreamReader, visit: Visit, *, until: int | None) -> None:
        """Take what comes, up to this cursor; None: for ever."""
        reached = int(visit.since)
        while until is None or reached < until:
            line = await _line(reader)
            if not line.startswith(b"data: "):
                continue
            if found := _ITEM.match(line):
                visit.items.append(Told(int(found[1]), found[2].decode(), int(found[3])))
                reached = visit.items[-1].cursor
            else:
                said = json.loads(line[6:])
                visit.missed.append((said["first"], said["last"]))
                reached = max(reached, said["last"])


async def _line(reader: asyncio.StreamReader) -> bytes:
    """A whole line."""
    line = await reader.readline()
    if not line.endswith(b"\n"):
        raise ConnectionResetError
    return line


class Model:
    """Everything that was ever told, with every cursor."""

    def __init__(self, told: Sequence[Item], kept: Sequence[Item]) -> None:
        self.cursors: dict[str, list[int]] = defaultdict(list)
        """Of each event, in order."""
        for item in told:
            self.cursors[item["id"]].append(item["cursor"])
        self._kept = {item["cursor"] for item in kept}
        self.newest = told[-1]["cursor"]

    def check(self, visit: Visit) -> None:
        """What was told on this visit is exactly what there was to tell."""
        if visit.since in GARBAGE or int(visit.since) > self.newest:
            assert visit.status == 400, visit
            return
        assert visit.status == 200, visit
        since, cursors = int(visit.since), [item.cursor for item in visit.items]
        assert all(before < after for before, after in pairwise([since, *cursors])), cursors
        revisions = [(item.id, item.revision) for item in visit.items]
        assert len(set(revisions)) == len(revisions), "a revision came twice"
        assert {item.id for item in visit.items} <= self.cursors.keys()
        for first, last in visit.missed:
            assert since < first <= last, "what it had not missed"
            assert since, "0 asks for what is kept"
            assert self._lacks_some_of(first, last), f"{first} to {last} is all kept"
        for event, its in self.cursors.items():
            self._check_told(event, its, since, visit)

    def _lacks_some_of(self, first: int, last: int) -> bool:
        told = (cursor for its in self.cursors.values() for cursor in its)
        return first == 2 or any(first <= cursor <= last and cursor not in self._kept for cursor in told)

    def _check_told(self, event: str, its: list[int], since: int, visit: Visit) -> None:
        """The last revision in the stretch that was read was told, unless it was replaced or missed."""
        through = visit.items[-1].cursor if visit.items else since
        wanted = [cursor for cursor in its if since < cursor <= through]
        if not wanted or wanted[-1] != its[-1]:
            return
        is_told = any(item.cursor == wanted[-1] for item in visit.items)
        is_missed = any(first <= wanted[-1] <= last for first, last in visit.missed)
        is_gone = since == 0 and wanted[-1] not in self._kept
        assert is_told or is_missed or is_gone, f"{event} at {wanted[-1]}: {visit.since}"


def check_heard(written: Sequence[int], told: Sequence[Item]) -> int:
    """Every line that was printed is an event, or in a gap: a FIFO does not give again what was read before a
    kill. How many are in gaps."""
    heard = {item["kmsg_seq"] for item in told if item["kind"] == "xid"}
    ranges = [tuple(each) for item in told if item["kind"] == "gap" for each in item["detail"]["ranges"]]
    lost = [seq for seq in written if seq not in heard]
    for seq in lost:
        assert any(first <= seq <= last for first, last in ranges), (seq, len(lost), ranges)
    return len(lost)


def returning(daemon: Daemon, directory: Path) -> dict[str, Reader]:
    """Readers of every loss-free kind that go on from where they were."""
    return {
        "/events with Last-Event-ID": Follower(daemon),
        "/events.json": Pages(daemon),
        "get_xid_events": ToolReader(daemon, "get_xid_events", "legacy"),
        "wait_for_xid": ToolReader(daemon, "wait_for_xid", "2026-07-28"),
        "wait_for_xid on the unix socket": SocketToolReader(daemon.socket, daemon, "wait_for_xid"),
        "subscriptions/listen": ListenReader(daemon),
        "events on the unix socket": SocketEventsReader(daemon.socket, daemon),
        "xidwatch tail --follow": TailReader(daemon.socket, daemon, directory / "tail.log"),
    }


@fault(
    f"{CROWD} readers come and go with cursors of every age, while faults come and the daemon is killed",
    promise=1,
    promised="each is told exactly what there was, in order, none twice; `missed` where it was deleted",
)
def test_a_storm_of_readers_is_told_exactly_what_there_was(
    tmp_path: Path, kernel_log: FakeKernelLog, happened: Happened
) -> None:
    kills, seed = rounds(short=2, long=100), random.randrange(2**32)
    rng = random.Random(seed)
    for number, gpu in enumerate(GPUS):
        kernel_log.write(f"NVRM: GPU at PCI:{gpu}: GPU-11111111-2222-3333-4444-{number:012d}")
    flags = ["--gpu", "off", "--ring-size", str(RING), "--retention-size", RETENTION]
    daemon = Daemon(tmp_path, kmsg=kernel_log.path, flags=flags)
    with ExitStack() as stack:
        stack.callback(daemon.stop)
        daemon.start()
        readers = returning(daemon, tmp_path)
        for reader in readers.values():
            stack.enter_context(reader)
        model = readers["/events with Last-Event-ID"]
        with Writer(kernel_log, readers.values()) as writer:
            until_told(model, BEFORE_THE_STORM)
            writer.pause_s = STEADY_S
            crowd = stack.enter_context(Crowd(daemon, model.items, rng))
            for _ in range(kills):
                until_told(model, rng.randint(100, 250))
                daemon.kill()
                daemon.start()
            until_told(model, 250)
            crowd.leave()
        kept = wait_for(
            lambda: read_to_the_end(daemon, readers), "every reader to come to the end", pause_s=0.2
        )
    told = tuple(model.items)
    for name, reader in readers.items():
        assert reader.missed == [], (name, seed)
        check_read_in_order(reader.items)
        check_read_everything(reader.items, kept)
    lost = check_heard(writer.written, told)
    right = Model(told, kept)
    for visit in crowd.visits:
        right.check(visit)
    deleted = {item["cursor"] for item in told} - {item["cursor"] for item in kept}
    missed = sum(bool(visit.missed) for visit in crowd.visits)
    statuses = Counter(visit.status for visit in crowd.visits)
    assert missed, "retention deleted nothing that anybody came for"
    assert statuses.keys() == {200, 400}
    happened(
        f"{kills} kills (-9), {len(writer.written):,} faults ({lost} in gaps that say so), "
        f"{len(deleted):,} items deleted or replaced; {statuses[200]:,} visits were told what there was, "
        f"{missed:,} of them what they had missed; {statuses[400]:,} were refused for their cursor; "
        f"{len(readers)} readers of every kind, which went on from where they were, lost and doubled nothing"
    )


def until_told(reader: Reader, more: int) -> None:
    """Return when the reader was told of so many more items."""
    goal = len(reader.items) + more
    reader.wait_until(lambda items: len(items) >= goal, "faults to be told")


def read_to_the_end(daemon: Daemon, readers: dict[str, Reader]) -> list[dict[str, Any]] | None:
    """Everything kept, once every reader has come to its end; None before."""
    for reader in readers.values():
        assert reader.failure is None, reader.failure
    kept = everything_kept(daemon)
    ends = {reader.items[-1]["cursor"] for reader in readers.values()}
    return kept if ends == {kept[-1]["cursor"]} else None
