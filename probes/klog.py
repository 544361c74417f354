r"""The kernel log through syslog(2), where /dev/kmsg is closed: the weaker source.

`SYSLOG_ACTION_READ_ALL` gives the whole log as text, `<PRI>[SECONDS.MICROS] TEXT\n` for each line.
What is kept:

* The history, then every line that is in the log at one of the looks, once each and in order. A look
  is taken every second, less often where the log is so large that looking would cost more than 2 %
  of a CPU. A line is heard that much later, and the loop never waits for it.
* There are no sequence numbers: a line is known by its kernel time and its text. When the last line
  of one look is missing from the next, an unknown number of records is lost: overwritten, or hidden
  by `dmesg --clear`. Without `printk.time` the end of the log takes the place of the time.
* The facility is shown, so origin is proved as by /dev/kmsg, and `look_for` can tell who printed
  what another probe heard without it.
* A record of several lines comes as several lines, each with the same priority, time and caller in front;
  that is how the kernel prints it here. What a process may put into a record of the kernel, a newline and
  the rest of it, then stands at the start of a line. So a line with the same in front as the line before it
  has the origin `unknown`, also where it is a record of its own: of the same microsecond, or without a time.
* A log that may not be read is a state, not an error: `health` says why, and it is tried again with
  growing pauses.

All methods belong to the event loop's thread; the log itself is read in another.
"""

from __future__ import annotations

import asyncio
import ctypes
import mmap
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from probes import kernel
from probes.health import Check, ProbeHealth, Verdict
from probes.kernel import SyslogAction
from probes.klog_access import refusal
from probes.kmsg import ITEMS_A_TURN, RECORDS_A_TURN, OnChange, may_matter
from probes.kmsg_access import Refusal
from probes.line import Batch, KernelLine, LostRecords, Origin, Sink

NAME = "klog"
LOOK_EVERY_S = 1.0
_SHARE_OF_CPU = 0.02
_FIRST_RETRY_S = 0.5
_LONGEST_RETRY_S = 60.0
_MARK_BYTES = 4096
# The log counts its text alone. Here each line has a prefix of up to 48 bytes (PREFIX_MAX), and the
# log has room for one record in 32 bytes (PRB_AVGBITS): at most 2.5 times its size.
_BYTES_FOR_EACH = 4
_TIME = rb"\[ *(\d{1,9})\.(\d{6})\](?:\[ *[TC]\d+\])? "
_LINE = re.compile(rb"<(\d{1,4})>" + _TIME)
_LINE_WITHOUT_TIME = re.compile(rb"<(\d{1,4})>()()")
_NEWLINE = 10
_UNTIMED_LINE = re.compile(rb"\n(?!<\d{1,4}>\[ *\d{1,9}\.\d{6}\]|\Z)")
"""Its end of a line in front is what makes the search fast: alternatives there take twenty times as long."""
_WEAKER = "it looks once a second and sees no sequence numbers: open /dev/kmsg, or let eBPF run, to hear more"
_NOT_STARTED = Refusal("not started", None)
_CLOSED = Refusal("closed", None)

ReadLog = Callable[[], bytes]
"""The whole log as text. Raises OSError."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of the log as syslog(2) shows it."""

    origin: Origin
    kernel_us: int | None
    """Kernel time in µs since boot; None when the log is kept without (`printk.time=0`)."""
    text: str


def read_log() -> bytes:
    """The log, newest line last. Raises OSError: EPERM without the right, ENOSYS without a log."""
    size = kernel.klogctl(SyslogAction.SIZE_BUFFER) * _BYTES_FOR_EACH
    libc = ctypes.CDLL(None, use_errno=True)
    # Anonymous memory: only what the kernel writes is ever touched.
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        buffer = (ctypes.c_char * size).from_buffer(memory)
        length: int = libc.klogctl(int(SyslogAction.READ_ALL), buffer, size)
        del buffer
        if length < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return memory[:length]


def has_times(log: bytes) -> bool:
    """True when each line has its time: the kernel shows it on all of them or on none, and a text can imitate
    one."""
    if not log:
        return True
    return _LINE.match(log) is not None and _UNTIMED_LINE.search(log) is None


