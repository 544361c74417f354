"""Which index each GPU has, and where a GPU is of which only the index is known."""

from __future__ import annotations

from daemon.gpu.answers import HungCall
from daemon.gpu.expected_gpu import ExpectedGpu, Presence
from daemon.gpu.numbering import Numbering, has_address, place, placed, places
from daemon.gpu.protocol import Trouble
from daemon.gpu.readings import Reading

A, B, C = "0000:18:00.0", "0000:19:00.0", "0000:1a:00.0"


def gpus(*indices: int | None, lost: str | None = None) -> list[ExpectedGpu]:
    presence = {lost: Presence.LOST}
    return [
        ExpectedGpu(pci, index=index, presence=presence.get(pci, Presence.PRESENT))
        for pci, index in zip((A, B, C), indices, strict=True)
    ]


def readings(*places: str) -> list[Reading]:
    return [Reading(pci, answered=False) for pci in places]


def test_an_index_that_was_remembered_counts_while_the_set_is_the_same() -> None:
    numbering = Numbering()
    assert numbering.indices(gpus(0, 1, 2), numbering.count(1)) == {A: 0, B: 1, C: 2}
    numbering.set_changed()
    assert numbering.indices(gpus(0, 1, 2), numbering.count(1)) == {}


def test_an_index_that_was_read_now_is_no_other_gpus() -> None:
    numbering = Numbering()
    numbering.read({A: 0, B: 1, C: 2}, numbering.count(1))
    numbering.read({C: 1}, numbering.count(2))
    assert numbering.is_current(C, numbering.count(2))
    assert not numbering.is_current(B, numbering.count(2))
    assert numbering.indices(gpus(0, 1, 1), numbering.count(2)) == {A: 0, C: 1}


def test_a_lost_gpu_has_none_and_two_that_were_told_the_same_have_none() -> None:
    numbering = Numbering()
    numbering.read({A: 0, B: 1, C: 1}, numbering.count(1))
    assert numbering.indices(gpus(0, 1, 1), numbering.count(1)) == {A: 0}
    assert numbering.indices(gpus(0, 1, 1, lost=B), numbering.count(1)) == {A: 0, C: 1}


def test_an_index_that_could_not_be_read_is_not_the_one_of_before() -> None:
    numbering = Numbering()
    numbering.read({A: None}, numbering.count(1))
    assert numbering.indices(gpus(0, 1, 2), numbering.count(1)) == {B: 1, C: 2}


def test_an_index_of_before_the_set_changed_counts_where_the_others_leave_no_other() -> None:
    numbering = Numbering()
    numbering.read({A: 0, B: 1, C: 2}, numbering.count(1))
    numbering.set_changed()
    numbering.read({A: 0, C: 2}, numbering.count(2))  # the driver was loaded anew, and B hangs
    assert numbering.indices(gpus(0, 1, 2), numbering.count(2)) == {A: 0, B: 1, C: 2}
    assert numbering.indices(gpus(0, 1, 2, lost=A), numbering.count(2)) == {B: 1, C: 2}  # A is counted still


def test_an_index_that_may_have_moved_is_not_known() -> None:
    numbering = Numbering()
    numbering.read({A: 0, B: 1, C: 2}, numbering.count(1))
    numbering.set_changed()
    numbering.read({B: 0}, numbering.count(2))  # A is gone, and C hangs: it is number 1 now
    lost = gpus(0, 0, 2, lost=A)
    indices = numbering.indices(lost, numbering.count(2))
    assert indices == {B: 0}
    assert numbering.last_holders(lost, indices) == {C: 2}  # number 0 is another's now


def test_the_last_holder_of_an_index_is_the_one_that_was_read_last() -> None:
    numbering = Numbering()
    numbering.read({A: 1}, numbering.count(1))
    numbering.set_changed()
    numbering.read({B: 1}, numbering.count(2))
    numbering.set_changed()
    assert numbering.last_holders(gpus(1, 1, None, lost=B), {}) == {B: 1}


def test_the_only_gpu_that_is_missing_is_the_one_known_by_its_index_alone() -> None:
    assert places(readings(A, C, "#7"), gpus(0, 1, 2)) == {"#7": B}
    assert places(readings(A, C, "#1"), gpus(0, None, 2)) == {"#1": B}


def test_of_several_it_is_the_one_that_had_the_index() -> None:
    assert places(readings("#0", "#1", C), gpus(0, 1, 2)) == {"#0": A, "#1": B}
    assert places(readings("#0", "#5", C), gpus(0, 1, 2)) == {"#0": A, "#5": "at NVML index 5"}


def test_where_gpus_are_missing_or_new_an_index_names_none() -> None:
    assert places(readings(A, "#1"), gpus(0, 1, 2)) == {"#1": "at NVML index 1"}
    assert places(readings("#0"), []) == {"#0": "at NVML index 0"}


def test_a_lost_gpu_that_nvml_still_counts_is_the_missing_one() -> None:
    assert places(readings(A, "#1", C), gpus(0, 1, 2, lost=B)) == {"#1": B}
    assert places(readings(A, C), gpus(0, 1, 2, lost=B)) == {}


def test_a_place_without_an_address_is_told_by_its_index() -> None:
    assert (place("#3"), place(A)) == ("at NVML index 3", A)
    assert [has_address(each) for each in ("#3", "at NVML index 3", A)] == [False, False, True]


def test_a_call_that_hangs_is_told_where_its_gpu_is() -> None:
    call = HungCall("#3", "nvmlDeviceGetName", 5, Trouble.HUNG)
    assert placed(call, {"#3": B}).gpu == B
    assert placed(call, {}).gpu == "at NVML index 3"
    for gpu in (A, None):
        known = HungCall(gpu, "nvmlDeviceGetName", 5, Trouble.HUNG)
        assert placed(known, {"#3": B}) == known
