"""Somebody who minds his own business beside clients that misbehave, and what a daemon holds for them all."""

from __future__ import annotations

import socket
from pathlib import Path
from types import TracebackType

from tests.support.bad_input import fault
from tests.support.daemon import Daemon
from tests.support.kernel_log import FakeKernelLog
from tests.support.readers import everything_kept
from tests.support.waiting import DEADLINE_S

ADDRESS = "127.0.1.1"
"""Where he comes from: no ill-behaved client has it."""


class Bystander:
    """Follows /events, is told of every fault that he has printed, and asks /healthz now and then.

    Each wait has the deadline of `wait_for`; a daemon that does not answer in time has been held up.
    """

    def __init__(self, daemon: Daemon, log: FakeKernelLog) -> None:
        self._daemon = daemon
        self._log = log
        self.printed: list[int] = []
        """Sequence numbers of the faults that he printed; he was told of each before he printed the next."""
        self._connection = self._connect()
        self._connection.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self._lines = self._connection.makefile("rb")
        self._read_until(b"event: hello")

    def __enter__(self) -> Bystander:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        self._connection.close()

    def hears(self) -> None:
        """Print a fault, and be told of it on the stream that was open before."""
        self._log.time_us += 60_000_000  # a fault of its own, not a repeat
        seq = self._log.write(fault(43, self._log.next_seq))
        self.printed.append(seq)
        self._read_until(b'"kmsg_seq": %d,' % seq)

    def asks(self) -> None:
        """Connect anew and have /healthz answered: the loop turns, and there is room for him."""
        with self._connect() as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            with connection.makefile("rb") as answer:
                assert answer.readline().split()[1] == b"200"

    def check_that_all_is_kept(self) -> None:
        """Every fault that he printed is in the journal, each told once."""
        kept = [item["kmsg_seq"] for item in everything_kept(self._daemon) if item["kind"] == "xid"]
        assert sorted(kept) == self.printed

    def _connect(self) -> socket.socket:
        return socket.create_connection(
            ("127.0.0.1", self._daemon.port), timeout=DEADLINE_S, source_address=(ADDRESS, 0)
        )

    def _read_until(self, wanted: bytes) -> None:
        while wanted not in (line := self._lines.readline()):
            assert line, "the stream ended"


def open_files(daemon: Daemon) -> int:
    """How many files the daemon has open."""
    return len(list(Path(f"/proc/{daemon.pid}/fd").iterdir()))
