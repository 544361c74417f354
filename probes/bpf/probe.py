"""The kernel log as eBPF hears it: lines at the moment they are printed, whatever reads the log.

What it keeps:

* Every line that the program handed over reaches the sink, oldest first, or what was lost is told as
  `LostRecords` with its exact count: lines for which the ring had no room, whose text could not be
  read, or for which the program was not called. `matched` = `records` + `dropped`, once the ring is empty.
* Origin is always `unknown`: at `printk:console` a line has no facility, so a process that writes to
  /dev/kmsg sounds like the kernel. There are no sequence numbers either.
* The stamp of a line is CLOCK_MONOTONIC when it was printed, in `kernel_us` too: not the clock of the
  kernel log, from which it differs by what NTP has slewed since boot.
* It hears from its start on: there is no history, and nothing was lost before.
* A program that cannot be loaded is a state, not an error: `health` and `unavailable` say why. There
  is no second attempt: what a process may do to the kernel does not grow while it runs.

No timer runs. All methods belong to the event loop's thread.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from probes import kernel
from probes.bpf import native
from probes.bpf.availability import State, Unavailable, attach
from probes.bpf.counters import Counters, Counts
from probes.bpf.descriptors import Descriptors, Loader
from probes.bpf.printed import ForeignLayout, decode
from probes.bpf.release import CONSOLE_HEARS_ALL, kernel_release, older_than
from probes.bpf.ring import RingBuffer
from probes.bpf.self_check import SelfCheck
from probes.bpf.syscalls import BpfError
from probes.health import ProbeHealth
from probes.kmsg import OnChange, may_matter
from probes.line import Batch, KernelLine, LostRecords, Origin, Sink

NAME = "bpf"
RECORDS_A_TURN = 64
"""Working one off costs the sink 50 to 100 µs."""
_NOT_STARTED = Unavailable(State.NOT_STARTED, "not started", None)
_CLOSED = Unavailable(State.CLOSED, "closed", None)
_DEAF = Unavailable(
    State.DEAF,
    "the kernel log goes on, but the eBPF program is not called",
    "restart xidwatch; if that does not help, start it with --ebpf off and report the kernel's release",
)


@dataclass(frozen=True, slots=True)
class _Running:
    descriptors: Descriptors
    ring: RingBuffer
    counters: Counters
    loop: asyncio.AbstractEventLoop


class BpfProbe:
    """Hears the kernel log through an eBPF program, within the running event loop."""

    def __init__(
        self,
        sink: Sink,
        *,
        on_change: OnChange | None = None,
        clock: kernel.Clock | None = None,
        loader: Loader = native.load,
    ) -> None:
        self._sink = sink
        self._on_change = on_change
        self._clock = clock or kernel.SystemClock()
        self._loader = loader
        self._boot_id = kernel.boot_id()
        self._for_console = older_than(CONSOLE_HEARS_ALL, kernel_release())
        self._running: _Running | None = None
        self._down: Unavailable | None = _NOT_STARTED
        self._counts = Counts()
        self._told_lost = 0
        self._records = self._skipped = self._cut = 0
        self._self_check = SelfCheck()

    def start(self) -> None:
        """Load the program and hear from now on. Where that cannot be, `unavailable` says why."""
        found = attach(self._loader)
        if isinstance(found, Unavailable):
            self._down = found
            return
        try:
            ring = RingBuffer(found.ring, found.ring_bytes)
        except OSError as error:
            found.close()
            self._down = Unavailable(State.FAILED, f"cannot map the ring buffer: {error.strerror}", None)
            return
        self._running = running = _Running(found, ring, Counters(found), asyncio.get_running_loop())
        self._down = None
        running.loop.add_reader(ring.fileno(), self._turn)

    def close(self) -> None:
        """Detach the program; nothing is delivered afterwards. May be called twice."""
        self._stop()
        self._down = _CLOSED

    @property
    def unavailable(self) -> Unavailable | None:
        """Why it does not hear; None while it does."""
        return self._down

    def health(self) -> ProbeHealth:
        """State and counts, as of now."""
        self._look()
        down, counts = self._down, self._counts
        return ProbeHealth(
            NAME,
            hears=down is None,
            live=True,
            reason=down.reason if down else None,
            hint=down.hint if down else None,
            counters={
                "seen": counts.seen,
                "matched": counts.matched,
                "records": self._records,
                "skipped": self._skipped,
                "dropped": counts.dropped,
                "unread": counts.unread,
                "recursion": counts.recursion or 0,
                "lost": self._told_lost,
                "cut": self._cut,
            },
        )

    def log_goes_on(self, seq: int) -> None:
        """Passive self-check: another source, which had caught up with the log, has read up to `seq`.

        Call it as often as you like; it looks once a second. When the log goes on and the program is
        not called, `health` says so until it is.
        """
        now_us = self._clock.monotonic_us()
        if self._running is None or not self._self_check.is_due(now_us):
            return
        self._look()
        called = self._counts.seen + (self._counts.recursion or 0)
        if self._running is not None:
            self._become(_DEAF if self._self_check.deaf(now_us, seq, called) else None)

    def _turn(self) -> None:
        """Take a turn's share and deliver it. The descriptor stays readable while there is more."""
        running = self._running
        if running is None:
            return
        items: list[KernelLine | LostRecords] = []
        foreign = None
        for record in running.ring.read(RECORDS_A_TURN):
            try:
                self._take(record, items)
            except ForeignLayout as error:
                foreign = error
                break
        self._read_counts()
        lost = self._counts.lost - self._told_lost
        if lost > 0:
            self._told_lost += lost
            items.append(self._gap(lost))
        if items:
            self._sink(Batch(NAME, self._boot_id, tuple(items), last_seq=None))
        if foreign is not None:
            self._fail(
                Unavailable(
                    State.FOREIGN_LAYOUT,
                    f"the eBPF program hands over {foreign}",
                    "build the program with the xid.h of this version of xidwatch",
                )
            )

    def _take(self, record: bytes, items: list[KernelLine | LostRecords]) -> None:
        line = decode(record, for_console=self._for_console)
        self._records += 1
        if not may_matter(line.text.encode("utf-8")):
            self._skipped += 1
            return
        self._cut += line.cut
        arrival_us = self._clock.monotonic_us()
        items.append(
            KernelLine(
                text=line.text,
                origin=Origin.UNKNOWN,
                boot_id=self._boot_id,
                seq=None,
                kernel_us=line.monotonic_us,
                arrival_us=arrival_us,
                wall_us=self._clock.wall_us() - max(arrival_us - line.monotonic_us, 0),
                wall_is_estimate=False,
                probe=NAME,
                cpu=line.cpu,
                task=line.task,
                cgroup_id=line.cgroup_id,
            )
        )

    def _gap(self, count: int) -> LostRecords:
        return LostRecords(
            boot_id=self._boot_id,
            first_seq=None,
            last_seq=None,
            count=count,
            arrival_us=self._clock.monotonic_us(),
            wall_us=self._clock.wall_us(),
            probe=NAME,
        )

    def _look(self) -> None:
        """Read the counts outside of a turn. A loss without a line would wake no one: it gets its turn."""
        self._read_counts()
        if self._running is not None and self._counts.lost > self._told_lost:
            self._running.loop.call_soon(self._turn)

    def _read_counts(self) -> None:
        if self._running is None:
            return
        try:
            self._counts = self._running.counters.read()
        except BpfError as error:
            self._fail(Unavailable(State.FAILED, f"the program's counts are gone: {error.strerror}", None))

    def _fail(self, why: Unavailable) -> None:
        self._stop()
        self._become(why)

    def _become(self, down: Unavailable | None) -> None:
        if down == self._down:
            return
        self._down = down
        if self._on_change is not None:
            self._on_change(self.health())

    def _stop(self) -> None:
        running = self._running
        if running is None:
            return
        self._running = None
        running.loop.remove_reader(running.ring.fileno())
        running.ring.close()
        running.descriptors.close()
