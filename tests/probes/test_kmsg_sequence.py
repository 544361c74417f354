from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from probes.kmsg_sequence import SequenceTracker


def test_the_first_record_sets_the_base() -> None:
    tracker = SequenceTracker()
    assert tracker.take(500) == range(0)
    assert tracker.take(501) == range(0)
    assert tracker.last == 501


def test_a_hole_is_exactly_what_was_lost() -> None:
    tracker = SequenceTracker()
    tracker.take(10)
    assert tracker.take(14) == range(11, 14)


def test_a_log_that_begins_before_the_expected_record_has_lost_nothing() -> None:
    tracker = SequenceTracker(100)
    assert tracker.take(7) == range(0)
    assert tracker.take(8) == range(0)
    assert tracker.restarts == 0


def test_a_log_that_begins_after_the_expected_record_has_lost_those_between() -> None:
    assert SequenceTracker(100).take(103) == range(100, 103)


def test_numbers_that_go_back_begin_another_log() -> None:
    tracker = SequenceTracker()
    tracker.take(50)
    assert tracker.take(3) == range(0)
    assert tracker.take(5) == range(4, 5)
    assert tracker.restarts == 1


@given(st.lists(st.integers(0, 60), unique=True, min_size=1).map(sorted), st.data())
def test_rereading_tells_each_record_once_and_loses_count_of_none(
    seqs: list[int], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(1, len(seqs)))
    oldest = data.draw(st.integers(0, len(seqs) - 1))
    tracker = SequenceTracker()
    told: list[int] = []
    missing: set[int] = set()
    for part in (seqs[:cut], seqs[min(oldest, cut) :]):
        for seq in part:
            lost = tracker.take(seq)
            if lost is not None:
                missing.update(lost)
                told.append(seq)
        assert tracker.caught_up()
        tracker.reread()
    assert told == seqs
    assert missing == set(range(seqs[0], seqs[-1])) - set(seqs)


def test_rereading_a_log_that_ends_too_early_shows_that_it_is_another() -> None:
    tracker = SequenceTracker()
    tracker.take(50)
    tracker.reread()
    assert tracker.take(3) is None
    assert not tracker.caught_up()
