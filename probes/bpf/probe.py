"""The kernel log as eBPF hears it: lines at the moment they are printed, whatever reads the log.

What it keeps:

* Every line that the program handed over reaches the sink, oldest first, or what was lost is told as
  `LostRecords` with its exact count: lines for which the ring had no room, whose text could not be
  read, or for which the program was not called. `matched` = `records` + `dropped`, once the ring is empty.
* Origin is what the facility proves where the hook is told it (`fexit/printk_sprint`), and `unknown` at
  `printk:console`, where a process that writes to /dev/kmsg sounds like the kernel. There are no sequence
  numbers either way.
* The stamp of a line is CLOCK_MONOTONIC when it was printed, in `kernel_us` too: not the clock of the
  kernel log, from which it differs by what NTP has slewed since boot.
* It hears from its start on: there is no history, and nothing was lost before.
* A program that cannot be loaded is a state, not an error: `health` and `unavailable` say why. There
  is no second attempt: what a process may do to the kernel does not grow while it runs.

No timer runs. All methods belong to the event loop's thread.
"""

from __future__ import annotations

from collections.abc import Sequence

from probes import kernel
from probes.bpf import native
from probes.bpf.availability import attach
from probes.bpf.counters import Counts
from probes.bpf.descriptors import Loader
from probes.bpf.hooks import CONSOLE
from probes.bpf.printed import ForeignLayout, decode
from probes.bpf.release import CONSOLE_HEARS_ALL, kernel_release, older_than
from probes.bpf.ring_feed import RingFeed
from probes.bpf.self_check import SelfCheck
from probes.bpf.unavailable import State, Unavailable
from probes.health import ProbeHealth
from probes.kmsg import OnChange, may_matter
from probes.line import Batch, KernelLine, LostRecords, Origin, Sink

NAME = "bpf"
_NOT_STARTED = Unavailable(State.NOT_STARTED, "not started", None)
_CLOSED = Unavailable(State.CLOSED, "closed", None)
_DEAF = Unavailable(
    State.DEAF,
    "the kernel log goes on, but the eBPF program is not called",
    "restart xidwatch; if that does not help, start it with --ebpf off and report the kernel's release",
)


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
        self._for_console = self._facility = False
        self._how: str | None = None
        self._feed: RingFeed | None = None
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
        self._for_console = found.hook == CONSOLE.name and older_than(CONSOLE_HEARS_ALL, kernel_release())
        self._facility = found.facility
        self._how = found.note
        try:
            self._feed = RingFeed(found, self._take_all, self._failed)
        except OSError as error:
            self._down = Unavailable(State.FAILED, f"cannot map the ring buffer: {error.strerror}", None)
            return
        self._down = None

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
            cause=down.state if down else None,
            note=self._how,
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
        if self._feed is None or not self._self_check.is_due(now_us):
            return
        self._look()
        called = self._counts.seen + (self._counts.recursion or 0)
        if self._feed is not None:
            self._become(_DEAF if self._self_check.deaf(now_us, seq, called) else None)

    def _take_all(self, records: Sequence[bytes], lost: int) -> None:
        self._note_counts()
        items: list[KernelLine | LostRecords] = []
        foreign = None
        for record in records:
            try:
                self._take(record, items)
            except ForeignLayout as error:
                foreign = error
                break
        if lost:
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
                origin=self._origin(line.facility),
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

    def _origin(self, facility: int | None) -> Origin:
        if facility is None or not self._facility:
            return Origin.UNKNOWN
        return Origin.KERNEL if facility == 0 else Origin.USERSPACE

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
        if self._feed is not None:
            self._feed.look()
        self._note_counts()

    def _note_counts(self) -> None:
        """They outlive the feed: what was heard stays counted when it ends."""
        if self._feed is not None:
            self._counts, self._told_lost = self._feed.counts, self._feed.told_lost

    def _failed(self, reason: str) -> None:
        self._fail(Unavailable(State.FAILED, reason, None))

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
        self._note_counts()
        feed, self._feed = self._feed, None
        if feed is not None:
            feed.close()
