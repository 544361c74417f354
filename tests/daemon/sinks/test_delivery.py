"""One sink at work on a real stream: what moves its cursor, what it tries again, what it gives up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from daemon.event import Item, Kind, Severity
from daemon.filter import EVERYTHING
from daemon.ring import Ring
from daemon.sinks import delivery as module
from daemon.sinks.alerts import AlertBook
from daemon.sinks.batch import Batch, Node
from daemon.sinks.cursor import CursorFile, Position, path_of
from daemon.sinks.delivery import Delivery
from daemon.sinks.health import SinkState
from daemon.sinks.news import Memory, News, Updates
from daemon.sinks.outcome import Fate, Outcome
from daemon.sinks.pace import Backoff
from daemon.sinks.targets import CommandTarget, SinkConfig
from daemon.sinks.upkeep import Upkeep
from daemon.stream import EventStream
from daemon.thread import DiskThread
from tests.daemon.stored import in_loop, until
from tests.support.events import TIME_US, item

T = TypeVar("T")
TAKEN = Outcome(Fate.DELIVERED, "200 OK")
AWAY = Outcome(Fate.AWAY, "503 Service Unavailable")
CLOSED = Outcome(Fate.CLOSED, "500 Internal Server Error")
REFUSED = Outcome(Fate.REFUSED, "400 Bad Request")
Judge = Callable[[Batch], Outcome]


class FakeCourier:
    """A courier that keeps what it is given and answers as a test wants."""

    def __init__(self, memory: Memory, judge: Judge, *, takes_many: bool) -> None:
        self.takes_many = takes_many
        self.judge = judge
        self.sent: list[Batch] = []
        self.taken: list[Batch] = []
        self._memory = memory

    @property
    def memory(self) -> Memory:
        return self._memory

    async def send(self, batch: Batch) -> Outcome:
        self.sent.append(batch)
        outcome = self.judge(batch)
        if outcome.is_delivered:
            self.taken.append(batch)
        return outcome

    async def close(self) -> None:
        """Nothing to let go."""

    @property
    def taken_cursors(self) -> list[int]:
        return [each.cursor for batch in self.taken for each in batch.items]


class Bench:
    """A stream, a courier and a delivery between them."""

    def __init__(self, directory: Path, judge: Judge, **settings: Any) -> None:
        self.size = settings.pop("ring", 10_000)
        self.stream = EventStream(Ring(self.size, reserve=0), first_cursor=1000)
        many = settings.pop("takes_many", True)
        self.memory: Memory = settings.pop("memory", News(EVERYTHING, Updates.IMPORTANT, drills=False))
        self.courier = FakeCourier(self.memory, judge, takes_many=many)
        config = SinkConfig("pager", EVERYTHING, False, Updates.IMPORTANT, 600, CommandTarget(("/x",), 1.0))
        self.config = replace(config, **settings)
        self.disk = DiskThread("disk")
        self.file = CursorFile(path_of(directory, "pager"), self.disk)
        # Before everything that `item` makes, so that nothing counts as history.
        self.node = Node("test-node", lambda: TIME_US - 1)
        self.delivery = Delivery(self.config, self.courier, self.stream, self.file, node=self.node)

    def publish(self, *items: Item) -> None:
        self.stream.publish(items)

    async def took(self, cursor: int) -> None:
        await until(lambda: cursor in self.courier.taken_cursors)

    async def run(self, body: Callable[[], Awaitable[T]]) -> T:
        await self.delivery.begin()
        running = asyncio.create_task(self.delivery.run())
        try:
            return await body()
        finally:
            self.stream.close()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await self.file.settled(30)
            self.file.close()
            self.disk.close()


def numbered(*cursors: int) -> list[Item]:
    """Faults of their own."""
    return [item(cursor, id=f"ev_{cursor}") for cursor in cursors]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of hundredths of a second; the real ones are tested with `Backoff`."""
    real = Backoff.next_wait_s
    monkeypatch.setattr(Backoff, "next_wait_s", lambda self, asked=None: real(self, asked) / 100)


