"""A cluster to report to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_api_server import FakeApiServer


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FakeApiServer]:
    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    with FakeApiServer(folder) as server:
        yield server
