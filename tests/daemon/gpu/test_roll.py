"""Whose events are asked for, and what is said of the others."""

from __future__ import annotations

from daemon.gpu.roll import MOST_NAMED, Present, Roll

A, B, C = "0000:01:00.0", "0000:02:00.0", "0000:03:00.0"


def test_of_what_is_known_completely_everyone_is_asked_who_may_be() -> None:
    roll = Roll()
    call = roll.call(Present(frozenset({A, B, C}), complete=True, alone={B: "sick", "elsewhere": "sick"}), 0)
    assert (call.gpus, call.skip) == ([A, C], [B])
    roll.answered([A], {C: "not supported"})
    assert roll.sentence() == f"2 of 3 GPUs are not heard: {B} (sick); {C} (not supported)"


def test_of_what_is_not_known_completely_the_library_says_who_there_is() -> None:
    assert Roll().call(Present(frozenset({A})), 0).gpus is None


def test_a_gpu_that_must_not_be_touched_rules_out_asking_by_index() -> None:
    assert Roll().call(Present(frozenset({A, B}), alone={B: "sick"}), 0).gpus == [A]


def test_one_that_hung_is_asked_again_after_its_time_or_when_all_are_forgiven() -> None:
    roll, there = Roll(), Present(frozenset({A, B}), complete=True)
    roll.leave_out(B, "it hung", until=10)
    assert roll.call(there, 9).gpus == [A]
    assert not roll.is_outdated(there)  # a beginning that may hang is not worth it
    assert roll.call(there, 10).gpus == [A, B]
    roll.leave_out(B, "it hung", until=20)
    roll.forgive()
    assert roll.call(there, 11).gpus == [A, B]


def test_it_is_outdated_by_who_comes_and_by_who_goes() -> None:
    roll = Roll()
    roll.call(Present(frozenset({A, B}), complete=True), 0)
    roll.answered([A, B], {})
    assert not roll.is_outdated(Present(frozenset({A, B}), complete=True))
    assert not roll.is_outdated(Present(frozenset({A})))  # there may be others
    assert roll.is_outdated(Present(frozenset({A}), complete=True))
    assert roll.is_outdated(Present(frozenset({A, B, C}), complete=True))
    assert not roll.is_outdated(Present(frozenset({A, B, C}), complete=True, alone={C: "sick"}))


def test_a_long_list_is_cut_and_counted() -> None:
    roll = Roll()
    roll.answered([A], {f"#{index}": "no" for index in range(10, 10 + MOST_NAMED + 2)})
    sentence = roll.sentence()
    assert sentence is not None
    assert sentence.startswith("10 of 11 GPUs are not heard: #10 (no); ")
    assert sentence.endswith("; and 2 more")


def test_nobody_to_ask_has_a_reason() -> None:
    roll = Roll()
    assert roll.call(Present(frozenset(), complete=True), 0).gpus == []
    assert roll.nobody() == "no GPU may be asked: none is there"
