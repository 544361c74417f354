"""The lines that other projects test themselves with, read by xidwatch and by their own rules."""

from __future__ import annotations

import pytest

from tests.peers.document import DOCUMENT, written
from tests.peers.rules import RULES, Read
from tests.peers.score import CORPUS, READERS, is_as_expected, rows, scores, xidwatch

needs_corpus = pytest.mark.skipif(not rows(), reason=f"no corpus at {CORPUS} (XIDWATCH_CORPUS names another)")

PLAIN = "NVRM: Xid (PCI:0000:91:00): 79, pid=446, name=python3, GPU has fallen off the bus."


@pytest.mark.parametrize("name", READERS)
def test_every_reader_reads_a_plain_line(name: str) -> None:
    found = READERS[name](PLAIN)
    assert found is not None
    assert found.code == 79
    assert found.device.startswith("0000:91:00")


@pytest.mark.parametrize(
    ("message", "read"),
    [
        ("NVRM: Xid (0000:03:00): 14, Channel 00000001", (14, None, None)),
        ("NVRM: Xid (PCI:0000:01:00.0): 48", (None, 48, 48)),
        ("NVRM: Xid (PCI:0000:01:00 GPU-I:05): 94, x", (None, None, None)),
        ("NVRM: Xid (PCI:0000:01:00): many, code: 7, x", (7, None, None)),
        ("NVRM: Xid (PCI:INVALID): 48, x", (None, None, None)),
        ("a program says Xid (PCI:0000:01:00): 31 of NVRM", (None, None, 31)),
    ],
)
def test_a_rule_reads_what_its_words_say(message: str, read: tuple[int | None, ...]) -> None:
    found = [rule.read(message) for rule in RULES]
    assert tuple(each and each.code for each in found) == read


@needs_corpus
def test_xidwatch_reads_every_test_case_of_the_others_as_expected() -> None:
    wrong = [row["line"] for row in rows() if not is_as_expected(row, xidwatch)]
    assert not wrong
    assert sum(score.lines for score in scores()) == len(rows()) > 400


@needs_corpus
def test_a_reader_that_reports_nothing_does_not_score() -> None:
    def deaf(_: str) -> Read | None:
        return None

    assert sum(is_as_expected(row, deaf) for row in rows()) == sum(
        not row["expect"]["is_xid"] for row in rows()
    )


@needs_corpus
def test_the_published_comparison_is_the_one_of_these_lines() -> None:
    text = DOCUMENT.read_text("utf-8")
    assert written(text) == text, "python -m tests.peers.document writes it anew"
