"""The documents as people read them: each command, and what the text says that it needs.

A command that not every machine can run is marked in words that everybody sees: the paragraph before
its block says "needs a GPU", or the page "Everything on this page needs a cluster". `Need` is the closed list
of what a command may need.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tests.support.daemon import ROOT

PAGES = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *PAGES]
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^\$ (.*\n(?:^    .*\n)*)", re.MULTILINE)
"""A command, with the indented lines on which it goes on."""
_PAGE = re.compile(r"Everything\s+on\s+this\s+page\s+needs\s+([\w\s]+)")


class Need(StrEnum):
    """What not every machine has."""

    CLUSTER = "a cluster"
    GPU = "a GPU"
    ROOT_ON_A_NODE = "root on a node"
    ANOTHER_MACHINE = "another machine"


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a document."""

    document: str
    """Path in the repository."""
    text: str
    """Continued lines joined, without a remark."""
    needs: frozenset[Need]
    """What the text around it says that it needs."""

    @property
    def program(self) -> str:
        """What is run, without its path."""
        words = self.text.removeprefix("sudo ").split()
        return words[0] if words[0].startswith(".ci/") else words[0].rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.document}: {self.text[:70]}"


@functools.cache
def commands() -> Sequence[Command]:
    """Every command of every document."""
    found: list[Command] = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        of_the_page = frozenset(need for words in _PAGE.findall(text) for need in _needs(f"needs {words}"))
        name = str(document.relative_to(ROOT))
        for before, block in blocks(text):
            found += [
                Command(name, command, of_the_page | frozenset(_needs(before))) for command in _typed(block)
            ]
    return found


def blocks(text: str) -> list[tuple[str, str]]:
    """Each block of commands, with the paragraph before it."""
    return [
        (text[: found.start()].rstrip().rpartition("\n\n")[2], found[1]) for found in _BLOCK.finditer(text)
    ]


def _typed(block: str) -> Iterator[str]:
    for command in _COMMAND.findall(block):
        joined = re.sub(r"\\\n\s*", "", command).strip()
        yield joined.partition(" #")[0].strip()


def _needs(text: str) -> Iterator[Need]:
    said = " ".join(text.split())
    return (need for need in Need if re.search(rf"\bneeds? {re.escape(need)}\b", said))
