"""The daemon that has to live through all the bad input of one file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.bad_input import fault
from tests.support.daemon import Daemon
from tests.support.kernel_log import FakeKernelLog
from tests.support.waiting import wait_for


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, FakeKernelLog]]:
    """One daemon that has to live through all of it, and its kernel log."""
    directory = tmp_path_factory.mktemp("serving")
    with FakeKernelLog(directory / "kmsg") as log:
        daemon = Daemon(directory, kmsg=log.path)
        try:
            daemon.start()
            yield daemon, log
        finally:
            assert daemon.stop() == 0
        assert "Traceback" not in daemon.log.read_text()


@pytest.fixture
def surviving_daemon(serving: tuple[Daemon, FakeKernelLog]) -> Iterator[Daemon]:
    """The daemon; after each test it still hears, tells and answers."""
    running_daemon, log = serving
    log.time_us += 60_000_000  # long after the line before
    yield running_daemon
    log.time_us += 60_000_000
    seq = log.write(fault(43, log.next_seq))
    wait_for(lambda: any(e["kmsg_seq"] == seq for e in running_daemon.events("limit=50")), "the next fault")


@pytest.fixture
def survivors_log(serving: tuple[Daemon, FakeKernelLog]) -> FakeKernelLog:
    """Its kernel log."""
    return serving[1]
