"""docs/security-door.md is what a real daemon answers, and nothing is open in it that should not be."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.door.document import DOCUMENT, text
from tests.door.table import ENDPOINTS, WITHOUT_CERTIFICATE, Asker

OPEN = {"`/healthz`", "`/.well-known/oauth-protected-resource`"}


def cells(document: str) -> dict[str, dict[str, str]]:
    """Answers by endpoint and heading."""
    lines = [line.strip("| ").split(" | ") for line in document.splitlines() if line.startswith("|")]
    heading, _, *found = lines
    return {row[0]: dict(zip(heading[1:], row[1:], strict=True)) for row in found}


def test_the_document_is_what_a_real_daemon_answers(tmp_path: Path) -> None:
    fresh = text(tmp_path)
    assert fresh == DOCUMENT.read_text(encoding="utf-8"), "run: python -m tests.door.document"


def test_every_endpoint_is_in_it_and_every_asker() -> None:
    table = cells(DOCUMENT.read_text(encoding="utf-8"))
    assert table.keys() == {endpoint.name for endpoint in ENDPOINTS}
    for row in table.values():
        assert row.keys() == {*(asker.value for asker in Asker), "no certificate"}
        assert row["no certificate"] == WITHOUT_CERTIFICATE


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=[each.name.strip("`") for each in ENDPOINTS])
def test_without_a_right_token_only_what_has_to_be_open_is(endpoint: object) -> None:
    name = getattr(endpoint, "name", "")
    row = cells(DOCUMENT.read_text(encoding="utf-8"))[name]
    for asker in (Asker.NO_TOKEN, Asker.WRONG_TOKEN):
        assert row[asker.value] == ("200" if name in OPEN else "401")
    by_any_name = name in {"`/healthz`", "`/readyz`", "`/metrics`"}
    assert (row[Asker.WRONG_HOST.value] == "421") is not by_any_name
    assert (row[Asker.WRONG_ORIGIN.value] == "403") is not by_any_name


def test_who_may_only_read_gets_no_operator_tool() -> None:
    table = cells(DOCUMENT.read_text(encoding="utf-8"))
    listed, called = table["`/mcp`: `tools/list`"], table["`/mcp`: an operator tool"]
    assert listed[Asker.READ.value] == "200, without operator tools"
    assert listed[Asker.OPERATE.value] == "200, with operator tools"
    assert called[Asker.READ.value] == "200, refused: needs `operate`"
    assert called[Asker.OPERATE.value] == "200, the tool answers"