def parse(line: bytes, before: bytes = b"", *, timed: bool = True) -> LogLine | None:
    """The line in these bytes, without its newline; None when it does not begin as lines of this log do.

    `before` is the line before it: what may go on with the record of that one has no proved origin.
    `timed`: what `has_times` says of the log.
    """
    prefix = (_LINE if timed else _LINE_WITHOUT_TIME).match(line)
    if prefix is None:
        return None
    origin = Origin.KERNEL if int(prefix[1]) >> 3 == 0 else Origin.USERSPACE
    if origin is Origin.KERNEL and before.startswith(prefix[0]):
        origin = Origin.UNKNOWN
    return LogLine(
        origin=origin,
        kernel_us=int(prefix[2]) * 1_000_000 + int(prefix[3]) if timed else None,
        text=line[prefix.end() :].decode("utf-8", "replace"),
    )


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the log showed of some lines."""

    lines: Sequence[LogLine]
    """Oldest first."""
    newest_us: int | None
    """Kernel time in µs of the newest line of the whole log; None when it has no time, or there is none."""


def look_for(texts: Collection[str], read: ReadLog = read_log) -> Look:
    """One look at the log: every line in it that is exactly one of `texts`, with its origin.

    Of a text of several lines the first one counts. Takes 2 ms for a log of 128 KiB, nearly all of it in the
    kernel. Raises OSError.
    """
    wanted = {text.partition("\n")[0] for text in texts}
    # Up to the first byte that was no UTF-8, which cannot be told any more.
    known = [text.partition("\N{REPLACEMENT CHARACTER}")[0].encode("utf-8", "replace") for text in wanted]
    log = read()
    timed = has_times(log)
    starts = sorted({start for text in known for start in _starts_of(log, text)})
    found = [parse(_line_at(log, start), _line_before(log, start), timed=timed) for start in starts]
    newest = parse(_last(log), timed=timed)
    return Look(
        [line for line in found if line is not None and line.text in wanted],
        newest.kernel_us if newest is not None else None,
    )


def check() -> Check:
    """Whether syslog(2) shows the log, for `xidwatch doctor`."""
    try:
        size = len(read_log())
    except OSError as error:
        why = refusal(error, kernel.log_access())
        return Check(NAME, Verdict.FAIL, why.reason, why.hint)
    return Check(NAME, Verdict.OK, f"syslog(2) shows {size // 1024} KiB of log; {_WEAKER.partition(':')[0]}")


class KlogProbe:
    """Looks at the kernel log again and again, within the running event loop."""

    def __init__(
        self,
        sink: Sink,
        *,
        on_change: OnChange | None = None,
        clock: kernel.Clock | None = None,
        read: ReadLog = read_log,
        look_every_s: float = LOOK_EVERY_S,
        first_retry_s: float = _FIRST_RETRY_S,
    ) -> None:
        self._sink = sink
        self._on_change = on_change
        self._clock = clock or kernel.SystemClock()
        self._read = read
        self._look_every_s = look_every_s
        self._first_retry_s = first_retry_s
        self._boot_id = kernel.boot_id()
        self._task: asyncio.Task[None] | None = None
        self._down: Refusal | None = _NOT_STARTED
        self._looked = asyncio.Event()
        self._mark: bytes | None = None
        self._looked_us = 0
        self._looks = self._records = self._skipped = self._malformed = self._gaps = 0

    def start(self) -> None:
        """Read the log from the next turn of the loop on."""
        self._task = asyncio.get_running_loop().create_task(self._listen(), name=NAME)

    def close(self) -> None:
        """Stop looking; nothing is delivered afterwards. May be called twice."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._down = _CLOSED

    def health(self) -> ProbeHealth:
        """State and counts, as of now; while it hears, the hint says that other sources hear more."""
        down = self._down
        return ProbeHealth(
            NAME,
            hears=down is None,
            live=True,
            reason=down.reason if down else None,
            hint=down.hint if down else _WEAKER,
            note=None if down else _WEAKER.partition(":")[0],
            counters={
                "looks": self._looks,
                "records": self._records,
                "skipped": self._skipped,
                "malformed": self._malformed,
                "gaps": self._gaps,
            },
        )

    async def looked(self) -> None:
        """Wait until it is known whether the log may be read."""
        await self._looked.wait()

    @property
    def caught_up(self) -> bool:
        """True once everything that was in the log at the start has been delivered."""
        return self._down is None

    async def _listen(self) -> None:
        retry_s = self._first_retry_s
        while True:
            try:
                log, cost_s = await asyncio.to_thread(self._timed_read)
            except OSError as error:
                self._become(refusal(error, kernel.log_access()))
                await asyncio.sleep(retry_s)
                retry_s = min(retry_s * 2, _LONGEST_RETRY_S)
                continue
            retry_s = self._first_retry_s
            await self._deliver(log)
            self._become(None)
            await asyncio.sleep(max(self._look_every_s, cost_s / _SHARE_OF_CPU))

    def _timed_read(self) -> tuple[bytes, float]:
        """The log, and the CPU time of reading it; runs in another thread."""
        before = time.thread_time()
        return self._read(), time.thread_time() - before

    async def _deliver(self, log: bytes) -> None:
        """Hand on what is new in `log`, letting the loop turn in between."""
        since_us, self._looked_us = self._looked_us, self._clock.monotonic_us()
        history = self._mark is None
        timed = has_times(log)
        before = _last(self._mark or b"")
        news, gap = self._news(log, timed)
        if gap:
            before = b""  # the log begins with a whole record
        items: list[KernelLine | LostRecords] = [self._gap()] if gap else []
        for examined, line in enumerate(_lines(news), 1):
            if self._matters(line):
                self._take(parse(line, before, timed=timed), history, since_us, items)
            before = line
            if len(items) >= ITEMS_A_TURN or examined % RECORDS_A_TURN == 0:
                self._hand_on(items)
                items = []
                await asyncio.sleep(0)
        self._hand_on(items)
        self._looks += 1

    def _news(self, log: bytes, timed: bool) -> tuple[bytes, bool]:
        """What `log` has behind the last line of the look before; True when that line is gone."""
        mark, self._mark = self._mark, _mark(log, timed)
        if not mark:
            return log, False
        # At the start of a line: a process can write text that looks like the mark, but not there.
        at = (b"\n" + log).rfind(b"\n" + mark)
        return (log, True) if at < 0 else (log[at + len(mark) :], False)

    def _matters(self, line: bytes) -> bool:
        self._records += 1
        matters = may_matter(line)
        self._skipped += not matters
        return matters

    def _take(
        self, found: LogLine | None, history: bool, since_us: int, items: list[KernelLine | LostRecords]
    ) -> None:
        if found is None:
            self._malformed += 1
            return
        arrival_us, wall_us = self._clock.monotonic_us(), self._clock.wall_us()
        age_us = 0 if found.kernel_us is None else max(arrival_us - found.kernel_us, 0)
        if not history:
            # The two clocks drift apart, but the line is younger than the look before.
            age_us = min(age_us, arrival_us - since_us)
        items.append(
            KernelLine(
                text=found.text,
                origin=found.origin,
                boot_id=self._boot_id,
                seq=None,
                kernel_us=found.kernel_us,
                arrival_us=arrival_us,
                wall_us=wall_us - age_us,
                wall_is_estimate=history,
                probe=NAME,
            )
        )

    def _gap(self) -> LostRecords:
        self._gaps += 1
        return LostRecords(
            boot_id=self._boot_id,
            first_seq=None,
            last_seq=None,
            count=None,
            arrival_us=self._clock.monotonic_us(),
            wall_us=self._clock.wall_us(),
            probe=NAME,
        )

    def _hand_on(self, items: Sequence[KernelLine | LostRecords]) -> None:
        if items:
            self._sink(Batch(NAME, self._boot_id, tuple(items), last_seq=None))

    def _become(self, down: Refusal | None) -> None:
        before, self._down = self._down, down
        self._looked.set()
        changed = (before is None) != (down is None)
        if changed and before is not _NOT_STARTED and self._on_change is not None:
            self._on_change(self.health())


