"""Every row runs, on few samples and without limits, and gives what the table and the plots need."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.figure import Plan
from benchmarks.outcome import Row, run_row
from benchmarks.rows import ROWS, SCALING


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_gives_figures_or_says_what_it_lacks(row: Row, short_tmp_path: Path) -> None:
    outcome = run_row(row, lambda: Plan(short_tmp_path, quick=True), lambda: 0.0)
    if outcome.skipped is not None:
        pytest.skip(outcome.skipped)
    assert outcome.failed is None
    assert outcome.figures
    assert all(figure.held is None for figure in outcome.figures), "a quick run judges nothing"
    assert len({figure.what for figure in outcome.figures}) == len(outcome.figures)
    for samples in outcome.samples:
        assert all(values for lines in (samples.ours, samples.baselines) for values in lines.values())


def test_no_two_rows_have_one_name() -> None:
    names = [row.name for row in (*ROWS, *SCALING)]
    assert len(set(names)) == len(names)
