"""Faults of many GPUs at a wanted rate, written into a fake kernel log.

Kernel time is wall time: the pipeline's limit of 20 new events of one GPU in 10 s holds as it does
in the field, which is why there are as many GPUs as the rate needs. Every fault names a process of
its own, so each is an event; every fifth is told twice, which makes a second revision of its event.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator

from tests.support.kernel_log import FakeKernelLog

GPUS = tuple(f"0000:{bus:02x}:00" for bus in range(256))
QUIET_GAP = "1ms"
"""For the daemon: how soon the same fault of the same process is a new event."""
FIRST_PID = 10_000


class Faults:
    """The writer, in a thread of its own while the block runs."""

    def __init__(self, log: FakeKernelLog, *, per_s: int, seconds: float) -> None:
        self.per_s = per_s
        self.total = int(per_s * seconds)
        self.lines: Counter[int] = Counter()
        """Lines written about each process."""
        self.took_s: float | None = None
        """How long writing took; None until it is done."""
        self._log = log
        self._thread = threading.Thread(target=self._write, name="faults")

    def first(self) -> None:
        """Write the first fault, so that there is something to read before the others come."""
        self._one(0, self._log.time_us)

    def start(self) -> None:
        """Begin to write the others."""
        self._thread.start()

    def join(self) -> None:
        """Return when all is written."""
        self._thread.join()

    def _write(self) -> None:
        start, base_us = time.monotonic(), self._log.time_us
        for number in range(1, self.total):
            time.sleep(max(0.0, start + number / self.per_s - time.monotonic()))
            self._one(number, base_us + int((time.monotonic() - start) * 1e6))
        self.took_s = time.monotonic() - start

    def _one(self, number: int, at_us: int) -> None:
        for line, after_us in lines(number):
            self._log.write(line, time_us=at_us + after_us)
            self.lines[FIRST_PID + number] += 1


def introduce(log: FakeKernelLog) -> None:
    """Have the daemon know the GPUs, as the driver names them before their first fault."""
    for number, gpu in enumerate(GPUS):
        log.write(f"NVRM: GPU at PCI:{gpu}: GPU-11111111-2222-3333-4444-{number:012d}")


def lines(number: int) -> Iterator[tuple[str, int]]:
    """The lines of fault `number`, each with the time since the first in µs."""
    text = f"NVRM: Xid (PCI:{GPUS[number % len(GPUS)]}): 48, pid={FIRST_PID + number}, name=python3, DBE"
    yield text, 0
    if number % 5 == 0:
        yield text, 10
