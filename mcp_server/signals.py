"""The signals that end the daemon in order. Light: the command line asks before anything is imported."""

from __future__ import annotations

import signal
from collections.abc import Sequence


def ending() -> Sequence[signal.Signals]:
    """SIGTERM, SIGINT, and SIGHUP (the terminal went away) unless it is ignored, as nohup(1) leaves it."""
    hangs_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return (signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if hangs_up else []))
