"""Who has to go when there is no room for another connection."""

from __future__ import annotations

import pytest

from mcp_server.room import Room, Seat


class Street:
    """Connections with names, and a room for them."""

    def __init__(self, places: int = 100, always: int = 2, waiting: int = 100) -> None:
        self.room = Room(places, always=always, waiting=waiting)
        self.ended: list[str] = []

    def enter(self, name: str, address: str = "10.0.0.1") -> Seat | None:
        """One that waits, if it finds a place."""
        return self.room.enter(address, lambda: self.ended.append(name))

    def enter_and_ask(self, name: str, address: str = "10.0.0.1") -> Seat:
        """One that is being answered."""
        seat = self.enter(name, address)
        assert seat is not None
        seat.answered()
        return seat


def test_the_one_that_has_waited_longest_makes_room() -> None:
    street = Street(waiting=3)
    for name in ("first", "second", "third", "fourth", "fifth"):
        assert street.enter(name)
    assert street.ended == ["first", "second"]
    assert (street.room.taken, street.room.waiting, street.room.cut) == (3, 3, 2)


def test_one_that_is_being_answered_is_never_cut_for_another() -> None:
    street = Street(waiting=2)
    street.enter_and_ask("reader")
    for name in ("first", "second", "third"):
        assert street.enter(name)
    assert street.ended == ["first"]


def test_one_that_waits_again_is_the_last_in_the_row() -> None:
    street = Street(waiting=2)
    kept = street.enter_and_ask("kept")
    street.enter("silent")
    kept.waits()
    street.enter("new")
    assert street.ended == ["silent"]


def test_one_that_still_waits_keeps_its_place_in_the_row() -> None:
    street = Street(waiting=2)
    first = street.enter("first")
    assert first is not None
    street.enter("second")
    first.waits()
    street.enter("third")
    assert street.ended == ["first"]


def test_an_address_that_has_its_share_makes_room_for_itself() -> None:
    street = Street(places=4, always=1)
    street.enter("another", "10.0.0.2")
    street.enter("first")
    street.enter("second")
    assert street.enter("third") is not None
    assert street.ended == ["first"]


def test_an_address_whose_connections_are_all_answered_gets_no_more_than_its_share() -> None:
    street = Street(places=4, always=1)
    for name in ("first", "second"):
        street.enter_and_ask(name)
    assert street.enter("third") is None
    assert street.enter("of another", "10.0.0.2") is not None
    assert (street.ended, street.room.refused) == ([], 1)


def test_when_all_is_overfull_the_oldest_of_any_address_makes_room() -> None:
    street = Street(places=2, always=1)
    for number in range(4):
        assert street.enter(f"of {number}", f"10.0.0.{number}")
    assert street.enter("new", "10.0.0.9")
    assert street.ended == ["of 0"]


def test_a_place_is_given_back_once() -> None:
    street = Street(places=2, always=1)
    seat = street.enter("first")
    assert seat is not None
    seat.leave()
    seat.leave()
    seat.waits()
    seat.answered()
    assert (street.room.taken, street.room.waiting) == (0, 0)
    assert street.enter("again") is not None


def test_a_flood_is_logged_and_does_not_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    street = Street(waiting=2)
    for number in range(1_000):
        street.enter(str(number))
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("too many connections")


def test_at_the_end_everyone_is_ended() -> None:
    street = Street()
    street.enter("waits")
    street.enter_and_ask("reads")
    street.room.end_all()
    assert sorted(street.ended) == ["reads", "waits"]
