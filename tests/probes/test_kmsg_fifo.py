from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from probes import kernel
from probes.kmsg import KmsgProbe
from probes.line import Origin, ResumePoint
from tests.support.kernel_log import FakeKernelLog
from tests.support.listening import Listener, listen

Write = Callable[..., None]


def test_facility_zero_is_kernel_origin_and_any_other_a_process(
    kernel_log: FakeKernelLog, xid: Write
) -> None:
    async def test(listener: Listener, probe: KmsgProbe) -> None:
        xid(7)
        xid(8, priority=12)
        await listener.until(lambda: len(listener.lines) == 2)

    listener = listen(kernel_log.path, test)
    assert [(line.seq, line.origin) for line in listener.lines] == [(7, Origin.KERNEL), (8, Origin.USERSPACE)]
    assert [line.kernel_us for line in listener.lines] == [1_000_007, 1_000_008]
    assert not any(line.wall_is_estimate for line in listener.lines)
    assert listener.gaps == []


def test_a_fifo_outlives_its_writers(tmp_path: Path) -> None:
    path = tmp_path / "kmsg"
    os.mkfifo(path)

    async def test(listener: Listener, probe: KmsgProbe) -> None:
        for number in range(1, 3):
            writer = os.open(path, os.O_WRONLY)
            os.write(writer, b"4,%d,9,-;NVRM: line\n" % number)
            os.close(writer)
            await listener.until(lambda: len(listener.lines) == number)  # noqa: B023 (awaited here)
        assert probe.health().hears

    assert [line.seq for line in listen(path, test).lines] == [1, 2]


def test_gaps_are_exact_and_in_their_place_even_between_records_nobody_needs(
    kernel_log: FakeKernelLog, xid: Write, noise: Write
) -> None:
    async def test(listener: Listener, probe: KmsgProbe) -> None:
        xid(100)
        noise(101, 105)
        xid(106)
        xid(200)
        await listener.until(lambda: len(listener.lines) == 3)
        assert probe.health().counters["lost"] == 3 + 93
        assert probe.health().counters["skipped"] == 2

    listener = listen(kernel_log.path, test)
    assert listener.shape == [100, (102, 104, 3), 106, (107, 199, 93), 200]


def test_a_turn_of_only_rejected_records_still_moves_the_resume_point(
    kernel_log: FakeKernelLog, noise: Write
) -> None:
    async def test(listener: Listener, probe: KmsgProbe) -> None:
        noise(41, 42, 43)
        await listener.until(lambda: bool(listener.batches) and listener.batches[-1].last_seq == 43)

    listener = listen(kernel_log.path, test)
    assert listener.items == []


def test_malformed_records_are_counted_and_skipped(kernel_log: FakeKernelLog, xid: Write) -> None:
    async def test(listener: Listener, probe: KmsgProbe) -> None:
        xid(1)
        for garbage in (b"?", b"-1,9,9,-;NVRM: Xid negative\n", b"\xff\x00\n", b"4,x,2,-;NVRM\n", b";\n"):
            kernel_log.write_raw(garbage)
        xid(2)
        await listener.until(lambda: len(listener.lines) == 2)
        assert probe.health().counters["malformed"] == 5
        assert probe.health().hears

    assert listen(kernel_log.path, test).gaps == []


@pytest.mark.parametrize(
    ("resume_seq", "lost"),
    [(99, []), (150, []), (90, [(91, 99, 9)])],
)
def test_a_resume_point_of_this_boot_tells_what_was_lost_and_holds_nothing_back(
    kernel_log: FakeKernelLog,
    xid: Write,
    resume_seq: int,
    lost: list[tuple[int, int, int]],
) -> None:
    first = 100

    async def test(listener: Listener, probe: KmsgProbe) -> None:
        xid(first)
        xid(first + 1)
        await listener.until(lambda: len(listener.lines) == 2)

    listener = listen(kernel_log.path, test, resume=ResumePoint(kernel.boot_id(), resume_seq))
    assert listener.gaps == lost


def test_a_resume_point_of_another_boot_says_nothing_about_a_fifo(
    kernel_log: FakeKernelLog, xid: Write
) -> None:
    async def test(listener: Listener, probe: KmsgProbe) -> None:
        xid(100)
        await listener.until(lambda: len(listener.lines) == 1)

    assert listen(kernel_log.path, test, resume=ResumePoint("another", 5)).gaps == []
