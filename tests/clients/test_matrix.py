"""Every client that can be had, over every transport and in every era that it speaks.

A cell's conversation is held once (`conversation`); each ability is a test of its own.
"""

from __future__ import annotations

import pytest

from tests.clients.cells import POSSIBLE, Ability, Client, why_no
from tests.clients.outcome import Outcome

ASKED = [(cell, ability) for cell in POSSIBLE for ability in Ability if why_no(ability, cell) is None]


def name(value: object) -> str:
    return str(value).replace(" ", "-").replace(",-", "-")


@pytest.mark.slow
@pytest.mark.parametrize(("outcome", "ability"), ASKED, indirect=["outcome"], ids=name)
def test_a_client(outcome: Outcome, ability: Ability) -> None:
    if outcome.unavailable is not None:
        pytest.skip(outcome.unavailable)
    assert ability in outcome.shown, outcome.failed


def test_every_empty_place_of_the_table_has_its_reason() -> None:
    assert len(POSSIBLE) == 32
    assert {cell.client for cell in POSSIBLE} == set(Client)
