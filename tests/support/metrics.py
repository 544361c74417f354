"""Single figures of a daemon's /metrics."""

from __future__ import annotations

import re

from tests.support.daemon import Daemon


def metric(daemon: Daemon, series: str) -> float:
    """The value of one series, named with its labels."""
    found = re.search(rf"^{re.escape(series)} (\S+)$", daemon.get("/metrics")[1].decode(), re.MULTILINE)
    assert found is not None, series
    return float(found[1])
