"""A server for tests that need nothing special of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mcp_server.serving import Served


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A running server with a unix socket."""
    with Served(socket_path=tmp_path / "s") as running:
        yield running
