"""The commands of docs/benchmarks.md and docs/scaling.md, run as they stand on a copy of the kept results."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import scaling
from benchmarks.figure import Plan, Unavailable
from benchmarks.scaling import Scale
from benchmarks.series import Series
from tests.docs.documents import Command, commands
from tests.support.daemon import ROOT

RESULTS = Path("benchmarks/results")
DOCUMENTS = ("docs/benchmarks.md", "docs/scaling.md")


def typed() -> Sequence[Command]:
    """Those that name a Python module; `make` is looked at by the tests of the documents."""
    return [each for each in commands() if each.document in DOCUMENTS and each.program == "python"]


@pytest.fixture
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with the kept results and the document that they go into."""
    shutil.copytree(ROOT / RESULTS, tmp_path / RESULTS)
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / DOCUMENTS[0], tmp_path / DOCUMENTS[0])
    figures = next((tmp_path / RESULTS).glob("*/figures.json"))
    for name in ("before.json", "after.json"):
        shutil.copy(figures, tmp_path / name)
    monkeypatch.chdir(tmp_path)

    def measure(plan: Plan) -> Sequence[Series]:
        raise Unavailable("each scale has a test of its own")

    scales = tuple(Scale(each.name, each.title, measure) for each in scaling.SCALES)
    monkeypatch.setattr(scaling, "SCALES", scales)


@pytest.mark.usefixtures("_place")
@pytest.mark.parametrize("command", typed(), ids=str)
def test_a_command_of_the_documents_ends_well(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, line = command.text.partition(" -m ")
    module, *words = line.split()
    if words[:1] == ["report"]:
        words += ["--document", DOCUMENTS[0]]
    run = {"benchmarks": benchmarks.main, "benchmarks.scaling": scaling.main}[module]
    code = run(words)
    said = capsys.readouterr()
    if "no matplotlib" in said.err or "pip install failed" in said.err:
        pytest.skip(said.err.strip().splitlines()[-1])
    assert code == 0, said.err
    assert said.out
