"""The places of the table, one conversation a cell, and the table itself at the end of a test run."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.clients.cells import Cell, Transport
from tests.clients.conversation import hold
from tests.clients.outcome import Outcome
from tests.clients.place import Place, one_daemon
from tests.clients.table import lines

OUTCOMES: pytest.StashKey[dict[Cell, Outcome]] = pytest.StashKey()


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Transport], Place]]:
    """A running daemon."""
    with one_daemon(tmp_path_factory.mktemp("d")) as place:
        yield place


@pytest.fixture
def outcome(
    request: pytest.FixtureRequest,
    places: Callable[[Transport], Place],
    tmp_path_factory: pytest.TempPathFactory,
) -> Outcome:
    """The conversation of one cell, held once for all that is asked of it."""
    cell: Cell = request.param
    # Kept here, because to pytest the same cell beside another ability is another parameter.
    outcomes = request.config.stash.setdefault(OUTCOMES, {})
    if cell not in outcomes:
        outcomes[cell] = hold(cell, places, tmp_path_factory.mktemp("alone"))
    return outcomes[cell]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    outcomes = terminalreporter.config.stash.get(OUTCOMES, {})
    if outcomes:
        terminalreporter.section("clients")
        for line in lines(outcomes):
            terminalreporter.write_line(line)
