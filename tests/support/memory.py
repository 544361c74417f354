"""How much memory a daemon uses, as the kernel counts it."""

from __future__ import annotations

from pathlib import Path

from tests.support.daemon import Daemon


def rss_kib(daemon: Daemon, field: str = "VmRSS") -> int:
    """Resident memory now, or with VmHWM its highest value since it was last reset."""
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{field}:"))


def reset_highest_rss(daemon: Daemon) -> None:
    """Begin anew with VmHWM."""
    Path(f"/proc/{daemon.pid}/clear_refs").write_text("5")  # proc(5)
