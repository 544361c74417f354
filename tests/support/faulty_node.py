"""A daemon on a faulty disk and under a faulty clock, and the faults of its node, known by their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.daemon import Daemon
from tests.support.faulty_disk import Calls, FaultyDisk, build
from tests.support.kernel_log import FakeKernelLog
from tests.support.readers import everything_kept
from tests.support.status import status
from tests.support.waiting import wait_for

NO_PROCESS = 2**22
"""No process has this pid or a higher one: nothing is found out about it that would be a later revision."""


class Node:
    """A daemon on a faulty disk, and the faults of its kernel log, numbered from 1."""

    def __init__(self, folder: Path, log: FakeKernelLog) -> None:
        self.disk = FaultyDisk(folder, build(folder))
        self.daemon = Daemon(
            folder, kmsg=log.path, flags=["--gpu", "off", "--ebpf", "off"], environ=self.disk.environment()
        )
        self.written = 0
        self._last = ""
        self._log = log

    def close(self) -> None:
        """End the daemon, which must have met no bug."""
        self.disk.works()
        self.daemon.stop()
        self.disk.close()
        assert "Traceback" not in self.daemon.log.read_text()

    def write(self, count: int, *, code: int = 43) -> list[int]:
        """Let so many faults happen, each a minute of kernel time after the one before; their numbers."""
        first = self.written + 1
        self.written += count
        for number in range(first, first + count):
            process = f"pid={NO_PROCESS + number}, name=python3"
            self._last = f"NVRM: Xid (PCI:0000:91:00): {code}, {process}, Ch 00000008"
            self._log.write(self._last, time_us=self._log.time_us + 60_000_000)
        return list(range(first, first + count))

    def write_again(self, after_us: int) -> None:
        """Let the last fault happen again, so long after by the kernel's clock."""
        self._log.write(self._last, time_us=self._log.time_us + after_us)

    def count(self, kinds: Calls = Calls.ALL) -> None:
        """Count the calls on the journal from now on."""
        self.disk.count(self.daemon.state_dir / "journal", kinds)

    def journal(self) -> dict[str, Any]:
        """What status says of it."""
        found: dict[str, Any] = status(self.daemon)["journal"]
        return found

    def wait_until_journal_is(self, state: str) -> dict[str, Any]:
        """What status says of it, once it is in this state."""
        return wait_for(
            lambda: told if (told := self.journal())["state"] == state else None, f"the journal to be {state}"
        )

    def wait_until_stored(self) -> None:
        """Until everything that was told is in the journal, and the journal works."""
        wait_for(
            lambda: (told := self.journal())["state"] == "ok" and not told["unstored"],
            "the journal to have everything",
        )
        assert all(item["stored"] for item in everything_kept(self.daemon))


def numbers(items: Sequence[dict[str, Any]]) -> list[int]:
    """The numbers of the faults, in the order in which they were told; of each its last revision."""
    last = {item["id"]: item for item in items if item["kind"] == "xid"}
    return sorted(item["process"]["pid"] - NO_PROCESS for item in last.values())
