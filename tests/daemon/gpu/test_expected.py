"""GPUs that are expected, vanish, and come back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from daemon.event import Event, Gpu, Kind
from daemon.gpu.expected import MOST_STRANGERS, Answers, Change, ExpectedGpus, Sighting, sightings
from daemon.gpu.expected_gpu import LAST_EVENTS, ExpectedGpu, Presence
from daemon.gpu.readings import Identity, Reading
from tests.support.events import TIME_US, XID_79

A, B = "0000:91:00.0", "0000:b3:00.0"
SECOND = 1_000_000
UUIDS = {A: "GPU-aaaa", B: "GPU-bbbb"}


def seen(pci: str, answers: Answers = Answers.YES, **more: object) -> Sighting:
    return replace(Sighting(pci, answers, UUIDS[pci], name="NVIDIA H200"), **more)  # type: ignore[arg-type]  # names of fields


class Node:
    """A table fed with looks at the times of `tests.support.events`, in seconds after `TIME_US`."""

    def __init__(self) -> None:
        self.table = ExpectedGpus()

    def look(
        self, at_s: float, *sightings: Sighting, complete: bool = True, recent: Iterable[Event] = ()
    ) -> tuple[Change, ...]:
        asked_us = TIME_US + round(at_s * SECOND)
        return self.table.observe(sightings, asked_us=asked_us, complete=complete, recent=recent)

    def hear(self, event: Event, recent: Iterable[Event] = ()) -> tuple[Change, ...]:
        return self.table.heard(event, recent)

    def gpu(self, pci: str = A) -> ExpectedGpu:
        gpu = self.table.get(pci)
        assert gpu is not None
        return gpu


@pytest.fixture
def node() -> Node:
    """Two GPUs that answered ten seconds before the first event."""
    node = Node()
    node.look(-10, seen(A, index=0), seen(B, index=1))
    return node


def event(at_s: float, code: int, pci: str = A, **changes: Any) -> Event:
    time_us = TIME_US + round(at_s * SECOND)
    return replace(
        XID_79,
        id=f"ev_{code}_{at_s}",
        code=code,
        gpu=Gpu(pci),
        time_us=time_us,
        **changes,
    )


def test_a_gpu_that_answered_is_expected_and_present(node: Node) -> None:
    assert [gpu.pci for gpu in node.table.all()] == [A, B]
    assert node.table.lost() == ()
    assert (node.gpu().uuid, node.gpu().index, node.gpu().name) == ("GPU-aaaa", 0, "NVIDIA H200")


def test_a_gpu_missing_from_a_complete_list_is_gone_since_the_look_with_its_last_events(node: Node) -> None:
    heard = [event(n, 63) for n in range(8)] + [event(8, 31, B)]
    (change,) = node.look(20, seen(B), recent=heard)
    assert change.lost
    gpu = node.gpu()
    assert (gpu.presence, gpu.since_us) == (Presence.GONE, TIME_US + 20 * SECOND)
    assert gpu.seen_us == TIME_US - 10 * SECOND
    assert [words.id for words in gpu.last_events] == [past.id for past in heard[8 - LAST_EVENTS : 8]]


def test_a_look_at_some_gpus_says_nothing_about_the_others(node: Node) -> None:
    assert node.look(20, seen(B), complete=False) == ()
    assert not node.gpu(A).is_lost


def test_a_look_that_found_no_gpu_at_all_makes_all_of_them_gone(node: Node) -> None:
    assert [change.lost for change in node.look(20)] == [True, True]


def test_a_gpu_that_nvml_calls_lost_is_lost_with_what_nvml_said(node: Node) -> None:
    (change,) = node.look(5, seen(A, Answers.LOST, why="GPU is lost"), seen(B))
    assert change.lost
    assert (node.gpu().presence, node.gpu().why) == (Presence.LOST, "GPU is lost")


def test_xid_79_loses_the_gpu_at_the_time_of_the_event_without_asking_nvml(node: Node) -> None:
    before = event(-1, 48)
    (change,) = node.hear(event(0, 79), [before, event(-1, 13, B)])
    assert change.lost
    assert node.gpu().since_us == TIME_US
    assert [words.code for words in node.gpu().last_events] == [48, 79]


def test_a_driver_that_lost_a_gpu_while_probing_it_makes_a_gpu_expected_that_was_never_seen() -> None:
    node = Node()
    (change,) = node.hear(event(0, 0, kind=Kind.GPU_LOST))
    assert change.lost
    assert node.gpu().is_lost


@pytest.mark.parametrize("changes", [{"drill": True}, {"origin": "userspace"}, {"origin": "unknown"}])
def test_only_the_kernel_can_say_that_a_gpu_is_lost(node: Node, changes: dict[str, Any]) -> None:
    assert node.hear(event(0, 79, **changes)) == ()
    assert not node.gpu().is_lost


def test_an_event_from_before_the_last_answer_is_old_news(node: Node) -> None:
    assert node.hear(event(-20, 79)) == ()
    assert not node.gpu().is_lost


def test_other_faults_do_not_lose_a_gpu(node: Node) -> None:
    assert node.hear(event(0, 48)) == ()


def test_a_look_begun_before_the_loss_does_not_bring_the_gpu_back(node: Node) -> None:
    node.hear(event(0, 79))
    assert node.look(-1, seen(A), seen(B)) == ()
    assert node.gpu().is_lost


def test_a_gpu_that_answers_again_is_back_and_says_how_long_it_was_away(node: Node) -> None:
    node.hear(event(0, 79))
    (change,) = node.look(60, seen(A), seen(B))
    assert change.returned
    gpu = node.gpu()
    assert (gpu.presence, gpu.since_us, gpu.absent_us) == (Presence.PRESENT, TIME_US + 60 * SECOND, TIME_US)
    assert gpu.why is None
    assert [words.code for words in gpu.last_events] == [79]


def test_a_gpu_that_hangs_stays_what_it_was(node: Node) -> None:
    assert node.look(5, seen(A, Answers.LISTED), seen(B)) == ()
    assert not node.gpu().is_lost
    node.hear(event(6, 79))
    assert node.look(10, seen(A, Answers.LISTED), seen(B)) == ()
    assert node.gpu().is_lost


def test_a_driver_loaded_after_the_loss_that_lists_the_gpu_brings_it_back(node: Node) -> None:
    node.hear(event(0, 79))
    node.hear(_driver_loaded(30))
    (change,) = node.look(40, seen(A, Answers.LISTED), seen(B))
    assert change.returned


def _driver_loaded(at_s: float) -> Event:
    return replace(event(at_s, 0), kind=Kind.DRIVER_LOADED, gpu=None)


def test_a_gone_gpu_that_the_driver_lists_again_is_back(node: Node) -> None:
    node.look(5, seen(B))
    (change,) = node.look(6, seen(A, Answers.LISTED), seen(B))
    assert change.returned


def test_the_first_loss_stays_the_story_when_the_gpu_drops_out_of_the_list_or_answers_lost(
    node: Node,
) -> None:
    node.hear(event(0, 79))
    node.look(5, seen(B))
    node.look(6, seen(A, Answers.LOST, why="GPU is lost"), seen(B))
    assert (node.gpu().since_us, node.gpu().why) == (TIME_US, XID_79.summary)


def test_another_board_in_the_slot_replaces_the_old_one(node: Node) -> None:
    node.hear(event(0, 79))
    changes = node.look(60, seen(A, uuid="GPU-cccc"), seen(B))
    assert [(c.before is not None, c.after is not None) for c in changes] == [(True, False), (False, True)]
    assert node.gpu().uuid == "GPU-cccc"
    assert node.gpu().last_events == ()
    assert node.table.lost() == ()


def test_a_board_in_another_slot_is_the_same_gpu_and_not_a_lost_one(node: Node) -> None:
    node.look(60, replace(seen(A), pci="0000:c4:00.0"), seen(B))
    assert [gpu.pci for gpu in node.table.all()] == [B, "0000:c4:00.0"]
    assert node.table.lost() == ()


def test_gpus_without_a_known_uuid_are_not_taken_for_one_another() -> None:
    node = Node()
    node.look(0, seen(A, uuid=None), seen(B, uuid=None))
    assert len(node.table.all()) == 2
    assert len(node.look(1, seen(A), seen(B))) == 2
    assert node.gpu().uuid == "GPU-aaaa"


def test_drills_are_no_last_words(node: Node) -> None:
    node.hear(event(0, 79), [event(-1, 48, drill=True)])
    assert [words.code for words in node.gpu().last_events] == [79]


def test_a_gpu_taken_out_on_purpose_can_be_forgotten_until_it_is_seen_again(node: Node) -> None:
    node.look(5, seen(B))
    assert node.table.forget(A)
    assert not node.table.forget(A)
    assert node.table.lost() == ()
    (change,) = node.look(6, seen(A), seen(B))
    assert not change.returned
    assert change.before is None


def test_the_table_survives_a_restart_by_its_dump(node: Node) -> None:
    node.hear(event(0, 79), [event(-1, 48)])
    node.hear(_driver_loaded(30))
    after = Node()
    after.table.load(json.loads(json.dumps(node.table.dump())))
    assert after.table.all() == node.table.all()
    (change,) = after.look(40, seen(A, Answers.LISTED), seen(B))
    assert change.returned


def test_a_loaded_table_lies_beneath_what_was_heard_meanwhile(node: Node) -> None:
    after = Node()
    after.hear(event(0, 79))
    after.table.load(node.table.dump())
    assert after.gpu().is_lost
    assert not after.gpu(B).is_lost


@pytest.mark.parametrize("data", [{}, {"gpus": [{}], "driver_loaded_us": 0}, {"gpus": 1}])
def test_a_dump_that_is_none_is_refused_and_changes_nothing(node: Node, data: dict[str, object]) -> None:
    before = node.table.all()
    with pytest.raises((ValueError, TypeError, KeyError)):
        node.table.load(data)
    assert node.table.all() == before


def test_only_news_makes_the_saved_copy_out_of_date(node: Node) -> None:
    node.table.dump()
    node.look(5, seen(A), seen(B))
    assert not node.table.changed
    assert node.gpu().seen_us == TIME_US + 5 * SECOND
    node.hear(event(6, 79))
    assert node.table.changed


def test_the_public_form_says_since_when_and_what_came_before(node: Node) -> None:
    node.hear(event(0, 79))
    data = node.gpu().to_json()
    assert data["presence"] == "lost"
    assert data["since"] == "2026-11-22T11:20:06.994671Z"
    assert data["last_answered"] == "2026-11-22T11:19:56.994671Z"
    assert data["last_events"][0]["code"] == 79
    assert data["last_events"][0]["time"] == data["since"]
    json.dumps(data)


def test_readings_become_sightings_by_what_kept_a_gpu_from_answering() -> None:
    identity = Identity(A, index=3, uuid="GPU-aaaa", name="NVIDIA H200", serial="165")
    found = sightings(
        [
            Reading(A, answered=True, identity=identity),
            Reading(B, answered=False, trouble="lost", reason="GPU is lost"),
            Reading("0000:c4:00.0", answered=False, trouble="hung"),
            Reading("0000:d5:00.0", answered=False, trouble="not_found"),
        ]
    )
    assert found == (
        Sighting(A, Answers.YES, "GPU-aaaa", 3, "NVIDIA H200", "165"),
        Sighting(B, Answers.LOST, why="GPU is lost"),
        Sighting("0000:c4:00.0", Answers.LISTED),
    )


def rebooted(node: Node, boot_id: str = "later") -> Node:
    """The table of the boot after, over what was saved."""
    after = Node()
    after.table = ExpectedGpus(boot_id)
    after.table.load(json.loads(json.dumps(node.table.dump())))
    return after


def test_a_reboot_brings_back_a_lost_gpu_that_is_listed_and_keeps_one_lost_that_is_not(node: Node) -> None:
    node.hear(event(0, 79))
    node.hear(event(0, 79, B))
    after = rebooted(node)
    assert len(after.table.lost()) == 2
    (change,) = after.look(60, seen(A, Answers.LISTED))
    assert change.returned
    assert [gpu.pci for gpu in after.table.lost()] == [B]
    assert after.gpu(B).since_us == TIME_US


def test_a_restart_in_the_same_boot_does_not_bring_it_back(node: Node) -> None:
    node.hear(event(0, 79))
    after = rebooted(node, event(0, 79).boot_id)
    assert after.look(60, seen(A, Answers.LISTED), seen(B)) == ()
    assert after.gpu().is_lost


def test_a_gpu_that_nvml_still_calls_lost_after_a_reboot_stays_lost_also_when_it_hangs_then(
    node: Node,
) -> None:
    node.hear(event(0, 79))
    after = rebooted(node)
    after.look(60, seen(A, Answers.LOST), seen(B))
    after.look(61, seen(A, Answers.LISTED), seen(B))
    assert after.gpu().is_lost
    assert after.gpu().since_us == TIME_US


def test_a_gpu_lost_anew_after_a_reboot_is_lost_since_then(node: Node) -> None:
    node.hear(event(0, 79))
    after = rebooted(node)
    after.hear(replace(event(60, 79), boot_id="later"))
    assert (after.gpu().since_us, after.gpu().boot_id) == (TIME_US + 60 * SECOND, "later")


def test_a_clock_that_was_set_back_over_a_reboot_loses_no_gpu(node: Node) -> None:
    node.hear(event(0, 79))
    (change,) = rebooted(node).look(-3600, seen(A), seen(B))
    assert change.returned


def test_lines_that_name_made_up_addresses_fill_no_memory(node: Node) -> None:
    for number in range(1000):
        node.hear(event(number, 79, f"{number:04x}:01:00.0"))
    assert len(node.table.all()) == MOST_STRANGERS
    node.hear(event(2000, 79))
    assert node.gpu().is_lost
