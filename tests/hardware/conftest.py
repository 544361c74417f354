"""What the hardware tests need, and the exact reason where it is missing."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon

KMSG = Path("/dev/kmsg")


def missing() -> str | None:
    """Why these tests cannot run here; None when they can."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return f"no NVIDIA driver library: {error}"
    if not Path("/proc/driver/nvidia/version").exists():
        return "the NVIDIA kernel module is not loaded (/proc/driver/nvidia/version is missing)"
    if not os.access(KMSG, os.R_OK):
        return f"{KMSG} cannot be read"
    return None


@pytest.fixture(autouse=True)
def _needs_a_gpu() -> None:
    reason = missing()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture
def listening_daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon on the real kernel log, drills not allowed: what it tells of, the kernel said."""
    running = Daemon(tmp_path, kmsg=KMSG)
    try:
        yield running.start()
    finally:
        running.stop()
