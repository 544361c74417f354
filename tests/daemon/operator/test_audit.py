"""What an act leaves on record, in one line."""

from __future__ import annotations

import pytest

from daemon.operator.audit import AuditEntry, OperatorAction, Outcome


@pytest.mark.parametrize(
    ("outcome", "asked_by", "line"),
    [
        (
            Outcome.DONE,
            "night-shift 1.0 at pid 7",
            "DONE, asked by night-shift 1.0 at pid 7: It ended. See there",
        ),
        (Outcome.REFUSED, None, "REFUSED, asked by unknown: It ended. See there"),
    ],
)
def test_the_line_says_first_how_it_ended_and_who_asked(
    outcome: Outcome, asked_by: str | None, line: str
) -> None:
    entry = AuditEntry(OperatorAction.RESET_GPU, outcome, "It ended. See there.", asked_by=asked_by)
    assert entry.summary == line
