"""Writes docs/catalogue.md from the catalogue's own tables and pages.

$ python docs/catalogue.py          # writes the file
$ python docs/catalogue.py --check  # exits 1 when the file is not up to date
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from daemon.catalog import CodePage, Entry, codes, lookup, page
from daemon.code_pages import pages
from daemon.event import Kind
from daemon.explanation import LABELS
from daemon.grammar.fields import FIELDS
from daemon.tables import rows

FILE = Path(__file__).parent / "catalogue.md"

INTRODUCTION = """\
# Catalogue

Written by `python docs/catalogue.py` from the tables and pages in `daemon/data`; the same data answers
`xidwatch explain`, the MCP tools and the metrics. Severity: `fatal` (GPU or node unusable until reset, reboot
or repair) > `critical` (work lost, hardware or driver) > `warning` > `info`. What a line itself says (Fatal,
`RST: Yes`, the advice of a 154) beats the table.
"""


def document() -> str:
    """The whole document."""
    parts = [
        INTRODUCTION,
        "## Pages\n",
        *(_page(found) for found in pages()),
        "## Every Xid\n",
        *_table(Kind.XID),
        "\n## Numbers that meant something else\n",
        *_older(),
        "\n## NVIDIA's bucket words\n",
        *_rows(
            ("Bucket", "In one sentence"),
            ((f"`{row['bucket']}`", row["text"]) for row in rows("buckets.csv")),
        ),
        "\n## Every SXid\n",
        *_table(Kind.SXID),
        "\n## Fields of `detail`\n",
        *_rows(("Field", "Meaning"), ((f"`{key}`", text) for key, text in FIELDS.items())),
    ]
    return "\n".join(parts) + "\n"


def _page(found: CodePage) -> str:
    sections = "\n".join(f"**{heading}.**\n\n{text}\n" for heading, text in found.sections())
    numbers = ", ".join(map(str, found.codes))
    return f"### {found.title}\n\n*{LABELS[found.kind]} {numbers}*\n\n{sections}"


def _table(kind: Kind) -> Iterator[str]:
    nvidia = kind is Kind.XID
    entries = [entry for code in codes(kind) if (entry := lookup(kind, code)) is not None]
    heads = ("Code", "Name", "What it is", "Severity", "Blame", "Action")
    return _rows(heads + ("NVIDIA: now, then",) * nvidia, (_row(entry, nvidia=nvidia) for entry in entries))


def _row(entry: Entry, *, nvidia: bool) -> Iterator[str]:
    label = f"{LABELS[entry.kind]} {entry.code}"
    about = page(entry.kind, entry.code)
    yield f"[{label}](#{_anchor(about.title)})" if about else label
    yield f"`{entry.name}`"
    yield entry.summary
    yield entry.severity
    yield entry.blame
    yield f"`{entry.action}`: {entry.action_text}"
    if nvidia:
        yield ", ".join(f"`{word}`" for word in (entry.nvidia_action, entry.nvidia_investigation) if word)


def _older() -> Iterator[str]:
    found = (
        (f"{LABELS[kind]} {row['code']}", f"below {row['before']}", f"`{row['name']}`", row["summary"])
        for kind in (Kind.XID, Kind.SXID)
        for row in rows(f"{kind}.csv")
        if row["before"]
    )
    return _rows(("Code", "Driver", "Name", "What it was"), found)


def _rows(heads: Iterable[str], lines: Iterable[Iterable[str]]) -> Iterator[str]:
    heads = tuple(heads)
    yield "| " + " | ".join(heads) + " |"
    yield "|" + " --- |" * len(heads)
    for line in lines:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"


def _anchor(title: str) -> str:
    """The anchor that GitHub and MkDocs give a heading."""
    kept = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -_")
    return kept.replace(" ", "-")


def main() -> int:
    """Write or check the file."""
    text = document()
    if "--check" in sys.argv[1:]:
        return 0 if FILE.is_file() and FILE.read_text(encoding="utf-8") == text else 1
    FILE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
