from __future__ import annotations

import asyncio
import json
import os
import selectors
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from probes import kernel
from probes.errors import UserError
from probes.kmsg import KmsgProbe, may_matter
from probes.kmsg_record import parse
from probes.line import Origin, ResumePoint
from tests.support.listening import Listener, listen

KMSG = Path("/dev/kmsg")
SHARED = Path(__file__).parents[3] / "shared/data"


@pytest.fixture
def real_kmsg() -> Iterator[Callable[[str], None]]:
    """Writes one line into the real kernel log; a descriptor per line, for the rate limit counts those."""
    try:
        for mode in (os.O_RDONLY | os.O_NONBLOCK, os.O_WRONLY):
            os.close(os.open(KMSG, mode))
    except OSError as error:
        pytest.skip(f"{KMSG}: {error.strerror}")

    def write(text: str) -> None:
        fd = os.open(KMSG, os.O_WRONLY)
        try:
            os.write(fd, text.encode() + b"\n")
        finally:
            os.close(fd)

    yield write


def newest_seq() -> int:
    """Sequence number of a line written now."""
    token = uuid.uuid4().hex.encode()
    fd = os.open(KMSG, os.O_RDWR | os.O_NONBLOCK)
    try:
        os.lseek(fd, 0, os.SEEK_END)
        os.write(fd, token + b"\n")
        while token not in (data := os.read(fd, 8192)):
            pass
    finally:
        os.close(fd)
    record = parse(data)
    assert record is not None
    return record.seq


@pytest.mark.kmsg
def test_a_line_in_the_real_log_is_heard_live_and_known_to_be_written_by_a_process(
    real_kmsg: Callable[[str], None],
) -> None:
    token = uuid.uuid4().hex

    async def test(listener: Listener, probe: KmsgProbe) -> None:
        await listener.until(lambda: probe.caught_up)
        real_kmsg(f"xidwatch-drill: {token}\tétude")
        await listener.until(lambda: any(token in text for text in listener.texts))

    before = time.time_ns() // 1000
    listener = listen(KMSG, test)
    [line] = [line for line in listener.lines if token in line.text]
    assert line.text == f"xidwatch-drill: {token}\tétude"
    assert line.origin is Origin.USERSPACE
    assert line.boot_id == kernel.boot_id() != ""
    assert not line.wall_is_estimate
    assert before <= line.wall_us <= time.time_ns() // 1000
    assert line.seq in listener.shape


@pytest.mark.kmsg
def test_what_was_in_the_log_before_the_start_is_history_with_an_estimated_time(
    real_kmsg: Callable[[str], None],
) -> None:
    token = uuid.uuid4().hex
    before = time.time_ns() // 1000
    real_kmsg(f"xidwatch-drill: {token}")
    after = time.time_ns() // 1000

    async def test(listener: Listener, probe: KmsgProbe) -> None:
        await listener.until(lambda: any(token in text for text in listener.texts))

    listener = listen(KMSG, test)
    [line] = [line for line in listener.lines if token in line.text]
    assert line.wall_is_estimate
    # local_clock() and CLOCK_MONOTONIC differ by what NTP has slewed since boot.
    slew_us = 10_000_000
    assert before - slew_us < line.wall_us < after + slew_us


@pytest.mark.kmsg
def test_the_newest_resume_point_loses_nothing_and_still_gives_the_whole_log(
    real_kmsg: Callable[[str], None],
) -> None:
    token = uuid.uuid4().hex
    real_kmsg(f"xidwatch-drill: {token}")
    resume = ResumePoint(kernel.boot_id(), newest_seq())

    async def test(listener: Listener, probe: KmsgProbe) -> None:
        await listener.until(lambda: any(token in text for text in listener.texts))

    listener = listen(KMSG, test, resume=resume)
    [line] = [line for line in listener.lines if token in line.text]
    assert line.seq is not None
    assert line.seq < resume.seq
    assert isinstance(listener.shape[0], int)  # not a gap


