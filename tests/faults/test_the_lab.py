"""The list of the fault lab tells what its tests saw, and a row cannot be had for nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.fault_lab import BEGIN, END

pytest_plugins = ["pytester"]

CONFTEST = """
from tests.support.fault_lab import (
    happened, pytest_addoption, pytest_collection_modifyitems, pytest_runtest_makereport,
    pytest_sessionfinish)

def pytest_configure(config):
    config.addinivalue_line("markers", "fault: one row")
"""
HEAD = """
import pytest
from tests.support.fault_lab import fault
lost = fault("the disk is full", promise=1, promised="nothing is lost")
"""
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def listed(pytester: pytest.Pytester, test: str) -> tuple[pytest.RunResult, str]:
    """Run one program of tests; the result, and what stands in the list afterwards."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(HEAD + test)
    document = pytester.path / "list.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    result = pytester.runpytest_subprocess("--fault-list", str(document), "-p", "no:cacheprovider")
    found = re.fullmatch(f"before\n{BEGIN}\n(.*){END}\nafter\n", document.read_text(), re.DOTALL)
    assert found
    return result, found[1]


def test_a_promise_that_was_held_is_a_row_with_what_was_seen(pytester: pytest.Pytester) -> None:
    result, rows = listed(pytester, "@lost\ndef test_it(happened):\n    happened('all of 3 | were told')\n")
    result.assert_outcomes(passed=1)
    assert "### 1. Nothing heard is lost" in rows
    assert "| the disk is full | all of 3 \\| were told | nothing is lost | held |" in rows


def test_a_broken_one_and_one_that_could_not_run_are_rows_too(pytester: pytest.Pytester) -> None:
    result, rows = listed(
        pytester,
        "@lost\ndef test_it(happened):\n    happened('x')\n    assert 1 == 2, 'two are lost'\n"
        "@lost\ndef test_there(happened):\n    pytest.skip('no root')\n",
    )
    result.assert_outcomes(failed=1, skipped=1)
    assert "**broken**" in rows
    assert "no root | nothing is lost | not run |" in rows


def test_the_cases_of_one_test_are_one_row_as_bad_as_the_worst(pytester: pytest.Pytester) -> None:
    result, rows = listed(
        pytester,
        "@pytest.mark.parametrize('n', [1, 2])\n@lost\ndef test_it(happened, n):\n"
        "    if n == 2: pytest.skip('no second disk')\n    happened('of one')\n",
    )
    result.assert_outcomes(passed=1, skipped=1)
    assert "| the disk is full | of one<br>Skipped: no second disk | nothing is lost | not run |" in rows


def test_a_test_that_says_nothing_has_shown_nothing(pytester: pytest.Pytester) -> None:
    result, _ = listed(pytester, "@lost\ndef test_it(happened):\n    pass\n")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*has to say what happened*"])


def test_a_test_that_does_not_take_the_word_is_refused(pytester: pytest.Pytester) -> None:
    result, _ = listed(pytester, "@lost\ndef test_it():\n    pass\n")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
