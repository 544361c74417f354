"""docs/events.md names every key of an event, and no other."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path

import pytest

from daemon.event import Action, Blame, Kind, Severity
from mcp_server.wire import EventOut, GpuOut, ProcessOut

TEXT = (Path(__file__).parents[1] / "docs" / "events.md").read_text(encoding="utf-8")


def keys(prefix: str) -> set[str]:
    """The first cells of the table rows that begin so."""
    found: list[str] = re.findall(rf"^\| `{prefix}([a-z_]+)` \|", section("Keys"), re.MULTILINE)
    return set(found)


def section(title: str) -> str:
    return TEXT.partition(f"## {title}\n")[2].partition("\n## ")[0]


def names(model: type[EventOut | GpuOut | ProcessOut]) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


def test_the_table_of_keys_has_each_key_of_an_event() -> None:
    assert keys("") == names(EventOut)


def test_the_tables_of_gpu_and_process_have_each_of_their_keys() -> None:
    assert keys(r"gpu\.") == names(GpuOut)
    assert keys(r"process\.") == names(ProcessOut)


@pytest.mark.parametrize(("title", "words"), [("Kinds", Kind), ("Severities", Severity), ("Actions", Action)])
def test_each_word_of_a_closed_set_is_there(title: str, words: type[StrEnum]) -> None:
    assert set(words) <= set(re.findall(r"`([a-z_]+)`", section(title)))


def test_each_party_that_may_be_to_blame_is_there() -> None:
    row = next(line for line in TEXT.splitlines() if line.startswith("| `blame` |"))
    assert set(Blame) <= set(re.findall(r"`([a-z_]+)`", row))
