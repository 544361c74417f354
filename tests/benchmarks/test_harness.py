"""How benchmarks judge and tell: percentiles, limits, the second try, the table, the command's exit code."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks.clients import Subscriber
from benchmarks.figure import Figure, Outcome, Plan, Row, Unavailable, median, percentile, run_row
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


def test_more_is_better_where_the_limit_is_the_least_allowed() -> None:
    outcome = run_row(row(6.0, 12.0, at_least=True), plan, lambda: 0.0)
    assert outcome.figures[0].value == 12.0
    assert outcome.held


def test_a_row_that_cannot_be_measured_is_told_with_its_reason_and_misses_nothing() -> None:
    outcome = run_row(row("no /dev/kmsg"), plan, lambda: 0.0)
    assert outcome.held
    assert "not measured: speed (how fast): no /dev/kmsg" in table([outcome])


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
    return lambda row: monkeypatch.setattr(command, "ROWS", (row,))


def test_a_missed_limit_is_exit_code_1_and_stands_in_the_json(
    only_row: Callable[[Row], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only_row(row(30.0, 20.0))
    assert command.main(["--json", str(tmp_path / "figures.json")]) == 1
    written = json.loads((tmp_path / "figures.json").read_text())
    assert written["held"] is False
    assert written["rows"][0]["figures"][0]["held"] is False
    assert {"cpu", "kernel", "python", "load"} <= set(written["machine"])
    assert "NO" in capsys.readouterr().out


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
