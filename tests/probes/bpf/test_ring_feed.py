"""A program's ring in an event loop: the real programs for the driver, called a known number of times."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace

import pytest

from probes.bpf.descriptors import Descriptors
from probes.bpf.ring_feed import RECORDS_A_TURN, RingFeed
from tests.support.bpf import set_on_first_cpu
from tests.support.descriptors import open_descriptors
from tests.support.driver_calls import DriverCalls


class Fed:
    """What a feed was taken from, by turns."""

    def __init__(self) -> None:
        self.turns: list[tuple[int, int]] = []
        self.failures: list[str] = []

    def take(self, records: Sequence[bytes], lost: int) -> None:
        self.turns.append((len(records), lost))


@pytest.fixture
def driver(bpf_machine: None) -> Iterator[DriverCalls]:
    calls = DriverCalls()
    try:
        yield calls
    finally:
        calls.close()


def feed(driver: DriverCalls, test: Callable[[RingFeed, Fed, Descriptors], Awaitable[None]]) -> Fed:
    async def main() -> Fed:
        fed, descriptors = Fed(), driver.load()
        feed = RingFeed(descriptors, fed.take, fed.failures.append)
        try:
            await test(feed, fed, descriptors)
        finally:
            feed.close()
        return fed

    return asyncio.run(main())


def report(driver: DriverCalls, times: int) -> None:
    for _ in range(times):
        driver.call("nvidia_dev_xid", "0000:91:00.0", 31, b"x")


def test_a_turn_takes_its_share_and_a_drain_all_of_it(driver: DriverCalls) -> None:
    async def test(feed: RingFeed, fed: Fed, descriptors: Descriptors) -> None:
        report(driver, RECORDS_A_TURN * 3 + 5)
        feed.turn()
        assert fed.turns == [(RECORDS_A_TURN, 0)]
        feed.drain()
        assert sum(records for records, _ in fed.turns) == RECORDS_A_TURN * 3 + 5
        feed.turn()
        assert len(fed.turns) == 4

    feed(driver, test)


def test_the_event_loop_feeds_until_it_is_closed(driver: DriverCalls) -> None:
    async def test(feed: RingFeed, fed: Fed, descriptors: Descriptors) -> None:
        report(driver, 3)
        async with asyncio.timeout(20):
            while not fed.turns:
                await asyncio.sleep(0)
        assert fed.turns == [(3, 0)]
        report(driver, 1)
        feed.close()
        feed.close()
        feed.turn()
        feed.look()
        await asyncio.sleep(0)
        assert fed.turns == [(3, 0)]

    before = open_descriptors()
    feed(driver, test)
    assert open_descriptors() == before


def test_a_loss_is_told_once_with_the_records_of_that_turn_or_alone(driver: DriverCalls) -> None:
    async def test(feed: RingFeed, fed: Fed, descriptors: Descriptors) -> None:
        set_on_first_cpu(descriptors.counts, [9, 9, 2, 1])
        feed.look()
        assert feed.told_lost == 0
        await asyncio.sleep(0)
        assert fed.turns == [(0, 3)]
        set_on_first_cpu(descriptors.counts, [9, 9, 6, 1])
        report(driver, 1)
        feed.turn()
        feed.turn()
        assert fed.turns == [(0, 3), (1, 4)]
        assert feed.told_lost == 7

    feed(driver, test)


def test_counts_that_are_gone_are_a_failure_with_its_reason(driver: DriverCalls) -> None:
    async def test(feed: RingFeed, fed: Fed, descriptors: Descriptors) -> None:
        # Behind its back another kind of descriptor takes the number.
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(null, descriptors.counts, inheritable=False)
        os.close(null)
        report(driver, 1)
        feed.turn()
        assert len(fed.failures) == 1
        assert "counts are gone" in fed.failures[0]

    feed(driver, test)


def test_a_ring_that_cannot_be_mapped_leaves_nothing_behind(driver: DriverCalls) -> None:
    async def main() -> None:
        descriptors = replace(driver.load(), ring_bytes=1 << 40)
        with pytest.raises(OSError, match=r"."):
            RingFeed(descriptors, lambda records, lost: None, lambda reason: None)

    before = open_descriptors()
    asyncio.run(main())
    assert open_descriptors() == before
