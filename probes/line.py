"""What a probe hands on: kernel log records, and word of the ones that were lost.

A probe reads one source of kernel log text and calls its sink with a `Batch`, in the order of
the log. It decides nothing about what a line means. Two clocks appear here:

* *kernel time*: the `local_clock()` stamp of the record in microseconds since boot. It stops in
  suspend, is not slewed by NTP, and may be a millisecond out of order.
* *arrival time*: CLOCK_MONOTONIC in microseconds when the probe read the record. A replay has no
  arrival of its own and sets it to the kernel time, so that everything downstream runs as live.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Origin(StrEnum):
    """Who printed a record, as far as its source can prove."""

    KERNEL = "kernel"
    """syslog facility 0, which the kernel refuses to user processes."""
    USERSPACE = "userspace"
    """any other facility: a process wrote it into /dev/kmsg."""
    UNKNOWN = "unknown"
    """the source carries no facility (eBPF, a saved log), or the text was glued to another line."""


@dataclass(frozen=True, slots=True)
class KernelLine:
    """One record of the kernel log as one probe saw it."""

    text: str
    """The message: escapes decoded, no dictionary, no trailing newline; may hold embedded newlines."""
    origin: Origin
    boot_id: str
    """/proc/sys/kernel/random/boot_id of the boot that printed it; "" when the source cannot say."""
    seq: int | None
    """kmsg sequence number; None from a source that has none (klogctl, eBPF, a saved log)."""
    kernel_us: int | None
    """Kernel time in µs since boot; None when the source has no stamp."""
    arrival_us: int
    """Arrival time in µs of CLOCK_MONOTONIC (see the module's docstring)."""
    wall_us: int
    """Wall clock of the record in µs since the Unix epoch."""
    wall_is_estimate: bool
    """True when `wall_us` was computed from the kernel time of an old record, not read at arrival."""
    probe: str
    """Name of the probe: `kmsg`, `klog`, `bpf`, `driver`, `replay`."""
    printed_us: int | None = None
    """CLOCK_MONOTONIC in µs when it was printed; only eBPF knows it."""
    cpu: int | None = None
    """CPU that printed the record; only eBPF knows it."""
    task: str | None = None
    """Task that was running when it was printed. Not the culprit: the driver prints from irq threads."""
    cgroup_id: int | None = None
    """cgroup v2 id of that task; only eBPF knows it."""


@dataclass(frozen=True, slots=True)
class LostRecords:
    """Kernel records that no one read before they were overwritten, or of which nothing is known."""

    boot_id: str
    first_seq: int | None
    """First lost sequence number; None when the source has no sequence numbers."""
    last_seq: int | None
    """Last lost sequence number, inclusive."""
    count: int | None
    """How many records; None when it cannot be known."""
    arrival_us: int
    wall_us: int
    probe: str


@dataclass(frozen=True, slots=True)
class Batch:
    """What one turn of a probe read, oldest first."""

    probe: str
    boot_id: str
    items: Sequence[KernelLine | LostRecords]
    """Only records that may matter: a probe drops what its pre-filter rejects."""
    last_seq: int | None
    """Sequence number of the last record examined, rejected ones included; None without sequence numbers."""


@dataclass(frozen=True, slots=True)
class Reached:
    """How far a reader of the kernel log has come."""

    last_us: int | None
    """Kernel time in µs of the last record read, whatever it says; None before the first."""
    end_us: int | None
    """Arrival time in µs at which it last found nothing more to read; None before the first time."""


Sink = Callable[[Batch], None]
"""Called in the event loop; must not block and must not raise."""


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where reading goes on after a restart: every record up to `seq` of this boot is in the journal."""

    boot_id: str
    seq: int
