"""A journal that an earlier xidwatch wrote is gone on with. `data/journal_schema_1.sql` holds what version
0.1.0 wrote of an incident with three members, and of an error of a program beside it."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from daemon.filter import EventFilter
from daemon.journal import FILE_NAME, Journal, read_only
from daemon.pipeline import Snapshot
from daemon.reader import Saved
from probes.line import ResumePoint
from tests.support.incidents import Node
from tests.support.records import BOOT, xid

SCHEMA_1 = Path(__file__).parent / "data" / "journal_schema_1.sql"
INCIDENT = "incidents/open/inc_c0a87e064ccfd1c656ed"


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as db:
        db.executescript(SCHEMA_1.read_text(encoding="utf-8"))
    return tmp_path


def change(state_dir: Path, sql: str, *values: object) -> None:
    with closing(sqlite3.connect(state_dir / FILE_NAME)) as db, db:
        db.execute(sql, values)


def opened(state_dir: Path) -> Saved:
    journal = Journal.open(state_dir)
    saved = journal.saved()
    assert journal.note is None  # it was not set aside
    journal.close()
    return saved


def restored(saved: Saved) -> Node:
    node = Node()
    node.take_up(Snapshot(saved.faults, saved.context), 14)
    return node


def test_an_open_incident_goes_on_with_all_its_members(state_dir: Path) -> None:
    with read_only(state_dir) as before:
        known = {item.event.id: item.event for item in before.last(100).items}
    node = restored(opened(state_dir))
    assert node.pipeline.counters.state_errors == 0
    node.hear(14.5, xid(79, "pid=446, name=python3, GPU has fallen off the bus."), seq=14)
    node.wait(20)
    (incident,) = node.incidents()
    earlier = known[incident.id]
    assert incident.revision > earlier.revision
    assert [dict(each, count=1) for each in incident.detail["members"]] == earlier.detail["members"]
    assert incident.detail["members"][0]["count"] == 2
    assert incident.detail["blast_radius"] == earlier.detail["blast_radius"]


def test_events_and_resume_point_stay_as_they_are(state_dir: Path) -> None:
    with read_only(state_dir) as before:
        items = [(item.cursor, item.json) for item in before.last(100).items]
    assert opened(state_dir).resume == ResumePoint(BOOT, 13)
    with read_only(state_dir) as after:
        assert [(item.cursor, item.json) for item in after.last(100).items] == items


@pytest.mark.parametrize("match", [EventFilter.parse("critical"), EventFilter.parse(kind=["incident"])])
def test_it_answers_questions_before_a_daemon_has_raised_it_as_after(
    state_dir: Path, match: EventFilter
) -> None:
    with read_only(state_dir) as before:
        known = before.last(100, match).items
    assert known
    opened(state_dir)
    with read_only(state_dir) as after:
        assert after.last(100, match).items == known


def test_a_disk_that_cannot_be_written_gives_its_open_incidents_all_the_same(state_dir: Path) -> None:
    with read_only(state_dir) as unchanged:
        before = unchanged.saved()
    node, raised = restored(before), restored(opened(state_dir))
    assert node.pipeline.counters.state_errors == 0
    rows, known = node.pipeline.snapshot().faults, raised.pipeline.snapshot().faults
    assert {key: json.loads(text) for key, text in rows.items()} == {
        key: json.loads(text) for key, text in known.items()
    }


def test_it_is_changed_once(state_dir: Path) -> None:
    assert opened(state_dir) == opened(state_dir)


@pytest.mark.parametrize("state", ["{", "[1]", '{"id": "inc_1", "members": [1, {}, null]}', '{"members": 1}'])
def test_an_incident_that_cannot_be_read_costs_no_other(state_dir: Path, state: str) -> None:
    change(state_dir, "INSERT INTO faults VALUES ('incidents/open/inc_1', ?)", state)
    node = restored(opened(state_dir))
    assert node.pipeline.counters.state_errors == 1
    assert INCIDENT in node.pipeline.snapshot().faults
