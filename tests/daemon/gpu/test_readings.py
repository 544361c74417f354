from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.gpu import readings
from daemon.gpu.readings import (
    ClockEvents,
    ClockReason,
    Costly,
    Health,
    Identity,
    Link,
    Memory,
    MigLayout,
    NvLink,
    Processes,
    Reading,
    Section,
)

PAYLOADS = [Identity, Health, Processes, NvLink, MigLayout, Costly, Reading]


def values(hint: object) -> st.SearchStrategy[object]:
    """Any value of a field's type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is tuple:
        return st.lists(values(arguments[0]), max_size=2).map(tuple)
    if origin is Mapping:
        return st.dictionaries(st.text(max_size=5), values(arguments[1]), max_size=2)
    if arguments:
        return st.one_of(st.none(), *(values(kind) for kind in arguments if kind is not type(None)))
    if isinstance(hint, type) and issubclass(hint, Section):
        return sections(hint)
    if hint is float:
        return st.floats(allow_nan=False, allow_infinity=False)
    return st.from_type(hint)  # type: ignore[arg-type]  # a plain type


def sections(kind: type[Section]) -> st.SearchStrategy[Section]:
    assert is_dataclass(kind)
    hints = get_type_hints(kind)
    return st.builds(
        kind, **{field.name: st.deferred(lambda h=hints[field.name]: values(h)) for field in fields(kind)}
    )


@pytest.mark.parametrize("kind", PAYLOADS, ids=lambda kind: kind.__name__)
def test_every_payload_comes_back_from_json_text(kind: type[Section]) -> None:
    @given(sections(kind))
    def comes_back(payload: Section) -> None:
        assert kind.from_json(json.loads(json.dumps(payload.to_json()))) == payload

    comes_back()


@pytest.mark.parametrize("kind", PAYLOADS, ids=lambda kind: kind.__name__)
def test_every_key_is_there_even_when_nothing_was_read(kind: type[Section]) -> None:
    required = {"pci": "0000:00:06.0", "answered": False}
    assert is_dataclass(kind)
    names = {field.name for field in fields(kind)}
    payload = kind.from_json({name: value for name, value in required.items() if name in names})
    assert payload.to_json().keys() == names


def test_a_value_of_another_type_is_an_error_that_names_the_field() -> None:
    with pytest.raises(
        ValueError, match=r"Health\.memory: Memory\.total_bytes: expected an integer, got str"
    ):
        Health.from_json({"memory": {"total_bytes": "all"}})
    with pytest.raises(ValueError, match="expected an integer, got bool"):
        Memory.from_json({"total_bytes": True})
    with pytest.raises(ValueError, match="expected a list"):
        ClockEvents.from_json({"reasons": "gpu_idle"})
    with pytest.raises(ValueError, match="expected an object"):
        Health.from_json([])
    with pytest.raises(ValueError, match=r"Identity: .*pci"):
        Identity.from_json({"name": "NVIDIA H200"})


def test_another_version_may_say_more_or_less() -> None:
    assert Memory.from_json({"total_bytes": 5, "of_a_later_version": [1]}) == Memory(total_bytes=5)


def test_a_whole_number_of_watts_is_a_number() -> None:
    power = readings.Power.from_json({"draw_w": 700})
    assert power.draw_w == 700.0
    assert isinstance(power.draw_w, float)


def test_idle_settings_and_the_power_limit_are_no_throttling() -> None:
    held_back = {reason for reason in ClockReason if reason.throttling}
    assert held_back == {
        "hw_slowdown",
        "sw_thermal_slowdown",
        "hw_thermal_slowdown",
        "hw_power_brake_slowdown",
        "board_limit",
        "reliability",
    }


def test_a_named_value_is_plain_text_in_json() -> None:
    payload = Health(recovery_action=readings.RecoveryAction.NONE)
    assert json.dumps(payload.to_json()["recovery_action"]) == '"none"'
    assert Health.from_json(payload.to_json()).recovery_action == "none"


def test_the_switches_of_a_gpu_are_the_other_ends_of_its_links() -> None:
    links = (
        Link(0, remote_type="switch", remote_pci="0000:05:00.0"),
        Link(1, remote_type="switch", remote_pci="0000:04:00.0"),
        Link(2, remote_type="switch", remote_pci="0000:05:00.0"),
        Link(3, remote_type="gpu", remote_pci="0000:91:00.0"),
        Link(4, remote_type="switch", remote_pci=None),
    )
    assert NvLink(links=links).switches == ("0000:04:00.0", "0000:05:00.0")
    assert NvLink(links=None).switches is None


def test_a_gpu_is_lost_when_the_driver_says_so() -> None:
    assert Reading("0000:00:06.0", answered=False, trouble="lost", reason="GPU is lost").lost
    assert not Reading("0000:00:06.0", answered=False, trouble="hung").lost
    assert not Reading("0000:00:06.0", answered=True).lost
