"""Xids and SXids from the NVIDIA driver itself: tracepoints that it calls right after it printed the line.

What it keeps:

* A call of the tracepoint reaches the sink as the line that the driver has just printed to the kernel log
  (6 to 19 µs before, on an H200 with driver 580.159.04). It lacks what the tracepoint does not carry: pid,
  name, MIG instance, ` caused by previous Xid`, and the number of an NVSwitch. It comes even when the
  printing is switched off (RmLogonRC).
* Origin is `kernel`: nothing but the driver calls these tracepoints. No sequence numbers, no history.
* What was lost is told as `LostRecords` with its exact count.
* **While it hears, nvidia.ko cannot be unloaded.** It is asked for by name, `let_go` lets go, and `take_up`
  attaches again, for which the driver must be loaded. Nothing is tried by itself.
* Where it cannot hear, `health` and `unavailable` say why.

No timer runs. All methods belong to the event loop's thread.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Sequence

from probes import kernel, procfs
from probes.bpf import driver_loader, surroundings
from probes.bpf.availability import explain, impossible
from probes.bpf.counters import Counts
from probes.bpf.descriptors import Descriptors, Loader
from probes.bpf.driver_report import decode
from probes.bpf.object_error import ObjectError
from probes.bpf.printed import ForeignLayout
from probes.bpf.ring_feed import RingFeed
from probes.bpf.syscalls import BpfError, Step
from probes.bpf.unavailable import LoaderError, State, Unavailable
from probes.health import Check, ProbeHealth, Verdict
from probes.kmsg import OnChange
from probes.line import Batch, KernelLine, LostRecords, Origin, Sink

NAME = "driver"
CHECK = "tracepoint"
"""Name of its check: `driver` is the driver itself."""
SINCE = "575.51.02"
"""The first open kernel modules with the tracepoints."""
_NOT_STARTED = Unavailable(State.NOT_STARTED, "not started", None)
_CLOSED = Unavailable(State.CLOSED, "closed", None)
_RELEASED = Unavailable(
    State.RELEASED, "let go of, so that the driver can be unloaded", "load the driver: it is attached again"
)

Version = Callable[[], str | None]
"""The loaded driver's version; None without a driver."""


def attach(
    loader: Loader = driver_loader.load, version: Version = procfs.driver_version
) -> Descriptors | Unavailable:
    """Running programs, or why there are none. Nothing is left behind in the second case."""
    around = surroundings.look()
    known = impossible(around)
    if known is not None:
        return known
    try:
        return loader()
    except LoaderError as error:
        return error.why
    except (BpfError, ObjectError) as error:
        if isinstance(error, BpfError) and error.step is Step.ATTACH and error.errno == errno.ENOENT:
            return _absent(version())
        return explain(error, around)


def check(loader: Loader = driver_loader.load, version: Version = procfs.driver_version) -> Check:
    """Attach, let go, and say how that went. The driver cannot be unloaded meanwhile: some milliseconds."""
    before = time.monotonic()
    found = attach(loader, version)
    if isinstance(found, Unavailable):
        return Check(CHECK, Verdict.FAIL, f"{found.reason} ({found.state})", found.hint)
    taken_ms = (time.monotonic() - before) * 1000
    found.close()
    return Check(
        CHECK,
        Verdict.OK,
        f"attached to {found.hook} in {taken_ms:.0f} ms; while it is, the driver cannot be unloaded",
    )


