"""The tables behind incidents: complete, sourced, and without circles."""

from __future__ import annotations

import pytest

from daemon.catalog import lookup
from daemon.event import Kind
from daemon.incidents.patterns import PATTERNS, Pattern
from daemon.incidents.rule import Rule
from daemon.incidents.rules import ENDED_BY, LASTING, RULES


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_rule_says_why_and_where_it_comes_from(rule: Rule) -> None:
    assert rule.why
    assert not rule.why.endswith(".")
    assert rule.source
    assert 0 <= rule.before_s <= rule.within_s <= 600


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.name)
def test_every_pattern_says_why_and_what_to_do(pattern: Pattern) -> None:
    assert pattern.source
    assert pattern.action is not None
    assert pattern.action_text
    assert pattern.times > 1 or pattern.processes > 1


def test_names_are_unique() -> None:
    names = [rule.name for rule in RULES] + [pattern.name for pattern in PATTERNS]
    assert len(names) == len(set(names))


def test_every_code_is_in_the_catalogue() -> None:
    codes = {code for rule in RULES for code in rule.first.xids | rule.second.xids} | LASTING | set(ENDED_BY)
    assert {code for code in codes if lookup(Kind.XID, code) is None} == set()


def test_no_rule_that_looks_back_in_time_explains_its_own_causes() -> None:
    """Else two events of the same moment could each be the cause of the other."""
    for rule in RULES:
        if rule.directed and rule.before_s > 0:
            assert not rule.first.xids & rule.second.xids, rule.name
            for other in RULES:
                if other.directed and other.before_s > 0:
                    forwards = rule.first.xids & other.second.xids
                    backwards = rule.second.xids & other.first.xids
                    assert not (forwards and backwards), (rule.name, other.name)
