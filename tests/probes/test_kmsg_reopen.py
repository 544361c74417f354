from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from probes.health import ProbeHealth
from probes.kmsg import ITEMS_A_TURN, RECORDS_A_TURN, KmsgProbe
from probes.kmsg_access import OpenLog
from probes.line import ResumePoint
from tests.support.listening import Listener, listen

KMSG = Path("/dev/kmsg")
_SO_SNDBUFFORCE = 32  # asm-generic/socket.h


class FakeDevice:
    """Hands out its whole log to whoever opens it, like /dev/kmsg, and can be made to fail."""

    def __init__(self) -> None:
        self.log: list[tuple[int, bytes]] = []
        self.refuse: OSError | None = None
        self._here: socket.socket | None = None

    def open(self, path: Path) -> OpenLog:
        if self.refuse is not None:
            raise self.refuse
        self._here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        there.setblocking(False)
        # The whole log must fit: packets beyond the usual limit of some 270 need CAP_NET_ADMIN.
        self._here.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 2**24)
        for _, record in self.log:
            self._here.send(record)
        return OpenLog(there.detach(), is_device=True)

    def print(self, seq: int, text: str = "NVRM: line") -> None:
        record = f"4,{seq},{seq * 1000},-;{text} {seq}\n".encode()
        self.log.append((seq, record))
        if self._here is not None:
            self._here.send(record)

    def hang_up(self) -> None:
        assert self._here is not None
        self._here.close()
        self._here = None


@pytest.fixture
def device() -> Iterator[FakeDevice]:
    made = FakeDevice()
    yield made
    with contextlib.suppress(AssertionError):
        made.hang_up()


def test_after_a_failure_the_log_is_opened_again_and_no_record_told_twice(device: FakeDevice) -> None:
    device.print(5)
    changes: list[ProbeHealth] = []

    async def test(listener: Listener, probe: KmsgProbe) -> None:
        await listener.until(lambda: len(listener.lines) == 1)
        device.print(6)
        await listener.until(lambda: len(listener.lines) == 2)
        device.hang_up()
        device.print(7, "noise")
        device.print(8)
        await listener.until(lambda: len(listener.lines) == 3)
        assert probe.health().hears
        assert probe.health().counters["reopened"] == 1

    listener = listen(
        Path("/dev/kmsg"),
        test,
        opener=device.open,
        first_retry_s=0.01,
        on_change=changes.append,
    )
    assert [(line.seq, line.wall_is_estimate) for line in listener.lines] == [
        (5, True),
        (6, False),
        (8, True),
    ]
    assert listener.gaps == []
    assert [(change.hears, change.reason) for change in changes] == [
        (False, "/dev/kmsg has come to an end"),
        (True, None),
    ]


def test_records_overwritten_while_the_log_was_down_are_a_gap(device: FakeDevice) -> None:
    async def test(listener: Listener, probe: KmsgProbe) -> None:
        device.print(5)
        await listener.until(lambda: len(listener.lines) == 1)
        device.hang_up()
        device.log.clear()
        device.print(9)
        await listener.until(lambda: len(listener.lines) == 2)

    listener = listen(KMSG, test, opener=device.open, first_retry_s=0.01)
    assert listener.gaps == [(6, 8, 3)]


def test_another_log_in_the_place_of_the_old_one_is_read_from_its_beginning(device: FakeDevice) -> None:
    async def test(listener: Listener, probe: KmsgProbe) -> None:
        device.print(500)
        await listener.until(lambda: len(listener.lines) == 1)
        device.hang_up()
        device.log.clear()
        device.print(1)
        device.print(2)
        await listener.until(lambda: len(listener.lines) == 3)

    listener = listen(KMSG, test, opener=device.open, first_retry_s=0.01)
    assert [line.seq for line in listener.lines] == [500, 1, 2]


def test_a_new_boot_is_read_from_record_zero(device: FakeDevice) -> None:
    async def test(listener: Listener, probe: KmsgProbe) -> None:
        device.print(4)
        await listener.until(lambda: len(listener.lines) == 1)

    listener = listen(KMSG, test, opener=device.open, resume=ResumePoint("another", 9999))
    assert listener.gaps == [(0, 3, 4)]


def test_an_empty_log_is_live_from_its_first_record(device: FakeDevice) -> None:
    async def test(listener: Listener, probe: KmsgProbe) -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert probe.caught_up
        device.print(0)
        await listener.until(lambda: len(listener.lines) == 1)

    [line] = listen(KMSG, test, opener=device.open).lines
    assert not line.wall_is_estimate


def test_a_refused_log_is_a_state_that_ends_when_it_opens(device: FakeDevice) -> None:
    device.refuse = OSError(errno.ENODEV, "No such device")

    async def test(listener: Listener, probe: KmsgProbe) -> None:
        assert (probe.health().hears, probe.health().reason) == (
            False,
            "cannot read /dev/kmsg: no such device",
        )
        device.refuse = None
        device.print(3)
        await listener.until(lambda: len(listener.lines) == 1)
        assert probe.health().hears
        assert probe.health().reason is None

    listen(KMSG, test, opener=device.open, first_retry_s=0.01)


def test_a_storm_is_read_in_turns_between_which_others_run(device: FakeDevice) -> None:
    storm = 2 * ITEMS_A_TURN + 1
    turns: list[int] = []

    async def test(listener: Listener, probe: KmsgProbe) -> None:
        while len(listener.lines) < storm:
            turns.append(len(listener.lines))
            await asyncio.sleep(0)

    for seq in range(storm):
        device.print(seq)
    listener = listen(KMSG, test, opener=device.open)
    assert [line.seq for line in listener.lines] == list(range(storm))
    assert [len(batch.items) for batch in listener.batches] == [ITEMS_A_TURN, ITEMS_A_TURN, 1]
    assert {0, ITEMS_A_TURN, 2 * ITEMS_A_TURN} == set(turns)


def test_records_of_others_are_passed_over_in_longer_turns(device: FakeDevice) -> None:
    noise = RECORDS_A_TURN + 1

    async def test(listener: Listener, probe: KmsgProbe) -> None:
        await listener.until(lambda: probe.health().counters["skipped"] == noise)

    for seq in range(noise):
        device.print(seq, "usb 1-1: new high-speed USB device")
    listener = listen(KMSG, test, opener=device.open)
    assert [batch.last_seq for batch in listener.batches] == [RECORDS_A_TURN - 1, noise - 1]


def test_nothing_is_delivered_after_close(device: FakeDevice) -> None:
    async def test(listener: Listener, probe: KmsgProbe) -> None:
        device.print(1)
        probe.close()
        probe.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert probe.health().reason == "closed"

    assert listen(KMSG, test, opener=device.open).batches == []
