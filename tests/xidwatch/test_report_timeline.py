"""The picture of the timeline: legible whether there is one event or hundreds."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.command import xidwatch


def log(path: Path, count: int) -> Path:
    """`count` faults of two GPUs, 20 s apart."""
    path.write_text(
        "".join(
            f"[{number * 20:7}.000000] NVRM: Xid (PCI:0000:9{number % 2}:00): 43, pid={number}, name=a\n"
            for number in range(1, count + 1)
        )
    )
    return path


def drawn(path: Path) -> str:
    page = xidwatch("replay", str(path), "--format", "html").out
    return page[page.index("<svg") : page.index("</svg>")]


@pytest.mark.parametrize("count", [1, 30, 500])
def test_marks_do_not_cover_each_other_and_leave_no_event_out(count: int, tmp_path: Path) -> None:
    path = log(tmp_path / "log", count)
    report = json.loads(xidwatch("replay", str(path), "--format", "json").out)
    svg = drawn(path)
    marks = re.findall(
        r'<g class="\w+"><title>[^<]*</title><circle cx="([0-9.]+)" cy="([0-9.]+)"[^>]*/>'
        r'(?:<text class="n"[^>]*>([0-9]+)</text>)?</g>',
        svg,
    )
    assert sum(int(number or 1) for _, _, number in marks) == len(report["events"])
    by_lane: dict[str, list[float]] = {}
    for x, y, _ in marks:
        by_lane.setdefault(y, []).append(float(x))
    for places in by_lane.values():
        assert all(later - earlier > 5 for earlier, later in pairwise(places))


def test_a_fault_that_went_on_is_a_bar(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(
        "".join(
            f"[{number * 2:7}.000000] NVRM: Xid (PCI:0000:91:00): 43, pid=7, name=a, Ch 1\n"
            for number in range(1, 50)
        )
    )
    assert '<rect x="' in drawn(path)
