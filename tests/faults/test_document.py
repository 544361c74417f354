"""docs/fault-lab.md lists exactly the faults that the tests bring about."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.fault_lab import BEGIN, END, cell

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs/fault-lab.md"
COLLECTING = """
import pytest
class Marks:
    def pytest_collection_finish(self, session):
        for item in session.items:
            mark = item.get_closest_marker("fault")
            print("ROW", item.nodeid.partition("[")[0], mark.args[0], mark.kwargs["promised"], sep="\\t")
quiet = ["--collect-only", "-qq", "-m", "fault", "-p", "no:cacheprovider"]
raise SystemExit(pytest.main(quiet, plugins=[Marks()]))
"""


def test_the_list_has_each_fault_that_is_brought_about_and_no_other() -> None:
    collected = subprocess.run(
        [sys.executable, "-c", COLLECTING], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert collected.returncode == 0, collected.stdout[-2000:]
    rows = {tuple(line.split("\t")[1:]) for line in collected.stdout.splitlines() if line.startswith("ROW\t")}
    assert len(rows) >= 20
    marked = sorted((cell(what), cell(promised)) for _test, what, promised in rows)
    listed = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    cells = [line.removeprefix("| ").split(" | ") for line in listed.splitlines() if line.startswith("| ")]
    told = sorted((row[0], row[2]) for row in cells if row[0] not in {"the fault", "---"})
    assert told == marked, "run `make faults`"
