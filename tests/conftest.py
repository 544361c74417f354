"""Fixtures that more than one layer's tests use."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import base_images
from tests.support.daemon import Daemon
from tests.support.fault_lab import (  # noqa: F401  # pytest finds fixtures and hooks by their names here
    happened,
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_runtest_makereport,
    pytest_sessionfinish,
)
from tests.support.kernel_log import FakeKernelLog
from tests.support.podman import Podman

# A shell starts what runs in the background with SIGINT ignored, and every program that a test starts
# would inherit that: Ctrl-C could not be tested there.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def kernel_log(tmp_path: Path) -> Iterator[FakeKernelLog]:
    """A FIFO that stands in for /dev/kmsg and carries records of kernel origin."""
    with FakeKernelLog(tmp_path / "kmsg") as log:
        yield log


@pytest.fixture
def running_daemon(tmp_path: Path, kernel_log: FakeKernelLog) -> Iterator[Daemon]:
    """A running daemon that listens to `kernel_log`, drills allowed."""
    running = Daemon(tmp_path, kmsg=kernel_log.path, flags=["--allow-drills"])
    try:
        yield running.start()
    finally:
        running.stop()


@pytest.fixture(scope="session")
def podman() -> Iterator[Podman]:
    """podman with the base images; what is built with it serves the whole run. It refuses paths as long as
    those of pytest's own directories."""
    directory = Path(tempfile.mkdtemp(prefix="xidwatch-"))
    try:
        podman = Podman(directory)
        try:
            base_images.provide(podman)
            yield podman
        finally:
            podman.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