def _lines(log: bytes) -> Iterator[bytes]:
    return (line for line in log.split(b"\n") if line)


def _starts_of(log: bytes, text: bytes) -> Iterator[int]:
    """Where each line begins that holds this text."""
    at = log.find(text)
    while 0 <= at < len(log):
        yield log.rfind(b"\n", 0, at) + 1
        end = log.find(b"\n", at)
        at = log.find(text, end + 1) if end >= 0 else -1


def _line_at(log: bytes, start: int) -> bytes:
    """The line that begins there."""
    end = log.find(b"\n", start)
    return log[start:] if end < 0 else log[start:end]


def _line_before(log: bytes, start: int) -> bytes:
    """The line before the one that begins there, blank ones left out; empty where there is none."""
    end = start
    while end and log[end - 1] == _NEWLINE:
        end -= 1
    return log[log.rfind(b"\n", 0, end) + 1 : end]


def _last(lines: bytes) -> bytes:
    return lines[lines.rfind(b"\n", 0, -1) + 1 :].rstrip(b"\n")


def _mark(log: bytes, timed: bool) -> bytes:
    """The last line, by which its place is found again; without a time in it the last lines."""
    last = log[log.rfind(b"\n", 0, -1) + 1 :]
    if timed:
        return last
    if len(log) <= _MARK_BYTES:
        return log
    return log[log.find(b"\n", len(log) - _MARK_BYTES) + 1 :] or last
