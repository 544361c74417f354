"""Xidwatch and the rules of others over the same lines: those of the shared corpus, by where each comes from.

A line counts as read when the Xid's code and device are the expected ones, or when no Xid is reported where
none is expected. Lines that tell of a lost GPU without `Xid` are left out: some projects call that an Xid 79.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from daemon import pci
from daemon.decoded import Fault
from daemon.event import Kind
from daemon.grammar import decode, strip_prefix
from tests.peers.rules import RULES, Read

CORPUS: Final = Path(
    os.environ.get("XIDWATCH_CORPUS")
    or Path(__file__).parents[2].parent / "shared" / "data" / "kernel_log_corpus.jsonl"
)
Row = Mapping[str, Any]

ORIGINS: Final[Mapping[str, Callable[[Row], bool]]] = {
    "test cases of gpud": lambda row: row["origin"] == "test" and row["source"].startswith("leptonai/gpud"),
    "test cases of NVSentinel": lambda row: (
        row["origin"] == "test" and row["source"].startswith("NVIDIA/NVSentinel")
    ),
    "test cases of k8s-gpu-mcp-server": lambda row: (
        row["origin"] in ("test", "doc") and row["source"].startswith("ArangoGutierrez/")
    ),
    "test cases of DCGM, node-problem-detector and others": lambda row: row["origin"] in ("test", "doc"),
    "written after the driver's format strings": lambda row: row["origin"] == "derived",
    "captured on machines, with an Xid": lambda row: row["expect"]["is_xid"],
    "captured on machines, without": lambda row: True,
}
"""Where a line comes from; the first one that holds counts."""


@dataclass(frozen=True, slots=True)
class Score:
    """How the lines of one origin were read."""

    origin: str
    lines: int
    read: Mapping[str, int]
    """Project → lines read as expected."""


@cache
def rows() -> Sequence[Row]:
    """The lines that are judged; empty where the corpus is not."""
    if not CORPUS.is_file():
        return ()
    found = map(json.loads, CORPUS.read_text("utf-8").splitlines())
    return [row for row in found if row["expect"]["kind"] != "gpu_lost_text"]


def xidwatch(message: str) -> Read | None:
    """What xidwatch reports."""
    fault = decode(message)
    if not isinstance(fault, Fault) or fault.kind is not Kind.XID or fault.code is None:
        return None
    return Read(fault.code, fault.pci or "")


READERS: Final[Mapping[str, Callable[[str], Read | None]]] = {
    "xidwatch": xidwatch,
    **{rule.project: rule.read for rule in RULES},
}


def is_as_expected(row: Row, read: Callable[[str], Read | None]) -> bool:
    """Whether a reader takes this line for what it is."""
    found, expect = read(strip_prefix(row["line"])[0]), row["expect"]
    if not expect["is_xid"]:
        return found is None
    device = expect.get("bdf") or expect["pci"]
    return found is not None and found.code == expect["xid"] and pci.normalize(found.device) == device.lower()


def scores() -> Iterator[Score]:
    """One for each origin that the corpus has lines of."""
    by_origin: dict[str, list[Row]] = {origin: [] for origin in ORIGINS}
    for row in rows():
        by_origin[next(origin for origin, holds in ORIGINS.items() if holds(row))].append(row)
    for origin, lines in by_origin.items():
        if lines:
            read = {name: sum(is_as_expected(row, each) for row in lines) for name, each in READERS.items()}
            yield Score(origin, len(lines), read)
