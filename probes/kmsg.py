"""The kernel log as it is printed: an event-loop reader of /dev/kmsg.

What it keeps:

* Every record of the log reaches the sink in order, or is named as lost. The numbers of lost
  records come from the sequence numbers, whatever lost them: the ring overtaking the reader
  (EPIPE), a record the kernel would not hand out (EINVAL), or one that does not parse.
* Only records that may speak of an NVIDIA device are parsed and delivered; the others move
  `Batch.last_seq` on. At most `RECORDS_A_TURN` are read and `ITEMS_A_TURN` delivered before the loop
  turns, so a storm in the log delays other work by some milliseconds, not by the length of the storm.
* Records that were in the log before the reader caught up are history: their wall clock is an
  estimate from the kernel time. Later ones carry the wall clock of their arrival.
* A resume point does not hold records back: the whole log is delivered, so that its reader can
  rebuild context. It only says from where on a missing record is a lost one.
* A log that cannot be opened or fails is a state, not an error: `health` says why, and opening is
  tried again with growing pauses. Within the process no record is delivered twice.

No timer runs while the log is heard. All methods belong to the event loop's thread.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path

from probes import kernel
from probes.errors import UserError
from probes.health import ProbeHealth
from probes.kmsg_access import OpenLog, Refusal, open_log, refusal
from probes.kmsg_record import kernel_time, parse, sequence_number
from probes.kmsg_sequence import SequenceTracker
from probes.line import Batch, KernelLine, LostRecords, Origin, Reached, ResumePoint, Sink

NAME = "kmsg"
RECORDS_A_TURN = 512
"""Reading and rejecting one costs 2 to 5 µs."""
ITEMS_A_TURN = 64
"""Working one off costs the sink 50 to 100 µs."""
RECORD_BYTES = 8192
"""One read: the kernel answers EINVAL when a record does not fit (CONSOLE_EXT_LOG_MAX is 8192)."""
_REFUSED_READS_A_TURN = 16
_FIRST_RETRY_S = 0.5
_LONGEST_RETRY_S = 60.0

OnChange = Callable[[ProbeHealth], None]
"""Called in the event loop when a probe that was started goes down or comes back."""


def may_matter(record: bytes) -> bool:
    """True for every record the line grammar has a use for, and few others.

    Works on the raw bytes: these words are plain ASCII, which the kernel prints unescaped.
    `Xid` also finds `SXid`; `nvidia` finds `nvidia-nvswitch` and the module's own lines.
    """
    return (
        b"NVRM" in record
        or b"nvidia" in record
        or b"Xid" in record
        or b"fallen off the bus" in record
        or b"xidwatch-drill" in record
    )


class KmsgProbe:
    """Reads /dev/kmsg, or a FIFO that stands in for it, within the running event loop.

    A FIFO carries one record per write (its writer sets O_DIRECT: packet mode). It is live from
    the start, never rewound, and without a resume point its first record sets the base.
    """

    def __init__(
        self,
        path: Path,
        sink: Sink,
        *,
        resume: ResumePoint | None = None,
        on_change: OnChange | None = None,
        clock: kernel.Clock | None = None,
        opener: Callable[[Path], OpenLog] = open_log,
        first_retry_s: float = _FIRST_RETRY_S,
    ) -> None:
        self._path = path
        self._sink = sink
        self._resume = resume
        self._on_change = on_change
        self._clock = clock or kernel.SystemClock()
        self._opener = opener
        self._first_retry_s = first_retry_s
        self._retry_s = first_retry_s
        self._boot_id = kernel.boot_id()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._log: OpenLog | None = None
        self._down: Refusal | None = Refusal("not started", None)
        self._retry: asyncio.TimerHandle | None = None
        self._sequence: SequenceTracker | None = None
        self._history = False
        self._records = self._skipped = self._malformed = self._refused = 0
        self._lost = self._overruns = self._reopened = 0
        self._last_us: int | None = None
        self._end_us: int | None = None

    def start(self) -> None:
        """Open the log and read it from the next turn of the loop on.

        Raises UserError when the path can never be a kernel log. A log that is missing or refused
        leaves the probe down, with the reason in `health`.
        """
        try:
            self._open()
        except OSError as error:
            self._go_down(self._explain(error))

    def close(self) -> None:
        """Stop reading; nothing is delivered afterwards. May be called twice."""
        self._stop_reading()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._down = Refusal("closed", None)

    def read_now(self) -> None:
        """Read what is there, without waiting to be woken: the kernel wakes its readers some time later."""
        self._turn()

    def health(self) -> ProbeHealth:
        """State and counts, as of now."""
        down = self._down
        return ProbeHealth(
            NAME,
            hears=down is None,
            live=True,
            reason=down.reason if down else None,
            hint=down.hint if down else None,
            counters={
                "records": self._records,
                "skipped": self._skipped,
                "malformed": self._malformed,
                "refused": self._refused,
                "lost": self._lost,
                "overruns": self._overruns,
                "restarts": self._sequence.restarts if self._sequence else 0,
                "reopened": self._reopened,
            },
        )

    @property
    def caught_up(self) -> bool:
        """True once everything that was in the log at the start has been delivered."""
        return self._log is not None and not self._history

    @property
    def reached(self) -> Reached | None:
        """How far it has read; None while it does not hear."""
        return None if self._log is None else Reached(self._last_us, self._end_us)

    def _open(self) -> None:
        log = self._opener(self._path)
        self._loop = loop = asyncio.get_running_loop()
        try:
            loop.add_reader(log.fd, self._turn)
        except OSError:
            os.close(log.fd)
            raise
        self._log = log
        self._down = None
        self._history = log.is_device
        if self._sequence is None:
            self._sequence = SequenceTracker(self._first_expected(log))
        elif log.is_device:
            self._sequence.reread()
        # An empty log is not readable, and its first record would pass for history without this turn.
        loop.call_soon(self._turn)

    def _first_expected(self, log: OpenLog) -> int | None:
        if self._resume is None:
            return None
        if self._resume.boot_id == self._boot_id:
            return self._resume.seq + 1
        return 0 if log.is_device else None

    def _turn(self) -> None:
        """Read a turn's share and deliver it. The descriptor stays readable while there is more."""
        log, sequence = self._log, self._sequence
        if log is None or sequence is None:
            return
        items: list[KernelLine | LostRecords] = []
        before = self._records
        failure = self._drain(log.fd, sequence, items)
        if self._records != before:
            self._sink(Batch(NAME, self._boot_id, tuple(items), sequence.last))
        if failure is not None:
            self._go_down(failure)

    def _drain(
        self, fd: int, sequence: SequenceTracker, items: list[KernelLine | LostRecords]
    ) -> Refusal | None:
        """Append what is there, up to a turn's share, to `items`; why the log cannot be read on, or None."""
        refused = 0
        data = b""
        for _ in range(RECORDS_A_TURN):
            try:
                data = os.read(fd, RECORD_BYTES)
            except BlockingIOError:
                self._end_us = self._clock.monotonic_us()
                self._note_last(data)
                return self._caught_up(sequence)
            except BrokenPipeError:
                self._overruns += 1
                continue
            except OSError as error:
                # EINVAL: the kernel has stepped over a record; the next number shows the gap.
                if error.errno != errno.EINVAL or refused == _REFUSED_READS_A_TURN:
                    return self._explain(error)
                refused += 1
                self._refused += 1
                continue
            if not data:
                return Refusal(f"{self._path} has come to an end", None)
            self._take(data, sequence, items)
            if len(items) >= ITEMS_A_TURN:
                break
        self._note_last(data)
        return None

    def _note_last(self, data: bytes) -> None:
        last_us = kernel_time(data)
        self._last_us = self._last_us if last_us is None else last_us

    def _take(self, data: bytes, sequence: SequenceTracker, items: list[KernelLine | LostRecords]) -> None:
        record = None
        if may_matter(data):
            record = parse(data)
            seq = record.seq if record else None
        else:
            seq = sequence_number(data)
        if seq is None:
            self._malformed += 1
            return
        lost = sequence.take(seq)
        if lost is None:
            return
        self._records += 1
        if lost:
            self._lost += len(lost)
            items.append(self._gap(lost))
        if record is None:
            self._skipped += 1
            return
        arrival_us, wall_us = self._clock.monotonic_us(), self._clock.wall_us()
        if self._history:
            wall_us -= max(arrival_us - record.kernel_us, 0)
        items.append(
            KernelLine(
                text=record.text,
                origin=Origin.KERNEL if record.facility == 0 else Origin.USERSPACE,
                boot_id=self._boot_id,
                seq=seq,
                kernel_us=record.kernel_us,
                arrival_us=arrival_us,
                wall_us=wall_us,
                wall_is_estimate=self._history,
                probe=NAME,
            )
        )

    def _gap(self, lost: range) -> LostRecords:
        return LostRecords(
            boot_id=self._boot_id,
            first_seq=lost[0],
            last_seq=lost[-1],
            count=len(lost),
            arrival_us=self._clock.monotonic_us(),
            wall_us=self._clock.wall_us(),
            probe=NAME,
        )

    def _caught_up(self, sequence: SequenceTracker) -> Refusal | None:
        self._history = False
        self._retry_s = self._first_retry_s
        if sequence.caught_up():
            return None
        self._sequence = self._resume = None
        return Refusal(f"{self._path} holds another log than before", None)

    def _explain(self, error: OSError) -> Refusal:
        return refusal(error, self._path, kernel.log_access())

    def _go_down(self, why: Refusal) -> None:
        heard = self._log is not None
        self._stop_reading()
        self._down = why
        self._retry = asyncio.get_running_loop().call_later(self._retry_s, self._reopen)
        self._retry_s = min(self._retry_s * 2, _LONGEST_RETRY_S)
        if heard:
            self._announce()

    def _reopen(self) -> None:
        self._retry = None
        try:
            self._open()
        except OSError as error:
            self._go_down(self._explain(error))
        except UserError as error:
            self._go_down(Refusal(error.message, error.hint))
        else:
            self._reopened += 1
            self._announce()

    def _announce(self) -> None:
        if self._on_change is not None:
            self._on_change(self.health())

    def _stop_reading(self) -> None:
        if self._log is not None and self._loop is not None:
            self._loop.remove_reader(self._log.fd)
            os.close(self._log.fd)
            self._log = None
