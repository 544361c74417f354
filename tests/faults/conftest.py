"""What several tests of the fault lab stand on: a disk that can fail, a node on it, and repeatable chance."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.faulty_disk import FaultyDisk, build
from tests.support.faulty_node import Node, numbers
from tests.support.kernel_log import FakeKernelLog
from tests.support.readers import everything_kept
from tests.support.waiting import wait_for


@pytest.fixture
def rng() -> random.Random:
    """Chance that a failing run can be repeated with."""
    seed = int(os.environ.get("XIDWATCH_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
    logging.getLogger(__name__).warning("XIDWATCH_SEED=%d", seed)  # shown when the test fails
    return random.Random(seed)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FaultyDisk]:
    """The disk under the journal."""
    faulty = FaultyDisk(tmp_path, build(tmp_path))
    yield faulty
    faulty.close()


@pytest.fixture
def node(tmp_path: Path, kernel_log: FakeKernelLog) -> Iterator[Node]:
    """A node whose daemon runs, with one fault stored."""
    node = Node(tmp_path, kernel_log)
    try:
        node.daemon.start()
        node.write(1)
        wait_for(lambda: numbers(everything_kept(node.daemon)) == [1], "the first fault")
        node.wait_until_stored()
        yield node
    finally:
        node.close()
