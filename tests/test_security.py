"""SECURITY.md names tests that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "SECURITY.md"
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", DOCUMENT.read_text(encoding="utf-8"))
THREATS = (
    "Forged kernel lines",
    "Prompt injection through process names and log text",
    "Token theft",
    "Denial of service",
    "Confused deputy",
)


@cache
def names_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize(("path", "name"), NAMED, ids=[name for _, name in NAMED])
def test_a_test_that_is_named_exists(path: str, name: str) -> None:
    assert name in names_in(path)


def test_every_threat_has_tests() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for threat in THREATS:
        section = text.partition(f"## {threat}\n")[2].partition("\n## ")[0]
        assert len(re.findall(r"`tests/[\w/]+\.py::\w+`", section)) >= 4, threat


def test_whatever_looks_like_a_test_is_read_as_one() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert len(NAMED) == text.count("::test_")
    assert not re.search(r"\S+@\S+\.\w+", text), "no address is given that nobody reads"
