"""Whether every count is the same everywhere: what was written, what readers hold, what is kept and sent.

Every check is a sentence and whether it holds. Nothing is compared with what the daemon says of itself alone:
one side is always the model, or another way out.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.soak.readers import Read, Seen
from tests.soak.receiver import KINDS, Taken
from tests.soak.written import Fault, Written

K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold."""

    what: str
    holds: bool
    detail: str
    """The counts, or what is different."""


def differences(name: str, expected: Mapping[K, int], found: Mapping[K, int]) -> Check:
    """That two counts agree for every key."""
    wrong = {
        key: (expected.get(key, 0), found.get(key, 0))
        for key in sorted({*expected, *found}, key=str)
        if expected.get(key, 0) != found.get(key, 0)
    }
    total = sum(expected.values())
    detail = (
        f"{total:,}"
        if not wrong
        else "; ".join(f"{k}: {a} expected, {b} found" for k, (a, b) in wrong.items())
    )
    return Check(name, not wrong, detail[:1000])


def of_step(events: Mapping[str, Seen], written: Written) -> dict[str, Seen]:
    """The events whose first record is one of this step, incidents and what the daemon says of itself left
    out."""
    return {
        event_id: seen
        for event_id, seen in events.items()
        if seen.kind in KINDS and seen.seq is not None and seen.seq >= written.first_seq
    }


def told(events: Mapping[str, Seen], written: Written) -> Iterable[Check]:
    """What one reader that lost nothing holds, against what was written."""
    mine = of_step(events, written).values()
    found = _found(mine)
    yield differences("every fault written is told, each counted once", _expected(written, found), found)
    by_pid: Counter[int] = Counter()
    for seen in mine:
        if seen.pid is not None and seen.kind != "overflow":
            by_pid[seen.pid] += seen.times
    expected = {pid: written.by_pid[pid][1] for pid in by_pid if pid in written.by_pid}
    yield differences("each process has as many faults as were written of it", expected, by_pid)
    yield differences(
        "every record that was left out is in a gap",
        {"records": written.records_lost},
        {"records": sum(seen.lost for seen in mine if seen.kind == "gap")},
    )


def _found(mine: Iterable[Seen]) -> Counter[Fault]:
    """Faults as a reader counts them."""
    found: Counter[Fault] = Counter()
    for seen in mine:
        if seen.kind != "gap":
            code = "" if seen.kind == "driver_loaded" else seen.code
            found[Fault(code, seen.device, seen.drill)] += seen.times
    return found


def _expected(written: Written, found: Mapping[Fault, int]) -> Counter[Fault]:
    """Faults as they were written; of one that was torn, both ways of counting it are right."""
    expected = Counter(written.faults)
    for fault, torn in written.torn.items():
        expected[fault] += min(torn, max(0, found.get(fault, 0) - expected[fault]))
    return expected


def same(truth: Read, truth_name: str, other: Read, name: str, deleted_through: int) -> Iterable[Check]:
    """Two readers: the same last revision of everything, but for what the other says it missed."""
    unexplained = [
        f"{event_id}: {seen} here, {other.events.get(event_id)} there"
        for event_id, seen in truth.events.items()
        if not _is_same(seen, other.events.get(event_id))
        and not any(first <= seen.cursor <= last for first, last in other.missed)
    ]
    unexplained += [f"only there: {event_id}" for event_id in other.events.keys() - truth.events.keys()]
    gone = sum(1 for event_id in truth.events if event_id not in other.events)
    detail = f"{len(other.events):,} events"
    if other.missed:
        detail += f", {gone:,} missed in {len(other.missed)} stretches that it was told of"
    yield Check(
        f"{name} holds what {truth_name} holds", not unexplained, "; ".join(unexplained[:3]) or detail
    )
    beyond = [stretch for stretch in other.missed if stretch[1] > deleted_through]
    yield Check(
        f"what {name} missed is what retention deleted",
        not beyond,
        f"{len(other.missed)} stretches" if not beyond else f"{beyond[:3]} beyond {deleted_through}",
    )
    yield Check(
        f"{name} saw cursors and revisions grow", not other.wrong, "; ".join(other.wrong[:3]) or detail
    )


def _is_same(one: Seen, other: Seen | None) -> bool:
    return other is not None and (one.cursor, one.revision, one.times) == (
        other.cursor,
        other.revision,
        other.times,
    )


