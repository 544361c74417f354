"""Patterns are told only of what the log names, and what one place did is not crowded out by another."""

from __future__ import annotations

from daemon.incidents.memory import Memory, Sighting
from tests.support.incidents import Node
from tests.support.records import GPU, xid

DAY_US = 86_400 * 1_000_000


def test_programs_that_are_not_named_are_not_said_to_be_the_same() -> None:
    node = Node()
    for n in range(5):
        node.hear(1 + 7 * n, xid(43, f"pid={10 + n}, channel 0x00000001"))
    node.wait(60)
    assert node.incidents() == []


def test_a_refused_access_from_another_gpu_is_no_failure_of_programs_on_this_one() -> None:
    node = Node()
    for n, name in enumerate(("a", "b", "c")):
        node.hear(1 + 20 * n, xid(137, f"pid={10 + n}, name={name}, NVLink: remote access refused"))
    node.wait(100)
    assert node.incidents() == []


def test_a_crash_loop_names_the_program() -> None:
    node = Node()
    for n in range(3):
        node.hear(1 + 7 * n, xid(43, f"pid={10 + n}, name=train, channel 0x00000001"))
    node.wait(60)
    assert "3 processes named train failed within 10 minutes" in node.incident().summary


def test_a_crash_loop_longer_than_what_is_remembered_counts_at_least() -> None:
    node = Node()
    for n in range(60):
        node.hear(1 + 7 * n, xid(43, f"pid={10 + n}, name=train, channel 0x00000001"))
    node.wait(500)
    assert "at least 48 processes named train failed within 10 minutes" in node.incident().summary


def test_a_storm_of_programs_errors_does_not_push_out_what_the_memory_did() -> None:
    memory = Memory()
    memory.note(GPU, Sighting("row 0x12", 0, "ev_row"))
    memory.note(GPU, Sighting("recovered Xid 79", 0, "inc_79"))
    for n in range(1000):
        memory.note(GPU, Sighting("program", DAY_US + n, f"ev_{n}", n, "train"))
    assert [each.event for each in memory.of(GPU)][:2] == ["ev_row", "inc_79"]
    assert len(memory.of(GPU)) < 100
