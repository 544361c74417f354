"""What the tests of benchmarks share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def short_tmp_path() -> Iterator[Path]:
    """An empty directory whose path leaves room for the name of a socket: 107 bytes in all."""
    with tempfile.TemporaryDirectory(prefix="xw-", dir="/tmp") as directory:
        yield Path(directory)
