"""The catalogue's files in `daemon/data`, and how driver versions compare."""

from __future__ import annotations

import csv
import re
from functools import lru_cache
from pathlib import Path

DATA = Path(__file__).parent / "data"
"""Folder of the catalogue's tables and pages."""

Version = tuple[int, ...]


def rows(file: str) -> list[dict[str, str]]:
    """Every row of a table, in order; keys are the column names."""
    with (DATA / file).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@lru_cache(maxsize=16)
def version(text: str) -> Version | None:
    """`580.159.04` → (580, 159, 4), to be compared; None for anything else."""
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})*", text):
        return None
    return tuple(int(part) for part in text.split("."))
