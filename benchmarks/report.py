"""`python -m benchmarks report [FILE …]`: figures of runs as a part of docs/benchmarks.md.

The part between two comments of the document is written anew: for each file the machine, the table and the
plots beside the file. Without files those are taken that it shows already, so that nothing there is typed by
hand.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.result import UnreadableError, read
from benchmarks.table import header, table

DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- figures: python -m benchmarks report -->", "<!-- end of figures -->"
_SOURCE = re.compile(r"^Figures: \[.*\]\((.*)\)", re.MULTILINE)
_TITLE = re.compile(r"<title>(.*?)</title>", re.DOTALL)


def main(arguments: Sequence[str]) -> int:
    """Write the figures of these files into the document; the exit code. Raises UnreadableError."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks report", description="Write figures into a document."
    )
    parser.add_argument("files", type=Path, nargs="*", metavar="FILE", help="default: those it shows already")
    parser.add_argument(
        "--document", type=Path, default=DOCUMENT, metavar="FILE", help="default: %(default)s"
    )
    asked = parser.parse_args(arguments)
    text = _text(asked.document)
    files = asked.files or sources(text, asked.document.parent)
    asked.document.write_text(with_figures(text, files, asked.document.parent), encoding="utf-8")
    print(f"{asked.document}: figures of {', '.join(map(str, files)) or 'no file'}")
    return 0


def sources(text: str, folder: Path) -> list[Path]:
    """The files whose figures a document in this folder shows. Raises UnreadableError."""
    return [folder / path for path in _SOURCE.findall(_parts(text)[1])]


def with_figures(text: str, files: Sequence[Path], folder: Path) -> str:
    """The text of a document in `folder`, with the figures of these files. Raises UnreadableError."""
    before, _, after = _parts(text)
    sections = "\n".join(_section(file, folder) for file in files)
    return f"{before}{BEGIN}\n\n{sections}\n{END}{after}"


def _section(file: Path, folder: Path) -> str:
    """One run: its machine, its table, its plots."""
    result = read(file)
    link = os.path.relpath(file, folder)
    minutes = f"{result.seconds / 60:.0f} minutes" if result.seconds >= 90 else f"{result.seconds:.0f} s"
    lines = [
        f"### {result.machine['cpu']}",
        "",
        f"Figures: [{file.name}]({link}), a {result.extent} run of {minutes}.",
        "",
        "```text",
        header(result.machine),
        "",
        table(result.outcomes),
        "```",
        "",
    ]
    for plot in sorted(file.parent.glob("*.svg")):
        lines += [f"![{_title(plot)}]({os.path.relpath(plot, folder)})", ""]
    return "\n".join(lines)


def _title(plot: Path) -> str:
    found = _TITLE.search(plot.read_text(encoding="utf-8"))
    return found[1] if found else plot.stem


def _text(document: Path) -> str:
    try:
        return document.read_text(encoding="utf-8")
    except OSError as error:
        raise UnreadableError(f"cannot read {document}: {error.strerror}") from error


def _parts(text: str) -> tuple[str, str, str]:
    """What stands before the figures, the figures, and what stands after them."""
    before, begin, rest = text.partition(BEGIN)
    figures, end, after = rest.partition(END)
    if not begin or not end:
        raise UnreadableError(f"the document has no part between {BEGIN} and {END}")
    return before, figures, after
