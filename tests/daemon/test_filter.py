"""Tests of the filter that all readers share."""

from __future__ import annotations

from dataclasses import replace

import pytest

from daemon.event import Gpu, Kind, NvSwitch, Severity
from daemon.filter import EVERYTHING, EventFilter
from probes.errors import UserError
from tests.daemon.stored import event

UUID = "GPU-8f1c3d9a-0000-1111-2222-333344445555"


def test_without_conditions_everything_passes() -> None:
    assert EventFilter.parse() == EVERYTHING
    assert EVERYTHING.matches(event(1, severity=Severity.INFO, device=None))


def test_empty_values_filter_nothing() -> None:
    assert EventFilter.parse("", ["", " , "], [","], [""]) == EVERYTHING


@pytest.mark.parametrize(
    ("wanted", "passing"),
    [("info", 4), ("warning", 3), ("critical", 2), ("fatal", 1), (" FATAL ", 1)],
)
def test_severity_means_at_least(wanted: str, passing: int) -> None:
    match = EventFilter.parse(wanted)
    assert sum(match.matches(event(1, severity=severity)) for severity in Severity) == passing


def test_an_index_means_the_gpu_that_has_it_when_it_is_asked_for() -> None:
    born = replace(event(1), gpu=Gpu("0000:1b:00.0", index=3))
    heir = replace(event(2), gpu=Gpu("0000:1c:00.0", index=4))
    match = EventFilter.parse(gpu=["3", "7", UUID])
    assert match.indices == {3, 7}
    now = match.with_devices({3: "0000:1c:00.0", 4: "0000:1d:00.0"})
    assert now.indices == {7}
    assert (now.matches(born), now.matches(heir)) == (False, True)
    assert match.with_devices({4: "0000:1d:00.0"}) is match
    assert (match.matches(born), match.matches(heir)) == (True, False)


def test_codes_may_repeat_and_hold_commas() -> None:
    match = EventFilter.parse(code=["13, 31", "0" * 5_000 + "79", str(2**32 - 1)])
    assert match.codes == {13, 31, 79, 2**32 - 1}
    assert match.matches(event(1, code=31))
    assert not match.matches(event(1, code=48))
    assert not match.matches(replace(event(1), code=None))


@pytest.mark.parametrize("code", ["-1", "x", "4294967296", "9" * 5000, "1_0", "١", "0x4f", "7 9"])
def test_a_code_that_is_no_number_is_refused(code: str) -> None:
    with pytest.raises(UserError, match="not an Xid or SXid number") as refused:
        EventFilter.parse(code=[code])
    assert len(refused.value.message) < 200


def test_kinds_are_names() -> None:
    match = EventFilter.parse(kind=["gap,XID"])
    assert match.kinds == {Kind.GAP, Kind.XID}
    assert match.matches(event(1))
    assert not match.matches(replace(event(1), kind=Kind.PROBE))


@pytest.mark.parametrize(
    ("conditions", "choices"),
    [({"severity": "bad"}, Severity), ({"kind": ["bad"]}, Kind)],
)
def test_an_unknown_word_is_refused_with_the_valid_choices(
    conditions: dict[str, str | list[str]], choices: type[Severity] | type[Kind]
) -> None:
    with pytest.raises(UserError, match="'bad'") as refused:
        EventFilter.parse(**conditions)  # type: ignore[arg-type]  # one of the two keywords
    assert refused.value.hint is not None
    assert all(choice in refused.value.hint for choice in choices)


@pytest.mark.parametrize(
    "gpu",
    [
        "3",
        UUID,
        UUID.upper(),
        UUID.removeprefix("GPU-"),
        "0000:91:00",
        "91:00.0",
        "00000000:91:00.0",
        "PCI:0000:91:00",
    ],
)
def test_a_gpu_is_found_by_index_uuid_or_pci_address_in_any_spelling(gpu: str) -> None:
    about = event(1, device=0x91)
    assert about.gpu is not None
    about = replace(about, gpu=replace(about.gpu, uuid=UUID, index=3))
    assert EventFilter.parse(gpu=[gpu]).matches(about)
    assert EventFilter.parse(gpu=["7", gpu]).matches(about)
    assert not EventFilter.parse(gpu=[gpu]).matches(event(1, device=0x92))
    assert not EventFilter.parse(gpu=[gpu]).matches(event(1, device=None))


def test_a_pci_address_also_names_an_nvswitch() -> None:
    about = replace(event(1, device=None), nvswitch=NvSwitch("0000:a9:00.0", 3))
    assert EventFilter.parse(gpu=["0000:A9:00.0"]).matches(about)


@pytest.mark.parametrize("gpu", ["all", "GPU-", "123456789", "zz:00.0", "8f1c3d9a-0000"])
def test_what_names_no_gpu_is_refused(gpu: str) -> None:
    with pytest.raises(UserError, match="names no GPU"):
        EventFilter.parse(gpu=[gpu])


def test_all_conditions_must_hold() -> None:
    match = EventFilter.parse("critical", ["79"], ["xid"], ["0"])
    assert match.matches(event(1, code=79, severity=Severity.FATAL))
    assert not match.matches(event(1, code=79, severity=Severity.WARNING))
    assert not match.matches(event(1, code=79, severity=Severity.FATAL, device=1))


def test_too_many_values_are_refused() -> None:
    with pytest.raises(UserError, match="too many"):
        EventFilter.parse(code=["1," * 2000])
