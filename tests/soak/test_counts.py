"""That the judgement of a soak finds what it is there for: a fault lost, doubled, changed, or passed over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest

from tests.soak import counts
from tests.soak.counts import Check, Kept
from tests.soak.readers import Read, Seen
from tests.soak.receiver import Taken
from tests.soak.written import Fault, Written

GPU = "0000:18:00.0"
XID_31 = Fault("31", GPU, False)


def written() -> Written:
    """Three faults of two processes, and two records left out between them."""
    model = Written(first_seq=100, records=3, malformed=1, lost=[(102, 103)])
    model.fault(XID_31, pid=7, times=2)
    model.fault(XID_31, pid=8)
    return model


def seen(cursor: int, *, kind: str = "xid", times: int = 1, pid: int | None = None, **more: object) -> Seen:
    """What a reader holds of one event."""
    base = Seen(cursor, 1, kind, "31", GPU, False, times, pid, 100 + cursor)
    return base._replace(**more)  # type: ignore[arg-type]  # names of fields


def everything() -> dict[str, Seen]:
    """What a reader holds that lost nothing."""
    return {
        "a": seen(1, times=2, pid=7),
        "b": seen(2, pid=8),
        "gap": seen(3, kind="gap", code="KERNEL_RECORDS_LOST", device="", seq=102, lost=2),
    }


def broken(checks: Iterable[Check]) -> list[str]:
    """What does not hold."""
    return [check.what for check in checks if not check.holds]


def test_what_was_written_and_told_agrees() -> None:
    assert broken(counts.told(everything(), written())) == []


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"b": None}, "every fault written is told, each counted once"),
        ({"c": seen(9, pid=8)}, "each process has as many faults as were written of it"),
        ({"b": seen(2, pid=8, times=2)}, "every fault written is told, each counted once"),
        ({"gap": None}, "every record that was left out is in a gap"),
        ({"b": seen(2, pid=8, drill=True)}, "every fault written is told, each counted once"),
    ],
    ids=["lost", "doubled", "counted twice", "gap hidden", "taken for a drill"],
)
def test_what_differs_from_what_was_written_is_found(changes: dict[str, Seen | None], found: str) -> None:
    events = {key: value for key, value in (everything() | changes).items() if value is not None}
    assert found in broken(counts.told(events, written()))


def test_faults_beyond_an_allowance_count_where_they_are_folded() -> None:
    events = everything() | {"b": seen(2, kind="overflow")}
    assert broken(counts.told(events, written())) == []


def test_what_happened_before_the_step_is_not_counted() -> None:
    events = everything() | {"old": seen(0, pid=3, seq=99)}
    assert broken(counts.told(events, written())) == []


def same(other: Read, deleted_through: int = 0) -> list[str]:
    """What is wrong with a reader, beside one that holds everything."""
    return broken(counts.same(Read(events=everything()), "truth", other, "other", deleted_through))


def test_a_reader_that_holds_the_same_is_right() -> None:
    assert same(Read(events=everything())) == []


def test_a_reader_may_miss_what_it_was_told_it_missed_and_retention_deleted() -> None:
    without = {key: value for key, value in everything().items() if key != "a"}
    assert same(Read(events=without, missed=[(1, 1)]), deleted_through=1) == []
    assert same(Read(events=without, missed=[(1, 1)])) == ["what other missed is what retention deleted"]
    assert same(Read(events=without)) == ["other holds what truth holds"]


def test_a_reader_that_stopped_at_an_older_revision_is_found() -> None:
    assert same(Read(events=everything() | {"a": seen(1, pid=7)})) == ["other holds what truth holds"]


def test_a_cursor_that_comes_twice_is_found() -> None:
    read = Read()
    event: dict[str, object] = {
        **{"id": "a", "cursor": 5, "revision": 1, "kind": "xid", "code": 31, "name": None, "count": 1},
        **{"drill": False, "detail": {}, "kmsg_seq": 1, "gpu": None, "nvswitch": None, "process": None},
    }
    read.take(event)
    read.take(event | {"revision": 2})
    assert len(read.wrong) == 1


def test_a_journal_that_lacks_or_changed_an_event_is_found() -> None:
    truth = Read(events=everything())
    kept = {key: (value.cursor, value.revision, value.times) for key, value in truth.events.items()}
    assert broken(counts.journal(Kept(kept, 0), truth)) == []
    lacking = {key: value for key, value in kept.items() if key != "a"}
    assert broken(counts.journal(Kept(lacking, 1), truth)) == []
    assert broken(counts.journal(Kept(lacking, 0), truth)) == [
        "the journal lacks nothing but what retention deleted"
    ]
    assert broken(counts.journal(Kept(kept | {"a": (1, 1, 1)}, 0), truth)) == [
        "the journal has the last revision of all that it keeps"
    ]


def test_what_a_webhook_took_twice_or_not_at_all_is_found() -> None:
    truth = Read(events=everything())
    assert broken(counts.sent(Taken(ids=Counter(["a", "b", "gap"])), truth)) == []
    assert broken(counts.sent(Taken(ids=Counter(["a", "a", "b", "gap"])), truth)) == [
        "and none of them twice"
    ]
    assert broken(counts.sent(Taken(ids=Counter(["a", "b"])), truth)) == ["the webhook took every event"]


def test_counters_that_differ_from_the_model_are_found() -> None:
    right = {
        'xidwatch_events_total{code="31",gpu="unknown",kind="xid",severity="warning"}': 1.0,
        f'xidwatch_events_total{{code="31",gpu="{GPU}",kind="xid",severity="warning"}}': 2.0,
        'xidwatch_events_total{code="",gpu="",kind="gap",severity="warning"}': 1.0,
        "xidwatch_kernel_records_total": 13.0,
        "xidwatch_kernel_records_malformed_total": 1.0,
        "xidwatch_kernel_records_lost_total": 2.0,
        "xidwatch_forged_lines_total": 0.0,
    }
    before = {"xidwatch_kernel_records_total": 10.0}
    truth = Read(events=everything())
    assert broken(counts.metrics(written(), truth, before, right)) == []
    assert broken(counts.metrics(written(), truth, {}, right)) == ["xidwatch_kernel_records_total is exact"]
    fewer = right | {'xidwatch_events_total{code="31",gpu="unknown",kind="xid",severity="warning"}': 0.0}
    assert broken(counts.metrics(written(), truth, before, fewer)) == [
        "/metrics counts every fault by its code"
    ]


def test_a_fault_whose_lines_came_apart_may_count_as_two_and_no_more() -> None:
    model = written()
    model.torn[XID_31] += 1
    twice, thrice = (everything() | {"b": seen(2, pid=8, times=times)} for times in (2, 3))
    name = "every fault written is told, each counted once"
    assert name not in broken(counts.told(twice, model))
    assert name in broken(counts.told(thrice, model))
    assert name not in broken(counts.told(everything(), model))
