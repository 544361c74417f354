"""Tests of the ring: compaction, order, reserve, and the search for items."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from daemon.event import Item
from daemon.filter import EventFilter
from daemon.ring import EXAMINE, Ring
from tests.daemon.stored import event, item


def filled(ring: Ring, *items: Item) -> Ring:
    for one in items:
        ring.add(one)
        ring.trim()
    return ring


def cursors(ring: Ring) -> list[int]:
    return [one.cursor for one in ring]


def test_an_event_is_held_once_at_its_newest_cursor() -> None:
    ring = filled(Ring(10), item(1, 7), item(2, 8), item(3, 7, revision=2))
    assert [(one.cursor, one.event.revision) for one in ring] == [(2, 1), (3, 2)]
    assert (len(ring), ring.oldest, ring.newest) == (2, 2, 3)


def test_an_empty_ring_has_no_cursors() -> None:
    ring = Ring(10)
    assert (ring.oldest, ring.newest, len(ring)) == (0, 0, 0)
    assert ring.after(0, 10).examined == 0


def test_the_oldest_is_evicted_beyond_the_size() -> None:
    ring = filled(Ring(40), *(item(cursor) for cursor in range(1, 101)))
    assert cursors(ring) == list(range(61, 101))
    assert ring.complete_after == 60


def test_a_storm_on_one_device_leaves_the_last_items_of_the_others() -> None:
    ring = Ring(100)
    for cursor in range(1, 51):
        ring.add(item(cursor, device=1))
    for cursor in range(51, 5001):
        ring.add(item(cursor, device=2))
        ring.trim()
    assert [one.cursor for one in ring if one.event == event(one.cursor, device=1)] == list(range(19, 51))
    assert len(ring) == 100


def test_devices_that_share_a_reserve_count_as_one() -> None:
    ring = Ring(10, lambda _: "unknown devices")
    for cursor in range(1, 201):
        ring.add(item(cursor, device=cursor % 200))
        ring.trim()
    assert len(ring) == 32


def test_a_pinned_item_is_not_evicted_until_its_stored_form_comes() -> None:
    ring = Ring(1, reserve=0)
    ring.add(item(1, stored=False), pinned=True)
    filled(ring, item(2), item(3))
    assert cursors(ring) == [1, 3]
    assert [one.cursor for one in ring.pinned(0, 3)] == [1]
    ring.replace(item(1, stored=True))
    assert ring.pinned_count == 0
    assert next(iter(ring)).stored
    assert [one.cursor for one in ring.trim()] == [1]


def test_a_stored_form_does_not_replace_a_newer_revision() -> None:
    ring = Ring(10)
    ring.add(item(1, 7, stored=False), pinned=True)
    ring.add(item(2, 7, stored=False, revision=2), pinned=True)
    ring.replace(item(1, 7))
    assert [(one.cursor, one.stored) for one in ring] == [(2, False)]


def test_a_rare_filter_is_searched_in_slices() -> None:
    ring = Ring(5000)
    for cursor in range(1, 5001):
        ring.add(item(cursor, code=79 if cursor == 4000 else 31))
    match = EventFilter.parse(code=["79"])
    first = ring.after(0, 10, match)
    assert (first.items, first.examined) == ([], EXAMINE)
    found, since = [], 0
    while since < ring.newest:
        part = ring.after(since, 10, match)
        found += part.items
        since = part.examined
    assert [one.cursor for one in found] == [4000]
    assert ring.before(5000, 10, match).items == found


def test_superseded_revisions_leave_nothing_behind() -> None:
    ring = Ring(100)
    for cursor in range(1, 20_001):
        ring.add(item(cursor, cursor % 7))
    assert len(ring) == 7
    # One look reaches the end, so no more than EXAMINE places are left of 20,000.
    assert ring.after(0, 10).examined == ring.newest


actions = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 30), st.integers(0, 3), st.booleans()),
        st.tuples(st.just("forget"), st.integers(1, 80)),
        st.tuples(st.just("replace"), st.integers(1, 80)),
    ),
    max_size=120,
)


@given(actions=actions, size=st.integers(1, 20), reserve=st.integers(0, 4))
def test_the_ring_behaves_as_a_plain_model(
    actions: list[tuple[str, int, int, bool]], size: int, reserve: int
) -> None:
    """The model: a list of [cursor, event number, device, pinned], evicted by the letter of the rule."""
    ring = Ring(size, reserve=reserve)
    model: list[tuple[int, int, int, bool]] = []
    next_cursor = 1
    for action in actions:
        if action[0] == "add":
            _, number, device, pinned = action
            ring.add(item(next_cursor, number, device=device), pinned=pinned)
            model = [*(row for row in model if row[1] != number), (next_cursor, number, device, pinned)]
            next_cursor += 1
        elif action[0] == "forget":
            ring.forget([action[1]])
            model = [row for row in model if row[0] != action[1]]
        else:
            row = next((row for row in model if row[0] == action[1]), None)
            if row is not None:
                ring.replace(item(row[0], row[1], device=row[2]))
                model = [(*other[:3], False) if other == row else other for other in model]
        ring.trim()
        _trim(model, size, reserve)
        assert cursors(ring) == [row[0] for row in model]
        assert ring.oldest == (model[0][0] if model else 0)
        assert [one.cursor for one in ring.pinned(0, next_cursor)] == [row[0] for row in model if row[3]]
        for since in (0, next_cursor // 2, next_cursor - 1):
            assert [one.cursor for one in ring.after(since, 5).items] == [
                row[0] for row in model if row[0] > since
            ][:5]
            assert [one.cursor for one in ring.before(since, 5).items] == [
                row[0] for row in model if row[0] <= since
            ][-5:]


def _trim(model: list[tuple[int, int, int, bool]], size: int, reserve: int) -> None:
    while sum(not row[3] for row in model) > size:
        of_device = defaultdict(list)
        for row in model:
            if not row[3]:
                of_device[row[2]].append(row)
        free = [row for rows in of_device.values() for row in (rows[:-reserve] if reserve else rows)]
        if not free:
            return
        model.remove(min(free))
