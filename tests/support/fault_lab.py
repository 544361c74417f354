"""The fault lab: tests marked `@fault(…)`, and the list of faults that they make.

A marked test breaks something that a promise of xidwatch speaks about, and says with `happened` what it
then saw. `--fault-list FILE` writes one row for each into the table of that document; `make faults` does so
with as many rounds as are claimed. A test that failed or was skipped has a row too: nothing drops out.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

import pytest

BEGIN: Final = "<!-- The list: written by `make faults`. -->"
END: Final = "<!-- The end of the list. -->"

PROMISES: Final = {
    1: "Nothing heard is lost",
    2: "Nothing lost is hidden",
    3: "Nobody blocks anybody",
    4: "The fault cannot take the monitor down",
    5: "Only the kernel can raise an alarm",
    6: "Read-only unless told otherwise",
    7: "Quiet when idle",
}
"""The promises by their numbers; README.md explains them."""


def fault(what: str, *, promise: int, promised: str) -> pytest.MarkDecorator:
    """Marks a test as one row: `what` is broken, and what is `promised` then, in a reader's words."""
    if promise not in PROMISES:
        raise ValueError(f"there is no promise {promise}")
    return pytest.mark.fault(what, promise=promise, promised=promised)


def rounds(*, short: int, long: int) -> int:
    """How often to break it: `short` usually, `long` where `XIDWATCH_LONG` is set."""
    return long if _is_long() else short


def _is_long() -> bool:
    return bool(os.environ.get("XIDWATCH_LONG"))


class Happened:
    """What a marked test saw, told in facts with their counts. The last word of a test counts."""

    def __init__(self) -> None:
        self.said: str | None = None
        """None until it was called."""

    def __call__(self, what: str) -> None:
        self.said = what


class Outcome(StrEnum):
    """What became of a promise."""

    HELD = "held"
    BROKEN = "**broken**"
    NOT_RUN = "not run"


_WORSE: Final = (Outcome.HELD, Outcome.NOT_RUN, Outcome.BROKEN)


@dataclass(frozen=True, slots=True)
class Row:
    """One fault of the list."""

    promise: int
    what: str
    promised: str
    happened: tuple[str, ...]
    """For each case what it saw, or why it was not run, or the error of a broken one."""
    outcome: Outcome
    test: str
    """`tests/faults/test_x.py::test_y`"""


_SAID: Final = pytest.StashKey[Happened]()
_ROWS: Final = pytest.StashKey[dict[str, Row]]()


@pytest.fixture
def happened(request: pytest.FixtureRequest) -> Iterator[Happened]:
    """Takes what a marked test saw. One that says nothing has shown nothing, and fails."""
    said = Happened()
    request.node.stash[_SAID] = said
    yield said
    ended = request.node.stash.get(_CALLED, None)
    if ended == "passed" and said.said is None:
        pytest.fail("a test of the fault lab has to say what happened")


_CALLED: Final = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--fault-list FILE`."""
    parser.addoption(
        "--fault-list", type=Path, metavar="FILE", help="write the list of faults into this document"
    )


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """Every marked test tells what happened, whether it asked for the fixture or not."""
    for item in items:
        if item.get_closest_marker("fault") and "happened" not in getattr(item, "fixturenames", ()):
            raise pytest.UsageError(f"{item.nodeid} is marked as a fault and does not take `happened`")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep a row for each marked test that was run."""
    report = yield
    if report.when == "call":
        item.stash[_CALLED] = report.outcome
    mark = item.get_closest_marker("fault")
    if mark is not None and (report.when == "call" or report.outcome != "passed"):
        rows = item.session.stash.setdefault(_ROWS, {})
        rows[item.nodeid] = _row(mark, item, report)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the list where it was asked for."""
    document: Path | None = session.config.getoption("--fault-list")
    rows = session.stash.get(_ROWS, {})
    if document is not None and rows:
        write(document, rows.values())


def _row(mark: pytest.Mark, item: pytest.Item, report: pytest.TestReport) -> Row:
    said = item.stash.get(_SAID, None)
    if report.outcome == "passed":
        outcome, text = Outcome.HELD, (said.said if said else None) or ""
    elif report.outcome == "skipped":
        outcome = Outcome.NOT_RUN
        text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    else:
        outcome, text = Outcome.BROKEN, str(report.longreprtext).strip().splitlines()[-1]
    return Row(mark.kwargs["promise"], mark.args[0], mark.kwargs["promised"], (text,), outcome, item.nodeid)


def write(document: Path, rows: Iterable[Row]) -> None:
    """Replace what stands between the two comments of a document by the table of these rows."""
    text = document.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise pytest.UsageError(f"{document} lacks the line {BEGIN if not begin else END}")
    extent = "as many rounds as the lab can do" if _is_long() else "as few rounds as in CI"
    document.write_text(
        f"{before}{begin}\n\nMade with {extent}.\n\n{table(rows)}\n{end}{after}", encoding="utf-8"
    )


def table(rows: Iterable[Row]) -> str:
    """The list as Markdown: a section for each promise, a line for each fault."""
    by_promise: dict[int, list[Row]] = {}
    for row in _merged(rows):
        by_promise.setdefault(row.promise, []).append(row)
    sections = []
    for promise, its in sorted(by_promise.items()):
        lines = [f"### {promise}. {PROMISES[promise]}", "", "| the fault | what happened | promised | |"]
        lines += ["| --- | --- | --- | --- |"]
        for row in sorted(its, key=lambda row: row.test):
            saw = "<br>".join(map(cell, row.happened))
            lines.append(f"| {cell(row.what)} | {saw} | {cell(row.promised)} | {row.outcome} |")
        sections.append("\n".join(lines) + "\n")
    return "\n".join(sections)


def _merged(rows: Iterable[Row]) -> Iterable[Row]:
    """The cases of one test as one row: what each of them saw, and the worst that became of any."""
    by_test: dict[str, Row] = {}
    for row in rows:
        name = row.test.partition("[")[0]
        before = by_test.get(name, replace(row, happened=()))
        said = dict.fromkeys((*before.happened, *row.happened))
        outcome = max(before.outcome, row.outcome, key=_WORSE.index)
        by_test[name] = replace(row, test=name, happened=tuple(said), outcome=outcome)
    return by_test.values()


def cell(text: str) -> str:
    """A text as it stands in a cell of the table."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
