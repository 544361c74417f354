"""Naming GPUs, and being told what can be named."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.gpu.selection import MAX_VALUES, Choice, MigChoice, Selected, select, select_one
from probes.errors import UserError

FIRST = Choice("0000:1b:00.0", 0, "GPU-aaaa1111-2222-3333-4444-555555555555")
SECOND = Choice(
    "0000:43:00.0",
    1,
    "GPU-aaaa2222-2222-3333-4444-555555555555",
    (MigChoice("MIG-0e0e0000-0000-5000-8000-000000000001", 1, 0), MigChoice("MIG-0e0e1111", 2, 0)),
)
LOST = Choice("0001:91:00.0", None, "GPU-12345678-2222-3333-4444-555555555555")
NODE = (FIRST, SECOND, LOST)


def refusal(name: str, choices: tuple[Choice, ...] = NODE) -> tuple[str, str]:
    with pytest.raises(UserError) as error:
        select([name], choices)
    return error.value.message, error.value.hint or ""


@pytest.mark.parametrize(
    ("name", "gpu"),
    [
        ("0", FIRST),
        (" 1 ", SECOND),
        ("GPU-aaaa1111-2222-3333-4444-555555555555", FIRST),
        ("gpu-AAAA2222-2222-3333-4444-555555555555", SECOND),
        ("aaaa2", SECOND),
        ("GPU-1", LOST),
        ("12345678", LOST),
        ("0000:1B:00.0", FIRST),
        ("00000000:1b:00.0", FIRST),
        ("1b:00", FIRST),
        ("PCI:0000:43:00", SECOND),
        ("0001:91:00", LOST),
    ],
)
def test_a_gpu_is_found_by_any_of_its_names(name: str, gpu: Choice) -> None:
    assert select([name], NODE) == (Selected(gpu),)


@pytest.mark.parametrize(
    "name",
    ["MIG-0e0e1111", "mig-0e0e1", "MIG-GPU-aaaa2222-2222-3333-4444-555555555555/2/0"],
)
def test_a_mig_instance_is_found_by_its_uuid_in_the_new_and_the_old_form(name: str) -> None:
    assert select_one(name, NODE) == Selected(SECOND, SECOND.mig[1])


def test_an_index_that_no_gpu_has_now_means_the_one_that_had_it_last() -> None:
    was = replace(LOST, was_index=3)
    assert select(["3"], (FIRST, was)) == (Selected(was),)
    again = replace(SECOND, index=3)
    assert select(["3"], (again, was)) == (Selected(again),)
    message, hint = refusal("7", (FIRST, was))
    assert message == "no GPU of this node is '7'"
    assert f"{LOST.uuid} = {LOST.pci} (was index 3)" in hint


def test_a_gpu_that_is_known_by_its_index_alone_can_be_named_by_it() -> None:
    alone = Choice("#3", 3)
    assert select(["3"], (FIRST, alone)) == (Selected(alone),)
    assert "; 3" in refusal("7", (FIRST, alone))[1]
    assert "#" not in refusal("7", (FIRST, alone))[1]


def test_no_name_means_every_gpu() -> None:
    assert [one.gpu for one in select([], NODE)] == list(NODE)
    assert [one.gpu for one in select(["", " , "], NODE)] == list(NODE)


def test_several_names_keep_their_order_and_a_gpu_named_twice_comes_once() -> None:
    assert [one.gpu for one in select(["1,0", "43:00.0"], NODE)] == [SECOND, FIRST]


def test_the_beginning_of_two_uuids_is_refused_naming_both() -> None:
    message, hint = refusal("GPU-aaaa")
    assert str(FIRST.uuid) in message
    assert str(SECOND.uuid) in message
    assert str(LOST.uuid) not in message
    assert hint == "give more of it"


def test_a_whole_uuid_is_never_ambiguous() -> None:
    longer = Choice("0000:99:00.0", 2, "GPU-aa-b")
    shorter = Choice("0000:98:00.0", 3, "GPU-aa")
    assert select_one("GPU-aa", (longer, shorter)).gpu is shorter


@pytest.mark.parametrize("name", ["7", "9999", "GPU-ffff", "0000:ff:00.0"])
def test_a_gpu_that_is_not_here_is_refused_naming_those_that_are(name: str) -> None:
    message, hint = refusal(name)
    assert message == f"no GPU of this node is '{name}'"
    assert f"0 = {FIRST.uuid} = {FIRST.pci}" in hint
    assert f"{LOST.uuid} = {LOST.pci}" in hint


def test_an_unknown_mig_uuid_is_refused_naming_the_instances() -> None:
    assert "MIG-0e0e1111" in refusal("MIG-ffff")[1]
    assert refusal("MIG-ffff", (FIRST,))[1] == "no GPU here has MIG instances"


@pytest.mark.parametrize("name", ["H200", "-1", "all", "GPU-", "１", "0x1b", "GPU-xyz"])
def test_what_is_no_name_of_a_gpu_is_refused_saying_what_would_be_one(name: str) -> None:
    message, hint = refusal(name)
    assert "names no GPU" in message
    assert hint.startswith("give an index, a UUID or its beginning, a PCI address or a MIG UUID")


def test_a_node_without_gpus_says_so() -> None:
    assert refusal("0", ())[1] == "no GPU is known on this node"


def test_the_hint_stays_short_on_a_node_with_many_gpus() -> None:
    many = tuple(Choice(f"0000:{n:02x}:00.0", n, f"GPU-{n:08x}") for n in range(40))
    assert refusal("99", many)[1].endswith("and 24 more")


def test_too_many_names_are_refused() -> None:
    assert f"at most {MAX_VALUES}" in refusal(",".join(["0"] * (MAX_VALUES + 1)))[1]


@given(st.text(max_size=200))
def test_any_text_selects_or_is_refused_in_printable_words(name: str) -> None:
    try:
        found = select([name], NODE)
    except UserError as error:
        assert error.message.isprintable()
        assert len(error.message) < 600
    else:
        assert {one.gpu for one in found} <= set(NODE)
