"""`python -m tests.peers.document`: write the comparison into docs/decoding.md."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.peers.rules import RULES
from tests.peers.score import READERS, rows, scores

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "decoding.md"
BEGIN: Final = "<!-- Beside others: written by `python -m tests.peers.document`. -->"
END: Final = "<!-- The end of that. -->"


def lines() -> Iterator[str]:
    """The tables."""
    yield "| Lines | | " + " | ".join(READERS) + " |"
    yield "| --- | ---: |" + " ---: |" * len(READERS)
    for score in scores():
        yield f"| {score.origin} | {score.lines} | " + " | ".join(map(str, score.read.values())) + " |"
    yield ""
    yield "| Project | Its rule, in words | Read in |"
    yield "| --- | --- | --- |"
    for rule in RULES:
        yield f"| {rule.project} | {rule.says} | {rule.source} |"


def written(text: str) -> str:
    """The document's text with the tables as they are now. Raises ValueError for one without their place."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{DOCUMENT} has no place for the tables")
    return f"{before}{begin}\n\n" + "\n".join(lines()) + f"\n\n{end}{after}"


def main() -> int:
    """1 where there is no corpus to judge by."""
    if not rows():
        sys.stderr.write("there is no corpus: XIDWATCH_CORPUS names it\n")
        return 1
    DOCUMENT.write_text(written(DOCUMENT.read_text("utf-8")), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
