from __future__ import annotations

import asyncio
import json
import os
import re
import selectors
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from probes import kernel
from probes.bpf import native
from probes.bpf.descriptors import Descriptors
from probes.bpf.object_error import ObjectError
from probes.bpf.probe import BpfProbe
from probes.bpf.release import CONSOLE_HEARS_ALL, kernel_release, older_than
from probes.bpf.unavailable import State
from probes.health import ProbeHealth
from probes.kmsg import may_matter
from probes.line import Batch, KernelLine, LostRecords, Origin
from tests.support.bpf import Hear, set_on_first_cpu
from tests.support.descriptors import open_descriptors
from tests.support.listening import Listener

pytestmark = pytest.mark.kmsg
SHARED = Path(__file__).parents[4] / "shared/data"


def write(text: str | bytes) -> None:
    """One line into the real kernel log; a descriptor per line, for the rate limit counts those."""
    fd = os.open("/dev/kmsg", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, (text if isinstance(text, bytes) else text.encode()) + b"\n")
    finally:
        os.close(fd)


def own_lines(listener: Listener, token: str) -> list[KernelLine]:
    return [line for line in listener.lines if token in line.text]


def test_a_line_is_heard_with_the_cpu_task_and_clock_of_whoever_printed_it(hear: Hear, token: str) -> None:
    text = f"NVRM: Xid (PCI:0000:91:00): 79, pid=1, name=x, étude\t{token}"
    before_us, before_wall_us = time.monotonic_ns() // 1000, time.time_ns() // 1000

    async def test(listener: Listener, probe: BpfProbe) -> None:
        write(f"<12>{text}")
        await listener.until(lambda: bool(own_lines(listener, token)))

    [line] = own_lines(hear(test), token)
    after_us = time.monotonic_ns() // 1000
    assert line.text == text
    assert line.origin is Origin.UNKNOWN
    assert line.boot_id == kernel.boot_id() != ""
    assert line.seq is None
    assert line.probe == "bpf"
    assert line.kernel_us is not None
    assert before_us <= line.kernel_us <= line.arrival_us <= after_us
    # The two clocks are read one after the other.
    assert before_wall_us - 1000 <= line.wall_us <= time.time_ns() // 1000
    assert not line.wall_is_estimate
    assert line.task == Path("/proc/self/comm").read_text().strip()
    assert line.cpu is not None
    assert line.cpu < (os.cpu_count() or 0)
    assert line.cgroup_id


def test_lines_that_are_no_concern_stay_in_the_kernel(hear: Hear, token: str) -> None:
    async def test(listener: Listener, probe: BpfProbe) -> None:
        before = probe.health().counters
        write(f"usb 1-1: new device {token}")
        write(f"NVRM: {token}")
        await listener.until(lambda: bool(own_lines(listener, token)))
        after = probe.health().counters
        assert after["seen"] >= before["seen"] + 2
        assert after["matched"] >= before["matched"] + 1

    assert [line.text for line in own_lines(hear(test), token)] == [f"NVRM: {token}"]


def test_what_the_kernel_lets_pass_by_chance_is_counted_and_not_delivered(hear: Hear, token: str) -> None:
    async def test(listener: Listener, probe: BpfProbe) -> None:
        write(f"loop: falling back to buffered I/O {token}")
        write(f"NVRM: {token}")
        await listener.until(lambda: bool(own_lines(listener, token)))
        counters = probe.health().counters
        assert counters["skipped"] >= 1
        assert counters["records"] == counters["skipped"] + len(listener.lines)

    assert [line.text for line in own_lines(hear(test), token)] == [f"NVRM: {token}"]


@pytest.mark.parametrize(
    ("written", "heard"),
    [
        (b"NVRM: \xff\xfe bytes", "NVRM: �� bytes"),
        (b"NVRM: " + b"l" * 194, "NVRM: " + "l" * 194),
        (b"NVRM: " + b"l" * 195, "NVRM: " + "l" * 195),
        (b"NVRM: " + b"l" * 900, "NVRM: " + "l" * 900),
        (b"NVRM", "NVRM"),
        (b"NVRM: two\nlines", "NVRM: two\nlines"),
    ],
    ids=["no UTF-8", "short slot, full", "one byte more", "long", "nothing but the word", "two lines"],
)
def test_any_text_comes_through_as_it_was_written(hear: Hear, written: bytes, heard: str) -> None:
    async def test(listener: Listener, probe: BpfProbe) -> None:
        write(written)
        await listener.until(lambda: heard in listener.texts)
        assert probe.health().counters["cut"] == 0

    hear(test)


