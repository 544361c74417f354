"""A call that hangs is told by one call and one clock, wherever an answer tells it."""

from __future__ import annotations

from daemon.gpu.answers import HungCall, Unanswered, not_returned
from daemon.gpu.hanging import one_each, reading_as_of, state_as_of
from daemon.gpu.protocol import Trouble
from daemon.gpu.readings import Reading
from daemon.gpu.source import SourceName, SourceState

SINCE_US = 1_790_000_000_000_000
NOW_US = SINCE_US + 16_000_000
A, B = "0000:18:00.0", "0000:19:00.0"
SAID = "nvmlDeviceGetName has not returned since 14:13:20Z (16 s)"


def hung(gpu: str | None, call: str = "nvmlDeviceGetName", trouble: Trouble = Trouble.HUNG) -> HungCall:
    return HungCall(gpu, call, SINCE_US, trouble)


def silent(pci: str, trouble: str = Trouble.HUNG) -> Reading:
    return Reading(pci, answered=False, trouble=trouble, reason="as it was asked")


def test_how_long_it_lasts_is_told_as_of_now() -> None:
    assert not_returned("nvmlDeviceGetName", SINCE_US, NOW_US) == SAID
    assert not_returned("", SINCE_US) == "an NVML call has not returned since 14:13:20Z"
    answer = Unanswered(Trouble.HUNG, "old", "nvmlDeviceGetName", SINCE_US)
    assert answer.as_of(NOW_US).reason == SAID
    for other in (
        Unanswered(Trouble.CRASHED, "it crashed", "nvmlDeviceGetName", SINCE_US),
        Unanswered(Trouble.HUNG, "workers are stuck"),
    ):
        assert other.as_of(NOW_US) == other


def test_a_reading_says_what_the_state_says() -> None:
    state = SourceState(SourceName.OK, hung=(hung(A), hung(B, trouble=Trouble.CRASHED)))
    assert reading_as_of(silent(A), state, NOW_US).reason == SAID
    for reading in (silent(B), silent(A, "slow"), Reading(A, answered=True)):
        assert reading_as_of(reading, state, NOW_US) == reading


def test_where_the_library_hangs_every_gpu_says_so() -> None:
    state = state_as_of(SourceState(SourceName.HUNG, reason="old", hung=(hung(None),)), NOW_US)
    assert state.reason == SAID
    assert reading_as_of(silent(A), state, NOW_US).reason == SAID
    other = SourceState(SourceName.HUNG, reason="workers are stuck")
    assert state_as_of(other, NOW_US) == other


def test_of_two_calls_on_one_gpu_the_longer_is_told() -> None:
    later = HungCall(A, "nvmlDeviceGetSerial", SINCE_US + 1, Trouble.HUNG)
    assert one_each([later, hung(A), hung(B)]) == (hung(A), hung(B))
