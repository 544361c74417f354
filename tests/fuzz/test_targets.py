"""The kept inputs of every target, those that once broke something among them, and new ones by hypothesis."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import CORPUS, CRASHES, TARGETS, Target
from tests.support.fault_lab import rounds

MOST_BYTES = 1_000_000
"""Of the whole corpus: it is cloned by everybody."""

ALL = pytest.mark.parametrize("target", [pytest.param(target, id=name) for name, target in TARGETS.items()])


@ALL
def test_every_kept_input_keeps_the_properties(target: Target) -> None:
    inputs = list(target.inputs())
    assert inputs, f"no corpus for {target.name}"
    check = target.load()
    for path in inputs:
        try:
            check(path.read_bytes())
        except Exception as error:
            error.add_note(f"input: {path}")
            raise


@ALL
def test_any_bytes_keep_the_properties(target: Target) -> None:
    check = target.load()

    @settings(
        max_examples=rounds(short=100, long=5_000), deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.binary(max_size=target.longest))
    def run(data: bytes) -> None:
        check(data)

    run()


@ALL
def test_a_kept_input_that_was_changed_keeps_the_properties(target: Target) -> None:
    inputs = [path.read_bytes() for path in target.inputs()]
    check = target.load()

    @settings(
        max_examples=rounds(short=100, long=5_000), deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.sampled_from(inputs), st.integers(0, 4096), st.integers(0, 64), st.binary(max_size=16))
    def run(data: bytes, at: int, length: int, put: bytes) -> None:
        at %= len(data) + 1
        check(data[:at] + put + data[at + length :])

    run()


def test_every_folder_belongs_to_a_target_and_all_are_small() -> None:
    folders = [folder for place in (CORPUS, CRASHES) if place.is_dir() for folder in place.iterdir()]
    assert {folder.name for folder in folders} <= TARGETS.keys()
    assert sum(_size(path) for folder in folders for path in folder.iterdir()) < MOST_BYTES


def _size(path: Path) -> int:
    return path.stat().st_size
