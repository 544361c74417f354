"""What is written down of incidents: little with each line, and all of it together what a restart needs."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.incidents.saved import MEMBER, OPEN, PREFIX
from tests.support.incidents import Node
from tests.support.records import GPU, OTHER_GPU, xid

CODES = (31, 43, 45, 48, 63, 64, 74, 79, 94, 119)
RECOVERED = xid(154, "GPU recovery action changed from 0x2 (Node Reboot Required) to 0x0 (None)")
LINES = st.one_of(
    st.builds(
        lambda code, pid, gpu: xid(code, f"pid={pid}, name=train, Ch 00000008", gpu),
        st.sampled_from(CODES),
        st.integers(7, 9),
        st.sampled_from([GPU, OTHER_GPU]),
    ),
    st.just(RECOVERED),
)


def rows_of(node: Node) -> Mapping[str, str]:
    return {key: text for key, text in node.pipeline.snapshot().faults.items() if key.startswith(PREFIX)}


class Disk:
    """The rows as the journal holds them: what every step wrote, one upon the other."""

    def __init__(self) -> None:
        self.rows: dict[str, str] = {}

    def write(self, node: Node) -> set[str]:
        """Take what one step wrote of incidents and their members; the keys."""
        changes = node.pipeline.take_changes()
        for key in changes.dropped:
            self.rows.pop(key, None)
        news = {key: text for key, text in changes.faults.items() if key.startswith(PREFIX)}
        self.rows |= news
        return {key for key in news if key.startswith((OPEN, MEMBER))}


def many_members() -> Node:
    node = Node()
    for at_s, code in enumerate(CODES):
        node.hear(10 + at_s, xid(code, "pid=7, name=train, Ch 00000008"))
    return node


def members(keys: set[str]) -> set[str]:
    return {key for key in keys if key.startswith(MEMBER)}


def test_a_fault_that_happens_again_writes_its_own_row_and_no_other_member() -> None:
    node, disk = many_members(), Disk()
    before = disk.write(node)
    node.hear(20.5, xid(CODES[-1], "pid=7, name=train, Ch 00000008"))
    again = disk.write(node)
    assert len(members(before)) > 4
    assert len(members(again)) == 1
    assert members(again) < members(before)


def test_an_incident_that_is_not_followed_any_more_leaves_no_row() -> None:
    node, disk = many_members(), Disk()
    disk.write(node)
    assert disk.rows
    node.hear(40, RECOVERED)
    node.wait(4 * 3600)
    disk.write(node)
    assert not [key for key in disk.rows if key.startswith((OPEN, MEMBER))]


def test_a_member_that_others_crowd_out_leaves_no_row() -> None:
    node, disk = Node(), Disk()
    for number in range(60):
        node.hear(10 + 2 * number, xid(79, f"pid={number}, name=train, GPU has fallen off the bus."))
        disk.write(node)
    assert disk.rows == rows_of(node)
    [incident] = [each for each in node.incidents() if each.detail["state"] == "open"]
    listed = {f"{MEMBER}{incident.id}/{member['id']}" for member in incident.detail["members"]}
    assert members(set(disk.rows)) == listed
    assert incident.detail["members_dropped"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.01, 1.0, 20.0, 400.0]), LINES), max_size=40))
def test_what_was_written_step_by_step_is_the_whole_state(lines: list[tuple[float, str]]) -> None:
    node, disk, at_s = Node(), Disk(), 10.0
    for after_s, text in lines:
        at_s += after_s
        node.hear(at_s, text)
        disk.write(node)
        assert disk.rows == rows_of(node)