@pytest.mark.kmsg
def test_records_overwritten_while_the_reader_slept_are_counted_exactly(
    real_kmsg: Callable[[str], None],
) -> None:
    size = kernel.klogctl(kernel.SyslogAction.SIZE_BUFFER)
    if size > 2**24:
        pytest.skip(f"a kernel log of {size} bytes takes too long to overrun")
    try:
        setting = Path("/proc/sys/kernel/printk_devkmsg")
        old = setting.read_text()
        setting.write_text("on\n")  # the kernel wants the newline
    except OSError as error:
        pytest.skip(f"printk_devkmsg cannot be set: {error.strerror}")
    token = uuid.uuid4().hex
    flood = (
        "import os, sys\n"
        "fd = os.open('/dev/kmsg', os.O_WRONLY)\n"
        "for n in range(int(sys.argv[1])): os.write(fd, b'flood %d ' % n + b'.' * 900 + b'\\n')\n"
        "os.close(fd)\n"
    )

    async def test(listener: Listener, probe: KmsgProbe) -> None:
        await listener.until(lambda: probe.caught_up)
        # The loop does not turn while the flood runs, so the reader stands still.
        subprocess.run([sys.executable, "-c", flood, str(size // 256)], check=True)  # noqa: ASYNC221
        real_kmsg(f"xidwatch-drill: {token}")
        await listener.until(lambda: any(token in text for text in listener.texts))
        counters = probe.health().counters
        assert counters["overruns"] >= 1
        assert counters["lost"] == sum(count for _, _, count in listener.gaps)

    try:
        listener = listen(KMSG, test)
    finally:
        setting.write_text(old)
    (first, last, count), *_ = listener.gaps
    assert count == last - first + 1 > 0
    place = listener.shape.index((first, last, count))
    assert all(seq < first for seq in listener.shape[:place] if isinstance(seq, int))
    assert all(seq > last for seq in listener.shape[place + 1 :] if isinstance(seq, int))


class IdleSelector(selectors.EpollSelector):
    """Tells how long the loop means to wait when it has nothing to do; None is for ever."""

    def __init__(self, waits: Callable[[float | None], None]) -> None:
        super().__init__()
        self._waits = waits

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None or timeout > 0:
            self._waits(timeout)
        return super().select(timeout)


@pytest.mark.kmsg
def test_while_the_log_is_heard_no_timer_wakes_the_loop(real_kmsg: Callable[[str], None]) -> None:
    waits: list[float | None] = []

    def on_wait(timeout: float | None) -> None:
        waits.append(timeout)
        loop.call_soon_threadsafe(loop.stop)

    loop = asyncio.SelectorEventLoop(IdleSelector(on_wait))

    async def start() -> KmsgProbe:
        probe = KmsgProbe(KMSG, lambda batch: None)
        probe.start()
        return probe

    probe = loop.run_until_complete(start())
    while not probe.caught_up:
        loop.run_forever()
    waits.clear()
    loop.run_forever()
    assert waits == [None]
    probe.close()
    loop.close()


@pytest.mark.parametrize("kind", ["file", "directory", "missing", "other device"])
def test_a_path_that_can_never_be_a_kernel_log_is_the_users_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "log"
    if kind == "file":
        path.write_text("4,1,2,-;NVRM: Xid\n")
    elif kind == "directory":
        path.mkdir()
    elif kind == "other device":
        path = Path("/dev/null")

    async def test(listener: Listener, probe: KmsgProbe) -> None:
        raise AssertionError("started")

    with pytest.raises(UserError, match=str(path)) as raised:
        listen(path, test)
    assert raised.value.hint


def test_the_filter_passes_every_line_the_grammar_has_a_use_for() -> None:
    grammar = pytest.importorskip("daemon.grammar")
    corpus = SHARED / "kernel_log_corpus.jsonl"
    if not corpus.exists():
        pytest.skip(f"{corpus} is not here")
    lines = [json.loads(line)["line"] for line in corpus.read_text().splitlines()]
    wanted = [text for line in lines if grammar.find(text := grammar.strip_prefix(line)[0]) is not None]
    assert len(wanted) > 200
    assert [text for text in wanted if not may_matter(text.encode())] == []


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("NVRM: GPU at PCI:0000:00:06: GPU-11111111-2222-3333-4444-555555555555", True),
        ("nvidia-nvswitch3: SXid (PCI:0000:a9:00.0): 20034, Fatal, Link 30 LTSSM Fault Up (First)", True),
        ("xidwatch-drill: xid (PCI:0000:00:00): 79", True),
        ("GPU 0000:91:00.0: GPU has fallen off the bus.", True),
        ("usb 1-1: new high-speed USB device", False),
    ],
)
def test_the_filter_knows_the_words(text: str, passes: bool) -> None:
    assert may_matter(f"4,1,2,-;{text}\n".encode()) is passes
