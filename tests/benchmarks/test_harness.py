"""How benchmarks judge and tell: percentiles, limits, the second try, the table, the command's exit code."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks.clients import Subscriber
from benchmarks.figure import Absent, Figure, Plan, Unavailable, median, percentile
from benchmarks.outcome import Outcome, Part, Row, run_row
from benchmarks.samples import Samples
from benchmarks.series import Growth, Order, Point, Series
from benchmarks.table import table
from tests.support.daemon import Daemon
from tests.support.kernel_log import FakeKernelLog


def plan() -> Plan:
    return Plan(Path("/nowhere"))


def row(*runs: float | str, at_least: bool = False) -> Row:
    """A row that measures one value after the other against a limit of 10; a text is why it cannot."""
    left = iter(runs)

    def measure(plan: Plan) -> Sequence[Figure]:
        value = next(left)
        if isinstance(value, str):
            raise Unavailable(value)
        return [Figure("speed", value, "ms", must=10, at_least=at_least)]

    return Row("speed", "how fast", measure)


def steep() -> Series:
    """A cost that grows faster than it should."""
    line = [Point(1, 1.0), Point(10, 10.0), Point(100, 100.0)]
    growth = {"work": Growth.of(line, Order.CONSTANT)}
    return Series(
        "sizes", "Work by size", "things", "ms", {"work": line}, growth, "It is so.", missing={"play": "no"}
    )


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [percentile(values, share) for share in (0, 0.2, 0.5, 0.99, 1)] == [1, 1, 3, 5, 5]
    assert median([2.0, 1.0]) == 1.0


def test_a_percentile_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_a_limit_is_held_up_to_and_with_its_own_value() -> None:
    assert [Figure("f", value, "", must=10).held for value in (9, 10, 11)] == [True, True, False]
    assert [Figure("f", value, "", must=10, at_least=True).held for value in (9, 10, 11)] == [
        False,
        True,
        True,
    ]
    assert Figure("f", 99, "").held is None


def test_a_row_that_holds_its_limit_is_measured_once() -> None:
    outcome = run_row(row(7.0), plan, lambda: 0.5)
    assert (outcome.held, outcome.runs, outcome.load) == (True, 1, 0.5)


@pytest.mark.parametrize(("runs", "counts"), [((30.0, 8.0), 8.0), ((20.0, 30.0), 20.0)])
def test_a_row_that_misses_is_measured_again_and_the_better_counts(
    runs: tuple[float, float], counts: float
) -> None:
    outcome = run_row(row(*runs), plan, lambda: 0.0)
    assert outcome.runs == 2
    assert outcome.figures[0].value == counts
    assert outcome.held is (counts <= 10)
    assert "measured twice" in table([outcome])


def test_the_samples_of_both_runs_are_kept() -> None:
    values = iter((30.0, 8.0))

    def measure(plan: Plan) -> Sequence[Part]:
        value = next(values)
        return [Figure("speed", value, "ms", must=10), Samples("speed", "Speed", "ms", {"us": [value]}, {})]

    outcome = run_row(Row("speed", "how fast", measure), plan, lambda: 0.0)
    assert [each.ours for each in outcome.samples] == [{"us": [30.0, 8.0]}]


def test_a_row_that_takes_too_long_to_be_repeated_is_measured_once() -> None:
    outcome = run_row(replace(row(30.0), is_repeated=False), plan, lambda: 0.0)
    assert (outcome.held, outcome.runs) == (False, 1)


def test_a_cost_that_grows_too_fast_is_a_missed_limit_and_told_with_its_growth() -> None:
    outcome = run_row(Row("sizes", "by size", lambda plan: [steep()], is_repeated=False), plan, lambda: 0.0)
    assert not outcome.held
    told = table([outcome])
    assert "sizes: work" in told
    assert "n^1.00" in told
    assert "O(1)" in told
    assert "NO" in told
    assert "not measured: sizes: play: no" in told


def test_a_part_that_cannot_be_measured_is_told_beside_the_others() -> None:
    parts: Sequence[Part] = [Figure("speed", 1, "ms"), Absent("the C loop", "no compiler")]
    told = table([run_row(Row("speed", "how fast", lambda plan: parts), plan, lambda: 0.0)])
    assert "1 ms" in told
    assert "not measured: the C loop: no compiler" in told


def test_more_is_better_where_the_limit_is_the_least_allowed() -> None:
    outcome = run_row(row(6.0, 12.0, at_least=True), plan, lambda: 0.0)
    assert outcome.figures[0].value == 12.0
    assert outcome.held


def test_a_row_that_cannot_be_measured_is_told_with_its_reason_and_misses_nothing() -> None:
    outcome = run_row(row("no /dev/kmsg"), plan, lambda: 0.0)
    assert outcome.held
    assert "not measured: speed (how fast): no /dev/kmsg" in table([outcome])


def test_a_row_that_breaks_off_is_told_and_missed_and_the_next_one_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(plan: Plan) -> Sequence[Part]:
        raise ConnectionResetError("the server ended")

    monkeypatch.setattr(command, "ROWS", (Row("broken", "a broken row", measure), row(7.0)))
    assert command.main([]) == 1
    out = capsys.readouterr().out
    assert "FAILED: broken (a broken row): ConnectionResetError: the server ended" in out
    assert "7 ms" in out


def test_the_table_is_aligned_and_says_which_limit_is_missed() -> None:
    figures = [
        Figure("short", 1.5, "x", must=2, reach=1, beside="a baseline"),
        Figure("a longer name", 1234567.0, "/s", must=2_000_000, at_least=True),
    ]
    head, rule, first, beside, second = table([Outcome("r", "row", figures)]).splitlines()
    assert beside == "    a baseline"
    assert head.index("held") == rule.rindex(" ") + 1 == first.index("yes") == second.index("NO")
    assert "≤ 2 x" in first
    assert "1,234,567 /s" in second


@pytest.fixture
def only_row(monkeypatch: pytest.MonkeyPatch) -> Callable[[Row], None]:
    """Makes a row the only one that there is."""

    def make(row: Row) -> None:
        monkeypatch.setattr(command, "ROWS", (row,))
        monkeypatch.setattr(command, "SCALING", ())

    return make


def test_a_missed_limit_is_exit_code_1_and_stands_in_the_json(
    only_row: Callable[[Row], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only_row(row(30.0, 20.0))
    assert command.main(["--json", str(tmp_path / "figures.json")]) == 1
    written = json.loads((tmp_path / "figures.json").read_text())
    assert written["held"] is False
    assert written["rows"][0]["figures"][0]["held"] is False
    assert {"cpu", "kernel", "python", "packages", "code", "load"} <= set(written["machine"])
    assert "NO" in capsys.readouterr().out


def test_a_run_that_is_broken_off_leaves_the_rows_that_it_had(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def measure(plan: Plan) -> Sequence[Part]:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "ROWS", (row(7.0), Row("long", "a long row", measure)))
    with pytest.raises(KeyboardInterrupt):
        command.main(["--results", str(tmp_path / "kept")])
    left = json.loads((tmp_path / "kept" / "figures.json").read_text())
    assert [each["row"] for each in left["rows"]] == ["speed"]


def test_only_a_full_run_of_all_rows_takes_the_place_of_the_kept_results(
    only_row: Callable[[Row], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    for words, kept in (([], 0), (["--full", "speed"], 0), (["--full"], 1)):
        only_row(row(7.0))
        assert command.main(words) == 0
        assert len(list(tmp_path.glob("*/figures.json"))) == kept


def test_a_quick_run_judges_nothing(only_row: Callable[[Row], None]) -> None:
    only_row(row(30.0))
    assert command.main(["--quick"]) == 0


def test_an_unknown_row_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["nonsense"])
    assert ended.value.code == 2
    assert "latency" in capsys.readouterr().err


def test_the_bare_subscriber_sees_what_the_daemon_sends(
    running_daemon: Daemon, kernel_log: FakeKernelLog
) -> None:
    subscriber = Subscriber(running_daemon.port)
    subscriber.wait_for_hello()
    kernel_log.write("NVRM: Xid (PCI:0000:91:00): 43, pid=458, name=python3, Ch 00000008")
    frames: list[dict[str, object]] = []
    while not frames:
        subscriber.receive()
        frames = subscriber.frames()
    subscriber.close()
    assert [frame["code"] for frame in frames] == [43]
