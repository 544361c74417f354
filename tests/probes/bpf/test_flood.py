"""Floods of the real kernel log: what the program matched is delivered or told as lost, to the line."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Mapping

import pytest

from probes.bpf.probe import BpfProbe
from probes.line import LostRecords
from tests.support.bpf import Hear
from tests.support.listening import Listener
from tests.support.waiting import DEADLINE_S

pytestmark = pytest.mark.kmsg

# The rate limit counts ten lines of each open file, so the writer opens it anew for every eight.
_FLOOD = (
    "import os, sys\n"
    "lines, every, token = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]\n"
    "for n in range(lines):\n"
    "    if n % 8 == 0:\n"
    "        if n: os.close(fd)\n"
    "        fd = os.open('/dev/kmsg', os.O_WRONLY)\n"
    "    word = 'NVRM: Xid' if n % every == 0 else 'audit: type=1400'\n"
    "    os.write(fd, f'<6>{word} (PCI:0000:91:00): 31, pid={n}, name=bench, {token}\\n'.encode())\n"
)


def flood(lines: int, every: int, token: str) -> list[str]:
    """The command that writes `lines` lines as fast as it can, each `every`-th an Xid."""
    return [sys.executable, "-S", "-c", _FLOOD, str(lines), str(every), token]


def lost(listener: Listener) -> int:
    return sum(item.count or 0 for item in listener.items if isinstance(item, LostRecords))


def numbers(listener: Listener, token: str) -> list[int]:
    """Which of the flood's lines were delivered, in their order."""
    return [int(text.split("pid=")[1].split(",")[0]) for text in listener.texts if token in text]


def test_no_xid_is_lost_in_a_flood_of_other_lines(hear: Hear, token: str) -> None:
    async def test(listener: Listener, probe: BpfProbe) -> None:
        writer = await asyncio.create_subprocess_exec(*flood(40_000, 100, token))
        assert await asyncio.wait_for(writer.wait(), DEADLINE_S) == 0
        await listener.until(lambda: len(numbers(listener, token)) == 400)
        counters = probe.health().counters
        assert counters["seen"] >= 40_000
        assert counters["dropped"] == counters["unread"] == 0

    listener = hear(test)
    assert numbers(listener, token) == list(range(0, 40_000, 100))
    assert lost(listener) == 0


async def with_an_empty_ring(probe: BpfProbe) -> Mapping[str, int]:
    """The counts, once every line that matched was taken or dropped: others write into the log too."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            counters = probe.health().counters
            if counters["matched"] == counters["records"] + counters["dropped"]:
                return counters
            await asyncio.sleep(0)


def test_when_every_line_is_an_xid_what_was_dropped_is_counted_exactly(hear: Hear, token: str) -> None:
    lines = 20_000

    async def test(listener: Listener, probe: BpfProbe) -> None:
        # The loop does not turn while the flood runs, so nobody empties the ring.
        subprocess.run(flood(lines, 1, token), check=True, timeout=DEADLINE_S)  # noqa: ASYNC221
        await listener.until(lambda: len(numbers(listener, token)) + lost(listener) >= lines)
        # Lines of other processes may have come between, and are in these counts too.
        counters = await with_an_empty_ring(probe)
        assert counters["lost"] == lost(listener) == counters["dropped"] > 0
        assert counters["records"] == counters["skipped"] + len(listener.lines)
        assert lines <= counters["matched"] < lines + 1000

    heard = numbers(hear(test), token)
    # 512 KiB hold 2,048 short records; the oldest stay, and nothing is heard twice or out of order.
    assert heard[:1000] == list(range(1000))
    assert heard == sorted(set(heard))


def test_a_flood_from_both_sides_against_a_running_reader_is_accounted_for(hear: Hear, token: str) -> None:
    lines = 20_000

    async def test(listener: Listener, probe: BpfProbe) -> None:
        writers = [await asyncio.create_subprocess_exec(*flood(lines, 1, token)) for _ in range(2)]
        assert [await asyncio.wait_for(writer.wait(), DEADLINE_S) for writer in writers] == [0, 0]
        await listener.until(lambda: len(numbers(listener, token)) + lost(listener) >= 2 * lines)
        counters = await with_an_empty_ring(probe)
        assert counters["lost"] == lost(listener)

    hear(test)
