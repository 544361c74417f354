"""Figures that a test measured, shown at the end of the run whether or not it passed."""

from __future__ import annotations

import pytest

from tests.delivery.figures import Figures

_LINES: pytest.StashKey[list[str]] = pytest.StashKey()


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """Where a test puts what it measured."""
    return request.config.stash.setdefault(_LINES, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = terminalreporter.config.stash.get(_LINES, [])
    if lines:
        terminalreporter.section("delivery")
        for line in lines:
            terminalreporter.write_line(line)
