"""The profile of one line's way: it runs, and times every stage that it names."""

from __future__ import annotations

import pytest

from benchmarks import profile


def test_every_stage_of_a_line_has_its_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "STORM_LINES", 200)
    found = profile.measure(2)
    assert len(found) == 2 * len(profile.KINDS) + 1
    stages = {name for name, _, _ in profile.STAGES} | {profile.READER, profile.WHOLE}
    seen = {stage for costs in found.values() for stage in costs}
    assert seen | {"tidy"} == stages  # tidying comes behind the line, and mostly too late
    for kind, costs in found.items():
        assert {profile.READER, profile.WHOLE, "commit", "incidents"} <= costs.keys(), kind
        assert all(us > 0 for us in costs.values()), kind


def test_a_stage_does_not_count_what_it_calls_of_another_one() -> None:
    watch = profile.Stopwatch()
    with watch.stage("outer"), watch.stage("inner"):
        sum(range(300_000))
    assert watch.spent_ns["outer"] < watch.spent_ns["inner"]


def test_the_methods_are_as_before_once_the_profile_is_over() -> None:
    before = [vars(owner).get(method) for _, owner, method in profile.STAGES]
    with profile.Stopwatch().around(profile.STAGES):
        assert [vars(owner).get(method) for _, owner, method in profile.STAGES] != before
    assert [vars(owner).get(method) for _, owner, method in profile.STAGES] == before
