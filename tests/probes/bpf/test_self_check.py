from __future__ import annotations

import pytest

from probes.bpf.self_check import LOOK_EVERY_US, SelfCheck

# What each look finds: how far the log goes, and how often the program was called.
Looks = list[tuple[int, int]]


def deaf(looks: Looks) -> list[bool]:
    check = SelfCheck()
    return [check.deaf(n * LOOK_EVERY_US, seq, called) for n, (seq, called) in enumerate(looks)]


@pytest.mark.parametrize(
    ("looks", "verdicts"),
    [
        pytest.param([(5, 0), (6, 0), (7, 0)], [False, False, True], id="never called"),
        pytest.param([(5, 3), (6, 3), (7, 4)], [False, False, False], id="printed before the first look"),
        pytest.param([(5, 3), (5, 3), (5, 3)], [False, False, False], id="nothing printed"),
        pytest.param([(5, 3), (6, 3), (6, 3), (7, 3)], [False, False, False, True], id="with a pause"),
        pytest.param([(5, 3), (6, 3), (7, 3), (7, 3)], [False, False, True, True], id="silence is no news"),
        pytest.param([(5, 3), (6, 3), (7, 3), (8, 9)], [False, False, True, False], id="called again"),
        pytest.param([(5, 3), (6, 3), (2, 3), (3, 3)], [False, False, False, False], id="another log"),
    ],
)
def test_a_program_is_deaf_when_the_log_grew_twice_and_its_count_did_not(
    looks: Looks, verdicts: list[bool]
) -> None:
    assert deaf(looks) == verdicts


def test_it_looks_once_a_second() -> None:
    check = SelfCheck()
    assert check.is_due(5)
    check.deaf(5, 1, 1)
    assert not check.is_due(5 + LOOK_EVERY_US - 1)
    assert check.is_due(5 + LOOK_EVERY_US)
