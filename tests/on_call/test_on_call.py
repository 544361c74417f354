"""The answers of docs/on-call.md are the ones that are given, and they hold what their judgement says."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_server.analysis_text import TEXT_TOKENS
from mcp_server.quote import tokens
from probes import procfs
from tests.on_call.document import DOCUMENT, HEADER, played
from tests.on_call.situations import SITUATIONS, Situation

NUMBERED = list(enumerate(SITUATIONS, start=1))


def sections() -> list[str]:
    """The document's sections, the header first."""
    return DOCUMENT.read_text(encoding="utf-8").split("\n## ")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "situation"), NUMBERED, ids=lambda value: getattr(value, "title", None))
def test_the_answer_is_the_one_in_the_document_true_and_short(
    number: int, situation: Situation, tmp_path: Path
) -> None:
    if procfs.gpus() or procfs.driver_version():
        pytest.skip("this machine has an NVIDIA driver of its own, which the daemon would count in")
    section, answers = played(number, situation, tmp_path)
    _, first = answers[0]
    for words in situation.says:
        assert words in first
    for words in situation.never_says:
        assert words not in first
    assert all(tokens(text) <= TEXT_TOKENS for _, text in answers)
    assert f"## {sections()[number]}".rstrip() == section.rstrip(), "run: python -m tests.on_call.document"


def test_the_document_has_every_situation_in_order() -> None:
    header, *rest = sections()
    assert header.rstrip() == HEADER.rstrip()
    assert [each.splitlines()[0] for each in rest] == [f"{n}. {each.title}" for n, each in NUMBERED]