class DriverProbe:
    """Hears the driver's tracepoints within the running event loop."""

    def __init__(
        self,
        sink: Sink,
        *,
        on_change: OnChange | None = None,
        clock: kernel.Clock | None = None,
        loader: Loader = driver_loader.load,
        version: Version = procfs.driver_version,
    ) -> None:
        self._sink = sink
        self._on_change = on_change
        self._clock = clock or kernel.SystemClock()
        self._loader = loader
        self._version = version
        self._boot_id = kernel.boot_id()
        self._feed: RingFeed | None = None
        self._down: Unavailable | None = _NOT_STARTED
        self._earlier = Counts()
        self._told_earlier = 0
        self._records = self._cut = self._attached = 0

    def start(self) -> None:
        """Attach and hear from now on. Where that cannot be, `unavailable` says why."""
        self._down = self._attach()

    def let_go(self) -> None:
        """Detach, after what was reported is delivered: the driver can be unloaded. May be called twice."""
        if self._feed is not None:
            self._feed.drain()
        if self._down is not _CLOSED:
            self._stop()
            self._become(_RELEASED)

    def take_up(self) -> None:
        """The driver was loaded: attach again. Nothing is done while it hears, or after `close`."""
        if self._feed is None and self._down is not _CLOSED:
            self._become(self._attach())

    def close(self) -> None:
        """Detach; nothing is delivered afterwards. May be called twice."""
        self._stop()
        self._down = _CLOSED

    @property
    def attached(self) -> bool:
        """True while it hears, and the driver cannot be unloaded."""
        return self._feed is not None

    @property
    def unavailable(self) -> Unavailable | None:
        """Why it does not hear; None while it does."""
        return self._down

    def health(self) -> ProbeHealth:
        """State and counts, as of now."""
        if self._feed is not None:
            self._feed.look()
        down, counts = self._down, self._counts()
        return ProbeHealth(
            NAME,
            hears=down is None,
            live=False,
            reason=down.reason if down else None,
            hint=down.hint if down else None,
            cause=down.state if down else None,
            on_request=down is not None and down.state is State.RELEASED,
            counters={
                "seen": counts.seen,
                "records": self._records,
                "dropped": counts.dropped,
                "recursion": counts.recursion or 0,
                "lost": self._told_earlier + (self._feed.told_lost if self._feed else 0),
                "cut": self._cut,
                "attached": self._attached,
            },
        )

    def _attach(self) -> Unavailable | None:
        found = attach(self._loader, self._version)
        if isinstance(found, Unavailable):
            return found
        try:
            self._feed = RingFeed(found, self._take, self._failed)
        except OSError as error:
            return Unavailable(State.FAILED, f"cannot map the ring buffer: {error.strerror}", None)
        self._attached += 1
        return None

    def _take(self, records: Sequence[bytes], lost: int) -> None:
        items: list[KernelLine | LostRecords] = []
        foreign = None
        for record in records:
            try:
                items.append(self._line(record))
            except ForeignLayout as error:
                foreign = error
                break
        if lost:
            arrival_us, wall_us = self._clock.monotonic_us(), self._clock.wall_us()
            items.append(LostRecords(self._boot_id, None, None, lost, arrival_us, wall_us, NAME))
        if items:
            self._sink(Batch(NAME, self._boot_id, tuple(items), last_seq=None))
        if foreign is not None:
            self._fail(
                Unavailable(
                    State.FOREIGN_LAYOUT, f"the eBPF program hands over {foreign}", "install xidwatch again"
                )
            )

    def _line(self, record: bytes) -> KernelLine:
        report = decode(record)
        self._records += 1
        self._cut += report.cut
        arrival_us = self._clock.monotonic_us()
        return KernelLine(
            text=report.line,
            origin=Origin.KERNEL,
            boot_id=self._boot_id,
            seq=None,
            kernel_us=report.monotonic_us,
            arrival_us=arrival_us,
            wall_us=self._clock.wall_us() - max(arrival_us - report.monotonic_us, 0),
            wall_is_estimate=False,
            probe=NAME,
            cpu=report.cpu,
            task=report.task,
            cgroup_id=report.cgroup_id,
        )

    def _counts(self) -> Counts:
        """Since start, over every time it was attached."""
        return self._earlier + self._feed.counts if self._feed is not None else self._earlier

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
        feed, self._feed = self._feed, None
        if feed is not None:
            feed.close()
            self._earlier += feed.counts
            self._told_earlier += feed.told_lost


def _absent(version: str | None) -> Unavailable:
    if version is None:
        return Unavailable(
            State.NO_DRIVER,
            "no NVIDIA driver is loaded, whose tracepoint could be attached to",
            "load the driver: it is attached then",
        )
    return Unavailable(
        State.TRACEPOINT_ABSENT,
        f"the NVIDIA driver {version} has no tracepoint nvidia:nvidia_dev_xid",
        f"it came with the open kernel modules {SINCE}; kmsg and bpf hear the same Xids without it",
    )
