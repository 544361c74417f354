"""The table of clients, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tests.clients.cells import ALL, Ability, Cell, why_no, why_not
from tests.clients.outcome import Outcome


def lines(outcomes: Mapping[Cell, Outcome]) -> Iterator[str]:
    """Every cell of the table with what is known of it."""
    yield f"| client | transport | era | {' | '.join(Ability)} |"
    yield "| --- " * (3 + len(Ability)) + "|"
    for cell in ALL:
        if why_not(cell) is None:
            places = (_place(ability, cell, outcomes.get(cell)) for ability in Ability)
            yield f"| {cell.client} | {cell.transport} | {cell.era} | {' | '.join(places)} |"
    yield ""
    yield "Not in the table, because it cannot be:"
    yield ""
    for reason in dict.fromkeys(reason for cell in ALL if (reason := why_not(cell))):
        clients = dict.fromkeys(cell.client for cell in ALL if why_not(cell) == reason)
        yield f"* {reason} ({', '.join(clients)})"


def _place(ability: Ability, cell: Cell, outcome: Outcome | None) -> str:
    if (reason := why_no(ability, cell)) is not None:
        return f"– ({reason})"
    if outcome is None:
        return "not run"
    if outcome.unavailable is not None:
        return f"not run: {outcome.unavailable}"
    return f"yes: {how}" if (how := outcome.shown.get(ability)) else "**no**"
