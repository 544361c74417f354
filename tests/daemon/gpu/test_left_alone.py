from __future__ import annotations

from daemon.gpu.answers import Unanswered
from daemon.gpu.left_alone import LeftAlone
from daemon.gpu.protocol import Trouble

HUNG = Unanswered(Trouble.HUNG, "it hangs", "nvmlDeviceGetName", 5)


def test_a_gpu_is_left_alone_until_its_time_is_over() -> None:
    left = LeftAlone()
    left.add("a", HUNG, since_us=5, until=100.0)
    assert left.answer("a", 99.9) is HUNG
    assert left.answer("a", 100.0) is None
    assert left.answer("b", 0.0) is None
    assert left.calls(100.0) == ()


def test_a_forgiven_gpu_may_be_asked() -> None:
    left = LeftAlone()
    left.add("a", HUNG, since_us=5, until=100.0)
    left.forgive("a")
    left.forgive("never seen")
    assert left.answer("a", 0.0) is None


def test_what_was_called_before_a_moment_is_forgiven_and_no_other() -> None:
    left = LeftAlone()
    left.add("early", HUNG, since_us=5, until=100.0)
    left.add(None, HUNG, since_us=6, until=100.0)
    left.add("late", HUNG, since_us=7, until=100.0)
    left.forgive_before(6)
    assert [call.gpu for call in left.calls(0.0)] == ["late"]


def test_calls_are_told_the_longest_first() -> None:
    left = LeftAlone()
    left.add("young", HUNG, since_us=9, until=100.0)
    left.add(None, HUNG, since_us=3, until=100.0)
    assert [(call.gpu, call.call, call.since_us) for call in left.calls(0.0)] == [
        (None, "nvmlDeviceGetName", 3),
        ("young", "nvmlDeviceGetName", 9),
    ]
