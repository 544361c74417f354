"""Commands in the documents are ones that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from xidwatch.cli import build_parser

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> list[tuple[str, str]]:
    """Each `$ command` of each document, with the document's name."""
    return [
        (document.name, line.removeprefix("$ ").partition(" #")[0].strip())
        for document in DOCUMENTS
        for line in document.read_text(encoding="utf-8").splitlines()
        if line.startswith("$ ")
    ]


def calls_of(program: str) -> list[tuple[str, str]]:
    """The commands that run `program`, alone or in a pipe, cut down to its arguments."""
    return [
        (name, found[1].strip())
        for name, command in commands()
        for part in command.partition(" > ")[0].split(" | ")
        if (found := re.fullmatch(rf"(?:sudo )?(?:\S*/)?{program}((?: .*)?)", part.strip()))
    ]


@pytest.mark.parametrize(("document", "arguments"), calls_of("xidwatch"))
def test_a_command_line_in_a_document_is_accepted(document: str, arguments: str) -> None:
    words = shlex.split(arguments)
    assert build_parser(words[0]).parse_args(words).command == words[0]


@pytest.mark.parametrize(("document", "arguments"), calls_of("make"))
def test_a_make_target_in_a_document_exists(document: str, arguments: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in (word for word in shlex.split(arguments) if "=" not in word):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{document}: make {target}"


def test_the_documents_show_commands_at_all() -> None:
    assert len(calls_of("xidwatch")) > 5
    assert len(calls_of("make")) > 3


def test_links_between_documents_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_lock_files_pin_everything_by_hash_and_name_no_registry() -> None:
    for name in (
        "requirements.lock",
        "requirements-otel.lock",
        "requirements-dev.lock",
        "docs/requirements.lock",
        "benchmarks/requirements.lock",
        "tests/fuzz/requirements.lock",
    ):
        text = (ROOT / name).read_text(encoding="utf-8")
        entries = re.split(r"\n(?=\S)", text)
        assert all("==" in entry and "--hash=sha256:" in entry for entry in entries), name
        assert "://" not in text