def test_every_line_of_the_corpus_that_kmsg_would_deliver_is_heard(hear: Hear, token: str) -> None:
    corpus = SHARED / "kernel_log_corpus.jsonl"
    if not corpus.exists():
        pytest.skip(f"{corpus} is not here")
    grammar = pytest.importorskip("daemon.grammar")
    texts = {json.loads(line)["line"] for line in corpus.read_text().splitlines()}
    bare = {grammar.strip_prefix(text)[0] for text in texts}
    wanted = {text for text in bare if grammar.find(text) is not None and may_matter(text.encode())}
    wanted = {text for text in wanted if len(text.encode()) < 900 and not text.startswith(("<", "\n"))}
    assert len(wanted) > 200
    unheard: set[str] = set()

    async def test(listener: Listener, probe: BpfProbe) -> None:
        # The kernel cuts white space at the end and stops at a NUL, so a text is compared as it prints it.
        for text in wanted:
            write(text)
            await asyncio.sleep(0)
        write(f"NVRM: end {token}")
        await listener.until(lambda: bool(own_lines(listener, token)))
        heard = {text.rstrip() for text in listener.texts}
        unheard.update(text for text in wanted if text.rstrip() not in heard)

    hear(test)
    assert unheard == set()


def test_after_close_nothing_is_delivered_and_the_program_has_left_the_kernel(
    bpf_machine: None, token: str
) -> None:
    open_before = open_descriptors()

    async def main() -> list[Batch]:
        batches: list[Batch] = []
        probe = BpfProbe(batches.append)
        probe.start()
        assert probe.health().hears
        probe.close()
        probe.close()
        write(f"NVRM: {token}")
        await asyncio.sleep(0)
        assert not probe.health().hears
        assert probe.health().reason == "closed"
        return batches

    assert asyncio.run(main()) == []
    assert open_descriptors() == open_before


def test_while_nothing_is_printed_no_timer_wakes_the_loop(bpf_machine: None) -> None:
    waits: list[float | None] = []

    class IdleSelector(selectors.EpollSelector):
        """Tells how long the loop means to wait when it has nothing to do; None is for ever."""

        def select(self, timeout: float | None = None) -> Any:
            if timeout is None or timeout > 0:
                waits.append(timeout)
                loop.call_soon_threadsafe(loop.stop)
            return super().select(timeout)

    loop = asyncio.SelectorEventLoop(IdleSelector())

    async def start() -> BpfProbe:
        probe = BpfProbe(lambda batch: None)
        probe.start()
        return probe

    probe = loop.run_until_complete(start())
    waits.clear()
    loop.run_forever()
    assert waits == [None]
    probe.close()
    loop.close()


def test_a_program_that_cannot_be_loaded_is_a_state_with_its_reason_and_a_hint() -> None:
    def damaged() -> Descriptors:
        raise ObjectError("not an ELF file for BPF")

    async def main() -> None:
        probe = BpfProbe(lambda batch: None, loader=damaged)
        probe.start()
        health = probe.health()
        assert not health.hears
        assert "not an ELF file for BPF" in (health.reason or "")
        assert health.hint
        assert probe.unavailable is not None
        assert probe.unavailable.state is State.OBJECT
        probe.close()

    asyncio.run(main())


def test_records_of_another_layout_end_the_probe_with_a_state(hear: Hear, tmp_path: Path, token: str) -> None:
    # The program stores layout and facility as one number, at the start of a record.
    blob, places = re.subn(rb"\x02\0\xff\xff", b"\x07\0\xff\xff", native.OBJECT.read_bytes())
    assert places == 2
    (tmp_path / native.OBJECT.name).write_bytes(blob)
    changes: list[ProbeHealth] = []

    async def test(listener: Listener, probe: BpfProbe) -> None:
        write(f"NVRM: {token}")
        await listener.until(lambda: bool(changes))
        assert probe.unavailable is not None
        assert probe.unavailable.state is State.FOREIGN_LAYOUT
        assert "layout 7, not 2" in probe.unavailable.reason

    listener = hear(test, loader=lambda: native.load(tmp_path), on_change=changes.append)
    assert listener.lines == []
    assert [change.hears for change in changes] == [False]


@pytest.mark.parametrize(
    ("facility", "origin"),
    [
        ((0, True), Origin.KERNEL),
        ((1, True), Origin.USERSPACE),
        ((0xFFFF, True), Origin.UNKNOWN),
        ((0, False), Origin.UNKNOWN),
    ],
    ids=["the kernel's", "a process's", "not told", "of a loader whose hook does not know it"],
)
def test_the_origin_is_what_the_facility_proves(
    hear: Hear, tmp_path: Path, token: str, facility: tuple[int, bool], origin: Origin
) -> None:
    number, believed = facility
    # The program at printk:console says that it does not know; here it says that it does.
    says = b"\x02\0" + struct.pack("=H", number)
    blob = native.OBJECT.read_bytes().replace(b"\x02\0\xff\xff", says)
    (tmp_path / native.OBJECT.name).write_bytes(blob)

    async def test(listener: Listener, probe: BpfProbe) -> None:
        write(f"NVRM: {token}")
        await listener.until(lambda: any(token in line.text for line in listener.lines))

    listener = hear(test, loader=lambda: replace(native.load(tmp_path), facility=believed))
    assert {line.origin for line in listener.lines if token in line.text} == {origin}