def test_events_are_sent_in_order_and_the_cursor_follows_what_was_taken(tmp_path: Path) -> None:
    async def main() -> None:
        bench = Bench(tmp_path, lambda batch: TAKEN)

        async def body() -> None:
            for cursor in (1001, 1002, 1003):
                bench.publish(*numbered(cursor))
                await bench.took(cursor)
            assert bench.courier.taken_cursors == [1001, 1002, 1003]
            await until(lambda: bench.delivery.health.cursor == 1003)
            found = await bench.file.read()
            assert found is not None
            assert found.cursor == 1003
            assert bench.delivery.health.state is SinkState.OK

        await bench.run(body)

    in_loop(main)


def test_a_receiver_that_is_away_gets_what_gathered_compacted_and_nothing_is_held_meanwhile(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        bench = Bench(tmp_path, lambda batch: AWAY)

        async def body() -> None:
            bench.publish(*numbered(1001))
            await until(lambda: bench.courier.sent)
            assert bench.delivery.health.oldest_waiting_us == TIME_US
            # The first one got worse, and another came: revisions that are superseded are not sent.
            bench.publish(item(1002, id="ev_2"), item(1003, id="ev_1001", revision=2, count=4))
            await until(lambda: len(bench.courier.sent) > 3)
            assert bench.delivery.health.state is SinkState.RETRYING
            assert bench.delivery.health.reason == "503 Service Unavailable"
            assert bench.delivery.health.cursor < 1001
            bench.courier.judge = lambda batch: TAKEN
            await until(lambda: bench.courier.taken)
            assert bench.courier.taken_cursors == [1002, 1003]
            await until(lambda: bench.delivery.health.state is SinkState.OK)
            assert bench.delivery.health.oldest_waiting_us is None

        await bench.run(body)

    in_loop(main)


@pytest.mark.parametrize("bad", [1001, 1017, 1050])
def test_the_one_event_to_blame_is_found_by_halving_and_all_others_arrive_in_order(
    tmp_path: Path, bad: int
) -> None:
    async def main() -> None:
        def judge(batch: Batch) -> Outcome:
            return REFUSED if bad in [each.cursor for each in batch.items] else TAKEN

        bench = Bench(tmp_path, judge)

        async def body() -> None:
            cursors = range(1001, 1051)
            bench.publish(*numbered(*cursors))
            bench.publish(*numbered(1051))
            await until(lambda: 1051 in bench.courier.taken_cursors)
            assert bench.courier.taken_cursors == [c for c in (*cursors, 1051) if c != bad]
            assert bench.delivery.health.skipped == 1
            alone = [batch for batch in bench.courier.sent if [i.cursor for i in batch.items] == [bad]]
            assert len(alone) == module.TRIES
            told = [skipped for batch in bench.courier.taken for skipped in batch.skipped]
            assert [(each.cursor, each.id, each.reason) for each in told] == [
                (bad, f"ev_{bad}", "400 Bad Request")
            ]

        await bench.run(body)

    in_loop(main)


def test_a_receiver_that_is_closed_loses_nothing_however_long_it_is(tmp_path: Path) -> None:
    async def main() -> None:
        bench = Bench(tmp_path, lambda batch: CLOSED)

        async def body() -> None:
            bench.publish(*numbered(*range(1001, 1006)))
            await until(lambda: len(bench.courier.sent) > 20)
            assert bench.delivery.health.skipped == 0
            bench.courier.judge = lambda batch: TAKEN
            await until(lambda: 1005 in bench.courier.taken_cursors)
            assert bench.courier.taken_cursors == list(range(1001, 1006))

        await bench.run(body)

    in_loop(main)


def test_a_receiver_that_has_refused_everything_since_the_start_loses_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        bench = Bench(tmp_path, lambda batch: REFUSED)

        async def body() -> None:
            bench.publish(*numbered(1001, 1002, 1003))
            await until(lambda: len(bench.courier.sent) > 20)
            assert bench.delivery.health.skipped == 0
            bench.courier.judge = lambda batch: TAKEN
            await until(lambda: len(bench.courier.taken_cursors) == 3)
            assert bench.courier.taken_cursors == [1001, 1002, 1003]

        await bench.run(body)

    in_loop(main)


def test_an_event_on_which_a_receiver_breaks_is_given_up_once_a_later_one_is_taken(tmp_path: Path) -> None:
    async def main() -> None:
        def judge(batch: Batch) -> Outcome:
            return CLOSED if 1001 in [each.cursor for each in batch.items] else TAKEN

        bench = Bench(tmp_path, judge)

        async def body() -> None:
            bench.publish(*numbered(1001))
            await until(lambda: len(bench.courier.sent) > module.TRIES + 2)
            assert bench.delivery.health.skipped == 0, "nobody knows yet whose fault it is"
            bench.publish(*numbered(1002, 1003))
            await until(lambda: 1003 in bench.courier.taken_cursors)
            assert bench.courier.taken_cursors == [1002, 1003], "none twice"
            assert bench.delivery.health.last_skipped == "ev_1001: 500 Internal Server Error"

        await bench.run(body)

    in_loop(main)


def test_a_command_is_called_once_an_event_and_in_a_storm_once_for_many(tmp_path: Path) -> None:
    async def main() -> None:
        bench = Bench(tmp_path, lambda batch: TAKEN, takes_many=False, per_minute=60)

        async def body() -> None:
            bench.publish(*numbered(*range(1001, 1101)))
            await until(lambda: 1100 in bench.courier.taken_cursors)
            sizes = [len(batch.items) for batch in bench.courier.taken]
            assert sizes[:10] == [1] * 10
            assert sizes[10:] == [90]
            bench.publish(*numbered(1101))
            await until(lambda: 1101 in bench.courier.taken_cursors)
            assert len(bench.courier.taken[-1].items) == 1

        await bench.run(body)

    in_loop(main)


def test_what_was_deleted_before_it_could_be_sent_is_told_once(tmp_path: Path) -> None:
    async def main() -> None:
        bench = Bench(tmp_path, lambda batch: AWAY, ring=5)

        async def body() -> None:
            bench.publish(*numbered(1001))
            await until(lambda: bench.courier.taken or bench.courier.sent)
            bench.courier.judge = lambda batch: TAKEN
            await until(lambda: bench.courier.taken_cursors == [1001])
            bench.courier.judge = lambda batch: AWAY
            bench.publish(*numbered(1002))
            await until(lambda: 1002 in [i.cursor for i in bench.courier.sent[-1].items])
            bench.publish(*numbered(*range(1003, 1020)))
            bench.courier.judge = lambda batch: TAKEN
            await until(lambda: 1019 in bench.courier.taken_cursors)
            missed = [batch.missed for batch in bench.courier.taken if batch.missed is not None]
            assert [(each.first, each.last) for each in missed] == [(1002, 1014)]
            bench.publish(*numbered(1020))
            await until(lambda: 1020 in bench.courier.taken_cursors)
            assert bench.courier.taken[-1].missed is None
            assert bench.delivery.health.missed == 1

        await bench.run(body)

    in_loop(main)


def test_a_cursor_of_another_stream_is_told_as_missed_and_goes_on_from_the_newest(tmp_path: Path) -> None:
    async def main() -> None:
        bench = Bench(tmp_path, lambda batch: TAKEN)
        bench.publish(*numbered(1001))
        bench.file.save(lambda: Position(999_999, bench.memory.dump()))
        await bench.file.settled(30)

        async def body() -> None:
            await until(lambda: bench.courier.taken)
            missed = bench.courier.taken[0].missed
            assert missed is not None
            assert (missed.first, missed.last) == (1, 1001)
            bench.publish(*numbered(1002))
            await until(lambda: bench.courier.taken_cursors == [1002])

        await bench.run(body)

    in_loop(main)


def test_a_cursor_file_that_is_broken_is_told_as_missed(tmp_path: Path) -> None:
    async def main() -> None:
        path = path_of(tmp_path, "pager")
        path.parent.mkdir()
        path.write_text("{")
        bench = Bench(tmp_path, lambda batch: TAKEN)

        async def body() -> None:
            await until(lambda: bench.courier.taken)
            assert bench.courier.taken[0].missed is not None
            bench.publish(*numbered(1001))
            await until(lambda: bench.courier.taken_cursors == [1001])

        await bench.run(body)

    in_loop(main)


def test_a_new_sink_is_not_told_what_the_log_held_before_unless_it_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        bench = Bench(tmp_path, lambda batch: TAKEN)
        bench.node = Node("test-node", lambda: TIME_US + 10)
        bench.delivery = Delivery(bench.config, bench.courier, bench.stream, bench.file, node=bench.node)

        async def body() -> None:
            bench.publish(item(1001, id="ev_old"), item(1002, id="ev_new", last_time_us=TIME_US + 11))
            await until(lambda: bench.courier.taken_cursors == [1002])
            bench.publish(item(1003, id="ev_old", revision=2, count=2, last_time_us=TIME_US + 20))
            await until(lambda: bench.courier.taken_cursors == [1002, 1003])

        await bench.run(body)

    in_loop(main)


def test_what_lasts_is_sent_again_and_what_ended_unseen_is_resolved(tmp_path: Path) -> None:
    class Standing(FakeCourier):
        """Refreshes every hundredth of a second while anything fires."""

        refreshes = 0

        @property
        def refresh_s(self) -> float | None:
            return 0.01 if self.standing else None

        @property
        def standing(self) -> list[str]:
            assert isinstance(self.memory, AlertBook)
            return list(self.memory.firing)

        async def refresh(self, now_us: int) -> Outcome:
            self.refreshes += bool(self.standing)
            return TAKEN

        def drop(self, event_id: str) -> None:
            assert isinstance(self.memory, AlertBook)
            self.memory.drop(event_id)

    def incident(cursor: int, event_id: str, state: str) -> Item:
        return item(cursor, id=event_id, kind=Kind.INCIDENT, revision=cursor, detail={"state": state})

    async def main() -> None:
        book = AlertBook({}, hold_us=3_600_000_000, drills=False)
        bench = Bench(tmp_path, lambda batch: TAKEN, memory=book)
        courier = Standing(book, lambda batch: TAKEN, takes_many=True)
        upkeep = Upkeep("am", courier, courier, bench.stream, bench.node)
        bench.delivery = Delivery(
            bench.config, courier, bench.stream, bench.file, node=bench.node, upkeep=upkeep
        )

        async def body() -> None:
            bench.publish(incident(1001, "in_1", "open"))
            await until(lambda: courier.refreshes > 3)
            # As an earlier process may have left it: firing, over in the journal, and behind the cursor.
            book.note([incident(1, "in_gone", "open"), incident(2, "in_over", "open")])
            bench.publish(incident(1002, "in_over", "recovered"))
            await until(lambda: courier.standing == ["in_1"])
            bench.publish(incident(1003, "in_1", "recovered"))
            await until(lambda: not courier.standing)
            told = courier.refreshes
            bench.publish(item(1004, id="ev_x", kind=Kind.GAP))
            await until(lambda: 1004 in courier.taken_cursors)
            assert courier.refreshes == told, "nothing lasts: no timer"

        await bench.run(body)

    in_loop(main)


def test_a_sink_at_rest_does_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        bench = Bench(tmp_path, lambda batch: TAKEN)

        async def body() -> None:
            bench.publish(*numbered(1001))
            await until(lambda: bench.delivery.health.cursor == 1001)
            await bench.file.settled(30)
            timers = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]  # no public view
            for _ in range(20):
                await asyncio.sleep(0)
            pending = [timer for timer in timers if not timer.cancelled()]
            # The one that is left is the deadline of this test.
            assert len(pending) == 1

        await bench.run(body)

    in_loop(main)


def test_a_filter_that_matches_nothing_moves_the_cursor_and_saves_it_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAVE_EVERY_S", 0.0)

    async def main() -> None:
        bench = Bench(tmp_path, lambda batch: TAKEN, match=replace(EVERYTHING, min_severity=Severity.FATAL))

        async def body() -> None:
            bench.publish(*(item(c, id=f"ev_{c}", severity=Severity.INFO) for c in range(1001, 1301)))
            await until(lambda: bench.delivery.health.cursor == 1300)
            await bench.file.settled(30)
            found = await bench.file.read()
            assert found is not None
            assert found.cursor == 1300
            assert bench.courier.sent == []

        await bench.run(body)

    in_loop(main)
