"""What holds for incidents whatever the log says, in whatever order, and wherever a restart falls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.event import Event, Kind
from daemon.incidents import PREFIX
from daemon.pipeline import Snapshot
from probes.line import Origin
from tests.support.incidents import Node
from tests.support.records import BOOT, xid

GPUS = ("0000:91:00", "0000:1b:00", "0000:3b:00")
TEXTS = (
    (13, "Graphics SM Warp Exception on (GPC 1, TPC 4, SM 0): Misaligned Address"),
    (13, "pid={pid}, name=p{pid}, Graphics Exception: channel 0x0000000a, Class 0000cbc0"),
    (31, "pid={pid}, name=p{pid}, channel 0x0000000a, intr 00000000. MMU Fault"),
    (43, "pid={pid}, name=p{pid}, channel 0x0000000a"),
    (45, "pid={pid}, name=p{pid}, Ch 00000001"),
    (45, "pid={pid}, name=p{pid}, Ch 00000001 caused by previous Xid 48"),
    (48, "pid={pid}, name=p{pid}, DBE"),
    (62, "0x1234 0x0"),
    (63, "Row Remapper: New row (0x00000012bac1c3e0) marked for remapping"),
    (74, "NVLink: fatal error detected on link 6(0x10000, 0x0)"),
    (79, "GPU has fallen off the bus."),
    (94, "pid={pid}, name=p{pid}, Contained: SM (0x1). RST: No, D-RST: No"),
    (119, "pid={pid}, name=p{pid}, Timeout after 6s of waiting for RPC response from GPU0 GSP!"),
    (154, "GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)"),
    (154, "GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)"),
    (162, ""),
    (163, ""),
)
OTHERS = (
    "NVRM: GPU 0000:91:00.0: GPU has fallen off the bus.",
    "NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build",
    "NVRM: The NVIDIA probe routine failed for 1 device(s).",
    "NVRM: GPU 0000:1b:00.0: RmInitAdapter failed! (0x22:0x56:894)",
    "nvidia-nvswitch0: SXid (PCI:0000:05:00.0): 20034, Fatal, Link 30 LTSSM Fault Up",
)

xids = st.builds(
    lambda said, gpu, pid: xid(said[0], said[1].format(pid=pid), gpu),
    st.sampled_from(TEXTS),
    st.sampled_from(GPUS),
    st.integers(1, 4),
)
gaps_s = st.sampled_from((0.0001, 0.003, 0.3, 2.0, 7.0, 45.0, 400.0, 90_000.0))
origins = st.sampled_from((Origin.KERNEL,) * 9 + (Origin.USERSPACE,))
lines = st.tuples(gaps_s, xids | st.sampled_from(OTHERS), origins)
logs = st.lists(lines, max_size=14)


def told(log: Sequence[tuple[float, str, Origin]], restarts: frozenset[int] = frozenset()) -> Node:
    """The log, line by line, with a restart before the lines of these numbers."""
    node = Node(real_gpus=GPUS)
    node.take_up(Snapshot({}, None), 0)
    at_s = 1.0
    for number, (gap_s, text, origin) in enumerate(log):
        if number in restarts:
            node.restart(now_s=at_s)
        at_s += gap_s
        node.hear(at_s, text, origin=origin)
    node.wait(at_s + 600)
    return node


def meaning(event: Event) -> tuple[object, ...]:
    """What an incident says, whatever number its revision has."""
    return event.id, event.summary, event.severity, event.blame, event.action, event.detail


@settings(max_examples=200, deadline=None)
@given(logs)
def test_revisions_are_consecutive_and_an_event_is_in_one_incident_at_a_time(
    log: list[tuple[float, str, Origin]],
) -> None:
    node = told(log)
    revisions: dict[str, list[Event]] = defaultdict(list)
    for event in node.revisions:
        revisions[event.id].append(event)
    for each in revisions.values():
        assert [event.revision for event in each] == list(range(1, len(each) + 1))
    homes: dict[str, str] = {}
    for incident in node.incidents():
        for member in incident.detail["members"]:
            assert homes.setdefault(member["id"], incident.id) == incident.id
    for event in node.faults():
        assert event.incident == homes.get(event.id, event.incident)
        assert event.incident is None or event.incident in revisions


@settings(max_examples=200, deadline=None)
@given(logs)
def test_every_incident_has_a_cause_with_reasons_among_its_members(
    log: list[tuple[float, str, Origin]],
) -> None:
    for event in told(log).revisions:
        if event.kind is Kind.INCIDENT:
            members = {member["id"]: member for member in event.detail["members"]}
            cause = event.detail["primary"]
            assert members[cause["id"]]["role"] == "cause"
            assert cause["why"]
            assert (event.detail["state"] == "open") == (event.detail["recovered_by"] is None)
            assert (event.detail["state"] == "open") == (event.detail["waiting_for"] is not None)


@settings(max_examples=200, deadline=None)
@given(logs)
def test_real_faults_and_drills_share_no_incident(log: list[tuple[float, str, Origin]]) -> None:
    node = told(log)
    drills = {incident.id: incident.drill for incident in node.events() if incident.kind is Kind.INCIDENT}
    for event in node.faults():
        assert event.incident is None or drills[event.incident] == event.drill


@settings(max_examples=200, deadline=None)
@given(logs, st.frozensets(st.integers(0, 14), max_size=3))
def test_restarts_change_no_incident(log: list[tuple[float, str, Origin]], restarts: frozenset[int]) -> None:
    expected = [meaning(incident) for incident in told(log).incidents()]
    assert [meaning(incident) for incident in told(log, restarts).incidents()] == expected


@settings(max_examples=200, deadline=None)
@given(logs)
def test_rows_written_one_by_one_amount_to_the_snapshot(log: list[tuple[float, str, Origin]]) -> None:
    node = Node(real_gpus=GPUS)
    kept: dict[str, str] = {}
    at_s = 1.0
    for gap_s, text, origin in log:
        at_s += gap_s
        node.hear(at_s, text, origin=origin)
        changes = node.pipeline.take_changes()
        kept.update(changes.faults)
        for key in changes.dropped:
            kept.pop(key, None)
    saved = node.pipeline.snapshot().faults
    assert kept.keys() == saved.keys()
    assert {key: kept[key] for key in kept if key.startswith(PREFIX)} == {
        key: saved[key] for key in saved if key.startswith(PREFIX)
    }


@settings(max_examples=200, deadline=None)
@given(logs, st.integers(0, 14))
def test_the_end_of_a_log_taken_over_late_amounts_to_the_whole_log(
    log: list[tuple[float, str, Origin]], heard: int
) -> None:
    whole, node = told(log), told(log[:heard])
    expected = still_open(whole)
    end_s = sum(gap_s for gap_s, *_ in log) + 700
    whole.restart(boot="second", now_s=end_s)
    node.restart(boot="second", now_s=end_s)
    late = whole.pipeline.snapshot()
    node.revisions += node.pipeline.take_over(late, now_us=round((end_s + 1) * 1e6))
    node.wait(end_s + 5)
    found = still_open(node)
    assert {key: found.get(key) for key in expected} == expected
    listed = [member for members, _ in found.values() for member in members]
    assert len(listed) == len(set(listed))


def still_open(node: Node) -> dict[str, tuple[tuple[str, ...], object]]:
    """Members and pattern of every open incident of no drill, by its id."""
    return {
        each.id: (tuple(member["id"] for member in each.detail["members"]), each.detail["pattern"])
        for each in node.incidents()
        if each.detail["state"] == "open" and not each.drill
    }


def test_rows_that_cannot_be_read_are_counted_and_dropped() -> None:
    node = Node()
    rows = {"incidents/open/inc_1": "{", "incidents/open/inc_2": '{"members": []}', "incidents/seen/x": "[1]"}
    node.pipeline.restore(Snapshot(rows, None), boot_id=BOOT, now_us=0)
    assert node.pipeline.counters.state_errors == 3
    assert node.pipeline.take_changes().dropped == set(rows)
