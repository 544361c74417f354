"""What every reader of the stream may rely on, checked against what a reader was given."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from tests.support.readers import Item


def check_read_in_order(seen: Sequence[Item]) -> None:
    """Cursors grow, and no revision comes twice.

    A revision that went out before it was stored may be lost to a kill and be made again.
    """
    assert all(before["cursor"] < after["cursor"] for before, after in pairwise(seen))
    told: dict[tuple[str, int], Item] = {}
    for item in seen:
        earlier = told.setdefault((item["id"], item["revision"]), item)
        assert earlier is item or not earlier["stored"], f"told twice: {earlier} and {item}"


def check_read_everything(seen: Sequence[Item], kept: Sequence[Item]) -> None:
    """Of every event that is kept, the last thing that was read is its last revision."""
    last = {item["id"]: item for item in seen}
    for item in kept:
        assert item["id"] in last, f"never read: {item}"
        assert last[item["id"]] | {"stored": True} == item | {"stored": True}
