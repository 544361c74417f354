"""What is saved of lines that the log has not shown yet: only when it changed."""

from __future__ import annotations

from daemon.ahead import MOST, STATE_KEY, Ahead, Led, SavedAhead, load
from probes.line import KernelLine, Origin
from tests.support.records import record, xid


def ahead(n: int) -> Ahead:
    line = record(xid(31, f"pid={n}, name=x"), 1_000_000 + n, origin=Origin.UNKNOWN, probe="bpf")
    return Ahead(line, 1_031_000 + n, 4_000)


class Lines:
    """Lines, the last one first, and what each led to."""

    def __init__(self) -> None:
        self.all: list[Ahead] = []
        self.led: dict[KernelLine, Led] = {}
        self.saved = SavedAhead(lambda: self.all, self.led.get)


def test_nothing_is_written_where_there_is_nothing() -> None:
    assert Lines().saved.take_changes() == ({}, frozenset())
    assert Lines().saved.snapshot() == {}


def test_a_change_is_written_once() -> None:
    lines = Lines()
    lines.all.insert(0, ahead(1))
    row, over = lines.saved.take_changes()
    assert (list(row), over) == ([STATE_KEY], frozenset())
    assert lines.saved.take_changes() == ({}, frozenset())
    assert lines.saved.snapshot() == row


def test_what_a_line_led_to_is_a_change_and_so_is_that_it_was_proved() -> None:
    lines = Lines()
    lines.all.insert(0, ahead(1))
    lines.saved.take_changes()
    for led in (Led("ev_1", is_proved=False), Led("ev_1", is_proved=True)):
        lines.led[lines.all[0].line] = led
        row, _ = lines.saved.take_changes()
        [(_, saved)] = load(row[STATE_KEY])
        assert saved == led


def test_the_row_goes_when_the_last_line_does() -> None:
    lines = Lines()
    lines.all.insert(0, ahead(1))
    lines.saved.take_changes()
    lines.all.clear()
    assert lines.saved.take_changes() == ({}, frozenset({STATE_KEY}))
    assert lines.saved.take_changes() == ({}, frozenset())


def test_the_row_of_an_earlier_process_goes_too_where_nothing_took_its_place() -> None:
    lines = Lines()
    lines.saved.restored("[]")
    assert lines.saved.take_changes() == ({}, frozenset({STATE_KEY}))


def test_of_too_many_the_last_ones_are_saved_the_first_one_first() -> None:
    lines = Lines()
    lines.all = [ahead(n) for n in reversed(range(MOST + 10))]
    found = [each.stamp_us for each, _ in load(lines.saved.snapshot()[STATE_KEY])]
    assert found == [1_031_000 + n for n in range(10, MOST + 10)]


def test_lines_that_stay_are_saved_beside_one_that_comes_and_one_that_changes() -> None:
    lines = Lines()
    for n in range(3):
        lines.all.insert(0, ahead(n))
        lines.led[lines.all[-1].line] = Led(f"ev_{n}", is_proved=False)  # the first one leads elsewhere
        saved = load(lines.saved.snapshot()[STATE_KEY])
        assert [each.stamp_us for each, _ in saved] == [each.stamp_us for each in reversed(lines.all)]
        assert [led for _, led in saved] == [lines.led.get(each.line) for each in reversed(lines.all)]
