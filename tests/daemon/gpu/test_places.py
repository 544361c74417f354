"""How many questions are under way at the same time, of each GPU and of all."""

from __future__ import annotations

from daemon.gpu.places import Places


def test_one_gpu_takes_no_more_than_its_own() -> None:
    places = Places(each=2, together=10)
    assert [places.take("a") for _ in range(3)] == [True, True, False]
    assert places.take("b")


def test_all_together_take_no_more_than_there_are() -> None:
    places = Places(each=1, together=2)
    assert [places.take(gpu) for gpu in ("a", "b", "c", None)] == [True, True, False, False]


def test_a_place_that_was_given_back_can_be_taken_again() -> None:
    places = Places(each=1, together=1)
    assert places.take("a")
    assert places.holds("a")
    places.give_back("a")
    assert not places.holds("a")
    assert places.take("b")


def test_questions_with_a_share_leave_the_rest_to_others() -> None:
    places = Places(each=4, together=8)
    assert [places.take("a", share=0.5) for _ in range(3)] == [True, True, False]
    assert [places.take("b", share=0.5) for _ in range(3)] == [True, True, False]
    assert not places.take("c", share=0.5)
    assert places.take("c")
    assert [places.take("a") for _ in range(3)] == [True, True, False]