@dataclass(frozen=True, slots=True)
class Kept:
    """The journal, read from the file itself."""

    events: Mapping[str, tuple[int, int, int]]
    """Cursor, revision and count by event id."""
    deleted_through: int
    """Newest cursor that retention deleted; 0: none."""

    @classmethod
    def read(cls, state_dir: Path) -> Kept:
        """Read-only, beside the daemon."""
        connection = sqlite3.connect(f"file:{state_dir / 'journal.sqlite3'}?mode=ro", uri=True)
        try:
            rows = connection.execute(
                "SELECT json_extract(json, '$.id'), cursor, json_extract(json, '$.revision'),"
                " json_extract(json, '$.count') FROM items"
            )
            events = {event_id: (cursor, revision, count) for event_id, cursor, revision, count in rows}
            mark = connection.execute("SELECT value FROM meta WHERE key = 'deleted_through'").fetchone()
        finally:
            connection.close()
        return cls(events, int(mark[0]) if mark else 0)


def journal(kept: Kept, truth: Read) -> Iterable[Check]:
    """The journal against a reader that lost nothing."""
    wrong = [
        event_id
        for event_id, seen in truth.events.items()
        if event_id in kept.events and kept.events[event_id] != (seen.cursor, seen.revision, seen.times)
    ]
    lacking = [
        event_id
        for event_id, seen in truth.events.items()
        if event_id not in kept.events and seen.cursor > kept.deleted_through
    ]
    here = sum(1 for event_id in truth.events if event_id in kept.events)
    detail = f"{here:,} of them kept, {len(truth.events) - here:,} deleted by retention"
    yield Check(
        "the journal has the last revision of all that it keeps", not wrong, "; ".join(wrong[:3]) or detail
    )
    yield Check(
        "the journal lacks nothing but what retention deleted", not lacking, "; ".join(lacking[:3]) or detail
    )


def sent(taken: Taken, truth: Read) -> Iterable[Check]:
    """What the webhook took: each event once."""
    expected = {event_id for event_id, seen in truth.events.items() if seen.kind in KINDS}
    lacking = expected - taken.ids.keys()
    yield Check(
        "the webhook took every event",
        not lacking,
        "; ".join(sorted(lacking)[:3]) or f"{len(expected):,} events",
    )
    doubled = [event_id for event_id, times in taken.ids.items() if times > 1 and event_id in expected]
    yield Check("and none of them twice", not doubled, "; ".join(doubled[:3]) or f"{len(expected):,} events")
    yield Check("retention did not overtake the webhook", not taken.missed, f"{taken.missed} times")


def metrics(
    written: Written, truth: Read, before: Mapping[str, float], after: Mapping[str, float]
) -> Sequence[Check]:
    """The counters of /metrics, of the step, against the model. Faults that an overflow event counts have no
    code there: how many those are is known from the reader that lost nothing."""
    grown = {name: round(after[name] - before.get(name, 0)) for name in after}
    real: Counter[str] = Counter()
    drills: Counter[str] = Counter()
    mine = of_step(truth.events, written).values()
    for fault, times in _expected(written, _found(mine)).items():
        (drills if fault.drill else real)[_label(fault.code)] += times
    for seen in mine:
        if seen.kind == "overflow":
            counted = drills if seen.drill else real
            counted[_label(seen.code)] -= seen.times
            counted["other"] += seen.times
    return (
        differences("/metrics counts every fault by its code", real, _codes(grown, "xidwatch_events_total")),
        differences(
            "/metrics counts every drill apart", drills, _codes(grown, "xidwatch_drill_events_total")
        ),
        *(
            differences(f"{name} is exact", {"records": expected}, {"records": grown[name]})
            for name, expected in (
                ("xidwatch_kernel_records_total", written.records),
                ("xidwatch_kernel_records_malformed_total", written.malformed),
                ("xidwatch_kernel_records_lost_total", written.records_lost),
                ("xidwatch_forged_lines_total", 0),
            )
        ),
    )


def _label(code: str) -> str:
    """The label of a fault's code: none for what has no number."""
    return code if code.isdigit() else ""


def _codes(grown: Mapping[str, int], family: str) -> Counter[str]:
    """Faults by code, of the kinds that the model has."""
    found: Counter[str] = Counter()
    for series, count in grown.items():
        name, _, labels = series.partition("{")
        pairs = dict(pair.split("=", 1) for pair in labels.removesuffix("}").split(",") if "=" in pair)
        if name == family and count and pairs["kind"].strip('"') in KINDS and pairs["kind"] != '"gap"':
            found[pairs["code"].strip('"')] += count
    return found
