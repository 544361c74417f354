"""Which GPUs are left alone, and until when."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from daemon.event import Event, Gpu, Kind
from daemon.gpu.sick import MOST_STRANGERS, SickGpus
from daemon.incidents.member import RECOVERED
from tests.mcp_server.samples import xid

PCI = "0000:91:00.0"
SECOND_US = 1_000_000


def event(code: int | None = 79, *, at_s: int = 100, kind: Kind = Kind.XID, **changes: Any) -> Event:
    base = xid(code=code) if code is not None else xid()
    at_us = at_s * SECOND_US
    changed = {"gpu": Gpu(PCI), "kind": kind, "time_us": at_us, "last_time_us": at_us, **changes}
    return replace(base, code=code, **changed)


def heard(*events: Event) -> SickGpus:
    sick = SickGpus()
    for each in events:
        sick.heard(each)
    return sick


@pytest.mark.parametrize("code", [79, 110, 119])
def test_a_gpu_on_which_calls_may_hang_is_left_alone(code: int) -> None:
    found = heard(event(code)).get(PCI)
    assert found is not None
    assert (found.what, found.time_us) == (f"Xid {code}", 100 * SECOND_US)


def test_a_loss_without_an_xid_counts_too() -> None:
    assert heard(event(None, kind=Kind.GPU_LOST)).get(PCI) is not None


@pytest.mark.parametrize("changes", [{"drill": True}, {"origin": "unknown"}, {"origin": "userspace"}])
def test_only_the_kernels_own_word_counts(changes: dict[str, Any]) -> None:
    assert heard(event(**changes)).get(PCI) is None


def test_other_faults_make_no_gpu_sick() -> None:
    assert heard(event(48), event(31)).get(PCI) is None


def test_a_driver_that_was_loaded_later_ends_it_and_one_loaded_before_does_not() -> None:
    loaded: dict[str, Any] = {"kind": Kind.DRIVER_LOADED, "gpu": None}
    assert heard(event(), event(None, at_s=99, **loaded)).get(PCI) is not None
    assert heard(event(), event(None, at_s=101, **loaded)).get(PCI) is None


@pytest.mark.parametrize(("to", "ends"), [(RECOVERED, True), (1, False)])
def test_only_the_advice_that_nothing_is_needed_ends_it(to: int, ends: bool) -> None:
    advice = event(154, at_s=101, detail={"recovery_to": to})
    assert (heard(event(), advice).get(PCI) is None) is ends


def test_what_the_log_of_the_boot_before_says_later_is_over() -> None:
    loaded = event(None, at_s=101, kind=Kind.DRIVER_LOADED, gpu=None)
    assert heard(loaded, event()).get(PCI) is None


def test_an_answer_ends_it_and_the_table_survives_a_restart() -> None:
    sick = heard(event())
    assert sick.changed
    later = SickGpus()
    later.load(json.loads(json.dumps(sick.dump())))
    assert later.get(PCI) == sick.get(PCI)
    assert not sick.changed
    later.answered(PCI, 100 * SECOND_US)  # asked before it fell ill
    assert later.get(PCI) is not None
    later.answered(PCI, 101 * SECOND_US)
    assert later.get(PCI) is None
    assert later.changed


def test_only_what_is_of_this_boot_makes_a_gpu_sick() -> None:
    for boot_id, is_sick in ((event().boot_id, True), ("another", False), (None, True)):
        sick = SickGpus(boot_id)
        sick.heard(event())
        assert (sick.get(PCI) is not None) is is_sick


def test_addresses_that_nobody_has_seen_are_remembered_up_to_a_number_and_known_gpus_always() -> None:
    sick = SickGpus()
    for number in range(1000):
        sick.heard(event(gpu=Gpu(f"{number:04x}:01:00.0")), is_known=False)
    assert len(sick.all()) == MOST_STRANGERS
    sick.heard(event())
    assert sick.get(PCI) is not None
