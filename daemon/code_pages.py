"""A page for every code that an on-call engineer really meets: what it is and what to do about it.

One Markdown file in `daemon/data/pages` for a code, or for codes that ask for the same. It opens with
`# title` and `Codes: xid 79` (several codes or ranges: `xid 144-148 150`), then has the sections of
`CodePage`, in that order, each under its own heading. Tools, `xidwatch explain` and the documents read
these pages; severity, blame and action of a code stand in the tables alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from daemon.event import Kind
from daemon.tables import DATA

PAGES = DATA / "pages"


@dataclass(frozen=True, slots=True)
class CodePage:
    """What an engineer needs to know about a code. Sections are Markdown: paragraphs or `*` lists."""

    kind: Kind
    codes: tuple[int, ...]
    """The codes it is about, ascending."""
    title: str
    what: str
    """What it is."""
    fault: str
    """Whose fault it usually is."""
    now: str
    """What to do now."""
    collect: str
    """What to collect before a reset, which destroys it."""
    worse: str
    """When it is worse than it looks."""
    around: str
    """What usually comes before and after."""
    sources: str
    """Where the sources disagree, what was decided, and why; "" when they do not."""

    def sections(self) -> tuple[tuple[str, str], ...]:
        """(heading, text) of each section that has a text, in order."""
        return tuple((heading, text) for name, heading in HEADINGS.items() if (text := getattr(self, name)))


HEADINGS: Mapping[str, str] = {
    "what": "What it is",
    "fault": "Whose fault it usually is",
    "now": "What to do now",
    "collect": "Collect before a reset",
    "worse": "Worse than it looks when",
    "around": "Before and after it",
    "sources": "Where the sources disagree",
}
"""Name of a section → its heading, in order."""

_ITEM = "* "

OPTIONAL = frozenset({"sources"})


def page(kind: Kind, code: int) -> CodePage | None:
    """The page about a code; None when there is none."""
    return _pages().get((kind, code))


def pages() -> tuple[CodePage, ...]:
    """Every page once: Xids before SXids, then by first code."""
    found = {id(page): page for page in _pages().values()}
    return tuple(sorted(found.values(), key=lambda page: (page.kind is Kind.SXID, page.codes)))


def blocks(text: str) -> Iterator[tuple[bool, str]]:
    """The blocks of a section's text, each as one line: (it is an item of a list, its text)."""
    for block in re.split(r"\n\n+|\n(?=\* )", text):
        is_item = block.startswith(_ITEM)
        yield is_item, " ".join(block.removeprefix(_ITEM).split())


def parse(text: str) -> CodePage:
    """The page of a file's text. Raises ValueError on anything that is not one."""
    head, *parts = re.split(r"^## (.+)$", text.strip() + "\n", flags=re.MULTILINE)
    opening = re.fullmatch(r"# (.+)\n+Codes: (s?xid) ([0-9 -]+)\n*", head)
    if opening is None:
        raise ValueError("a page opens with `# title` and `Codes: xid N …`")
    found = dict(zip(parts[::2], (part.strip() for part in parts[1::2]), strict=True))
    wanted = [heading for name, heading in HEADINGS.items() if name not in OPTIONAL or heading in found]
    if list(found) != wanted or not all(found.values()):
        raise ValueError(f"sections of {opening[1]!r} are {list(found)}, not {wanted}")
    sections = {name: found.get(heading, "") for name, heading in HEADINGS.items()}
    return CodePage(Kind(opening[2]), tuple(sorted(_codes(opening[3]))), opening[1], **sections)


def _codes(text: str) -> Iterator[int]:
    for word in text.split():
        first, _, last = word.partition("-")
        yield from range(int(first), int(last or first) + 1)


@cache
def _pages() -> Mapping[tuple[Kind, int], CodePage]:
    found: dict[tuple[Kind, int], CodePage] = {}
    for path in sorted(PAGES.glob("*.md")):
        page = parse(path.read_text(encoding="utf-8"))
        found |= {(page.kind, code): page for code in page.codes}
    return found
