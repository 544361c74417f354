"""docs/catalogue.md says what the tables and pages say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_document_is_what_its_command_writes() -> None:
    done = subprocess.run([sys.executable, "docs/catalogue.py", "--check"], cwd=ROOT, check=False)
    assert done.returncode == 0, "run: python docs/catalogue.py"


def test_links_within_the_document_lead_to_a_heading() -> None:
    text = (ROOT / "docs" / "catalogue.md").read_text(encoding="utf-8")
    headings = {
        "".join(
            letter for letter in line.lstrip("# ").lower() if letter.isalnum() or letter in " -_"
        ).replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }
    targets = {part.partition(")")[0] for part in text.split("](#")[1:]}
    assert targets
    assert targets <= headings