class FakeClock:
    """Time that goes on when a test says so."""

    def __init__(self) -> None:
        self.now_us = 1_000_000

    def monotonic_us(self) -> int:
        return self.now_us

    def wall_us(self) -> int:
        return self.now_us


def test_a_program_that_is_no_longer_called_while_the_log_goes_on_is_deaf_until_it_is_called_again(
    hear: Hear, token: str
) -> None:
    clock = FakeClock()
    changes: list[bool] = []
    links: list[Descriptors] = []

    def loader() -> Descriptors:
        found = native.load()
        links.append(found)
        return found

    async def test(listener: Listener, probe: BpfProbe) -> None:
        def look(seq: int) -> None:
            clock.now_us += 1_000_000
            probe.log_goes_on(seq)

        look(10)
        write(f"no concern {token}")
        look(11)
        assert probe.health().hears
        # Detached behind its back: an open descriptor of another kind takes the number.
        [link] = links[0].links
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(null, link, inheritable=False)
        os.close(null)
        look(12)
        look(13)
        look(14)
        health = probe.health()
        assert not health.hears
        assert "not called" in (health.reason or "")
        assert probe.unavailable is not None
        assert probe.unavailable.state is State.DEAF
        look(14)
        assert not probe.health().hears

    hear(test, loader=loader, clock=clock, on_change=lambda health: changes.append(health.hears))
    assert changes == [False]


def test_a_loss_of_which_no_line_tells_is_told_when_someone_asks(hear: Hear) -> None:
    loaded: list[Descriptors] = []

    def loader() -> Descriptors:
        loaded.append(native.load())
        return loaded[0]

    async def test(listener: Listener, probe: BpfProbe) -> None:
        set_on_first_cpu(loaded[0].counts, [50, 20, 3, 2])
        counters = probe.health().counters
        assert counters["seen"] >= 50
        assert counters["dropped"] == 3
        await listener.until(lambda: any(isinstance(item, LostRecords) for item in listener.items))
        assert probe.health().counters["lost"] == 5

    [lost] = [item for item in hear(test, loader=loader).items if isinstance(item, LostRecords)]
    assert (lost.first_seq, lost.last_seq, lost.count, lost.probe) == (None, None, 5, "bpf")


def test_a_ring_that_cannot_be_mapped_is_a_state(bpf_machine: None) -> None:
    def loader() -> Descriptors:
        return replace(native.load(), ring_bytes=1 << 40)

    async def main() -> None:
        probe = BpfProbe(lambda batch: None, loader=loader)
        probe.start()
        assert "cannot map the ring buffer" in (probe.health().reason or "")
        probe.close()

    open_before = open_descriptors()
    asyncio.run(main())
    assert open_descriptors() == open_before


_GIVE_UP = """
import asyncio, ctypes, json, os, struct, sys
from probes.bpf.probe import BpfProbe
from probes.bpf.release import CONSOLE_HEARS_ALL, kernel_release, older_than

async def main():
    items, heard = [], asyncio.Event()
    def sink(batch):
        items.extend(item.text for item in batch.items)
        if any(sys.argv[1] in text for text in items): heard.set()
    probe = BpfProbe(sink)
    probe.start()
    header = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    assert ctypes.CDLL(None, use_errno=True).capset(header, bytes(24)) == 0
    with open("/dev/kmsg", "w") as log: log.write(f"NVRM: {sys.argv[1]}\\n")
    await asyncio.wait_for(heard.wait(), 30)
    health = probe.health()
    print(json.dumps([health.hears, health.counters["matched"] >= 1, open("/proc/self/status").read()]))
    probe.close()
asyncio.run(main())
"""


def test_once_it_hears_it_needs_no_capability_any_more(bpf_machine: None, token: str) -> None:
    if older_than(CONSOLE_HEARS_ALL, kernel_release()):
        pytest.skip("before Linux 5.19 reading a map needs CAP_BPF too")
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", _GIVE_UP, token]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    assert done.returncode == 0, done.stderr
    hears, counted, status = json.loads(done.stdout)
    assert hears
    assert counted
    assert "CapEff:\t0000000000000000" in status
