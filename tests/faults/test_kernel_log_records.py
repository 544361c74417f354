"""Records that are none, that are missing, that come twice, and a log that begins anew: told to the number.

The log is a FIFO of kernel origin, so the test decides on every record and knows by itself which numbers are
missing. What it expects is worked out here from the list of what was written, not by the program's means.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.daemon import Daemon
from tests.support.fault_lab import Happened, fault, rounds
from tests.support.kernel_log import FakeKernelLog
from tests.support.metrics import metric
from tests.support.readers import everything_kept
from tests.support.status import probes, status
from tests.support.waiting import wait_for

GPUS: Final = tuple(f"0000:{bus:02x}:00" for bus in range(0x10, 0x30))
NO_RECORDS: Final = (
    b"\n",
    b"NVRM: Xid (PCI:0000:91:00): 79, no header\n",
    b"4,;NVRM: Xid (PCI:0000:91:00): 79, x\n",
    b"4,-1,5,-;NVRM: Xid (PCI:0000:91:00): 79, x\n",
    b"4,18446744073709551615,5,-;NVRM: Xid (PCI:0000:91:00): 79, x\n",
    b"-4,7,7,-;NVRM: Xid (PCI:0000:91:00): 79, x\n",
    b"\x00" * 64,
    b"\xff" * 4096,
)


@dataclass(slots=True)
class Expected:
    """What has to be told of the records that were written."""

    faults: list[int] = field(default_factory=list)
    """The pid of each, in their order."""
    ranges: list[list[int]] = field(default_factory=list)
    """The first and last number of each hole."""
    malformed: int = 0
    restarts: int = 0

    @property
    def lost(self) -> int:
        """How many numbers are missing."""
        return sum(last - first + 1 for first, last in self.ranges)


class Writer:
    """Writes records at random, and keeps count of what that means."""

    def __init__(self, log: FakeKernelLog, seed: int) -> None:
        self._log = log
        self._chance = random.Random(seed)
        self.expected = Expected()
        self._next = 1000

    def step(self) -> None:
        """Some records, or something that is none."""
        match self._chance.choices(("fault", "noise", "jump", "garbage", "restart"), (50, 30, 12, 12, 1))[0]:
            case "fault":
                self._fault()
            case "noise":
                self._write("usb 1-1: new high-speed USB device")
            case "jump":
                missing = self._chance.choice((1, 2, 50, 100_000))
                self.expected.ranges.append([self._next, self._next + missing - 1])
                self._next += missing
                self._fault()
            case "garbage":
                self.expected.malformed += 1
                self._log.write_raw(self._chance.choice(NO_RECORDS))
            case "restart":
                # As after a kexec: the same file, and its numbers begin anew.
                self._next = self._chance.randrange(0, self._next // 2)
                self.expected.restarts += 1
                self._fault()

    def begin(self) -> None:
        """The first record, which sets the base; the GPUs are known from then on."""
        for gpu in GPUS:
            self._write(f"NVRM: GPU at PCI:{gpu}: GPU-11111111-2222-3333-4444-0000000000{gpu[5:7]}")

    def _fault(self) -> None:
        pid = len(self.expected.faults)
        self.expected.faults.append(pid)
        self._log.time_us += 700_000  # fewer than 20 events of one GPU in 10 s
        self._write(f"NVRM: Xid (PCI:{GPUS[pid % len(GPUS)]}): 31, pid={pid}, name=x, MMU Fault")

    def _write(self, text: str) -> None:
        self._log.write(text, seq=self._next)
        self._next += 1


@pytest.mark.parametrize("seed", range(2))
@fault(
    "Records that are none, missing numbers, numbers that begin anew",
    promise=2,
    promised="each missing number is named, nothing else is lost",
)
def test_what_is_missing_is_named_to_the_number_and_the_rest_is_told(
    tmp_path: Path, kernel_log: FakeKernelLog, seed: int, happened: Happened
) -> None:
    steps = rounds(short=400, long=20_000)
    daemon = Daemon(tmp_path, kmsg=kernel_log.path, flags=["--gpu", "off", "--quiet-gap", "1s"])
    writer = Writer(kernel_log, seed)
    try:
        daemon.start()
        writer.begin()
        for _ in range(steps):
            writer.step()
        expected = writer.expected

        def told() -> list[int]:
            kept = [item for item in everything_kept(daemon) if item["kind"] == "xid"]
            return sorted(item["process"]["pid"] for item in kept for _ in range(item["count"]))

        wait_for(lambda: len(told()) >= len(expected.faults), "every fault", pause_s=0.2)
        assert told() == expected.faults
        counters = probes(daemon)["kmsg"]["counters"]
        assert {name: counters[name] for name in ("lost", "malformed", "restarts")} == {
            "lost": expected.lost,
            "malformed": expected.malformed,
            "restarts": expected.restarts,
        }

        def gaps() -> list[dict[str, Any]]:
            return [item["detail"] for item in everything_kept(daemon) if item["kind"] == "gap"]

        wait_for(
            lambda: sum(gap["lost_records"] for gap in gaps()) >= expected.lost, "every hole", pause_s=0.2
        )
        assert sum(gap["lost_records"] for gap in gaps()) == expected.lost
        ranges = [each for gap in gaps() for each in gap["ranges"]]
        assert all(each in expected.ranges for each in ranges)
        assert metric(daemon, "xidwatch_kernel_records_lost_total") == expected.lost
        assert status(daemon)["counters"]["failures"] == 0
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.log.read_text()
    finally:
        daemon.kill()
    happened(
        f"{steps:,} steps: {len(expected.faults):,} faults each told once; {len(expected.ranges):,} holes of "
        f"{expected.lost:,} records and {expected.malformed:,} that were none counted exactly; the numbers "
        f"began anew {expected.restarts} times"
    )
