"""Things by key and time."""

from __future__ import annotations

from daemon.shelf import REMEMBERED, REMEMBERED_US, Shelf


def test_what_is_near_a_time_is_found_in_its_order_whatever_the_order_of_adding() -> None:
    shelf: Shelf[str] = Shelf()
    for at_us in (30, 10, 20, 99):
        shelf.add("a", at_us, 0, f"at {at_us}")
    shelf.add("b", 20, 0, "another key")
    assert list(shelf.near("a", 20, 10)) == ["at 10", "at 20", "at 30"]
    assert list(shelf.of("a")) == ["at 10", "at 20", "at 30", "at 99"]
    assert next(iter(reversed(shelf))) == "another key"


def test_two_things_of_one_time_are_two() -> None:
    shelf: Shelf[list[int]] = Shelf()
    first, second = [1], [1]
    for thing in (first, second):
        shelf.add("a", 10, 0, thing)
    shelf.remove(first)
    [left] = shelf.of("a")
    assert left is second
    shelf.remove(first)
    assert len(shelf.of("a")) == 1


def test_the_oldest_fall_off_by_age_and_by_number() -> None:
    shelf: Shelf[str] = Shelf()
    shelf.add("old", 0, 0, "old")
    shelf.add("a", 0, REMEMBERED_US + 1, "new")
    assert (list(shelf.of("old")), list(shelf.of("a"))) == ([], ["new"])
    for n in range(REMEMBERED):
        shelf.add("b", n, REMEMBERED_US + 1, f"thing {n}")
    assert list(shelf.of("a")) == []
    assert len(shelf.of("b")) == REMEMBERED
