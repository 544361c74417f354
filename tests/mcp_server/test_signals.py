from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from mcp_server.signals import ending


@pytest.fixture
def hang_up() -> Iterator[None]:
    """Puts back what SIGHUP did before."""
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hang_up")
def test_a_terminal_that_goes_away_ends_the_daemon_unless_nohup_was_asked_for() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    assert ending() == (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert ending() == (signal.SIGTERM, signal.SIGINT)
